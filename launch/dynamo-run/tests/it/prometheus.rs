//! A Prometheus of a test's own: on a port of its own, in a folder of its own, killed with the test;
//! and what `promtool` says.

use crate::http::ask;
use crate::process::Place;
use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to be ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers that are tried when another process takes a port between its choice and its use.
const TRIES: u32 = 10;

const INSTALL: &str = "is not installed; on Debian: apt-get install prometheus util-linux";

pub(crate) struct Prometheus {
    address: String,
    child: Child,
}

impl Prometheus {
    /// Starts a server with this configuration.
    pub(crate) fn start(place: &Place, config: &str) -> Self {
        let config = place.write("prometheus.yml", config);
        for attempt in 0..TRIES {
            let data = place.path(&format!("prometheus-{attempt}"));
            let port = free_port();
            let mut server = Self {
                address: format!("127.0.0.1:{port}"),
                child: spawn(&config, &data, port),
            };
            if server.is_ready() {
                return server;
            }
        }
        panic!("prometheus did not start {TRIES} times");
    }

    /// Whether it serves, before it ends.
    fn is_ready(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && self.child.try_wait().unwrap().is_none() {
            let answer = ask(&self.address, ("GET", "/-/ready"), &[], "");
            if answer.is_ok_and(|it| it.status == 200) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// What a query gives over the last minute: the series, each with its values. Prometheus'
    /// own message if it does not take the query.
    pub(crate) fn range(&self, query: &str) -> Result<Vec<Vec<f64>>, String> {
        let now = std::time::SystemTime::now();
        let now = now.duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = now.as_secs_f64();
        let path = format!(
            "/api/v1/query_range?query={}&start={}&end={now}&step=1",
            encode(query),
            now - 60.0
        );
        let answer = ask(&self.address, ("GET", &path), &[], "").unwrap().json();
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let series = answer["data"]["result"].as_array().unwrap().iter();
        let values = |it: &serde_json::Value| -> Vec<f64> {
            let values = it["values"].as_array().unwrap().iter();
            let values = values.map(|pair| pair[1].as_str().unwrap());
            values.map(|value| value.parse().unwrap()).collect()
        };
        Ok(series.map(values).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Killed with the test that started it, even if that is killed itself.
fn spawn(config: &str, data: &Path, port: u16) -> Child {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "prometheus"])
        .arg(format!("--config.file={config}"))
        .arg(format!("--storage.tsdb.path={}", data.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let child = command.spawn();
    child.unwrap_or_else(|_| panic!("prometheus {INSTALL}"))
}

/// Whether `promtool` likes it, and what it says. It reads `input`.
pub(crate) fn promtool(words: &[&str], input: &str) -> (bool, String) {
    let child = Command::new("promtool")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|_| panic!("promtool {INSTALL}"));
    // What it prints is little: it reads to the end before it says anything.
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    (output.status.success(), said)
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn encode(text: &str) -> String {
    let bytes = text.bytes();
    bytes
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' | b'.' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
