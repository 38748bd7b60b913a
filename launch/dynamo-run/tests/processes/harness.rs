//! Starts the binary, talks HTTP to it over plain sockets, and ends it. Every wait has a bound.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything: far above what it takes, far below what a person waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that the processes of one test share.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// A running process of the binary. Killed when dropped.
pub(crate) struct Dynamo {
    child: Child,
    log: PathBuf,
    /// The first line it printed: the address that it serves.
    pub(crate) address: String,
}

/// An HTTP answer as it comes in.
pub(crate) struct Answer {
    pub(crate) status: u16,
    reader: BufReader<TcpStream>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The binary with these words, in a clean environment.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynamo"));
        command
            .args(words)
            .env_clear()
            .env("DYN_FILE_KV", self.path().join("discovery"))
            .env("DYN_ARTEFACT_CACHE", self.path().join("artefacts"))
            .env("HOME", self.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts the binary and waits until it serves.
    pub(crate) fn start(&self, name: &str, words: &[&str]) -> Dynamo {
        let log = self.path().join(format!("{name}.log"));
        let mut child = self
            .command(words)
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut address = String::new();
        // The process prints a line or ends; either way this returns.
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut address).unwrap();
        let log_text = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(!address.is_empty(), "{name} did not start: {log_text}");
        Dynamo {
            child,
            log,
            address: address.trim().to_owned(),
        }
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, words: &[&str]) -> (ExitStatus, String, String) {
        let output = self.command(words).output().unwrap();
        (
            output.status,
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

impl Dynamo {
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits for the process to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let mut answer = request(&self.address, "GET", path, "");
        (answer.status, answer.rest())
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        request(&self.address, "POST", path, body)
    }

    /// Waits until the models listed are these.
    pub(crate) fn await_models(&self, names: &[&str]) {
        until("the models are listed", || {
            let listed: serde_json::Value =
                serde_json::from_str(&self.get("/v1/models").1).unwrap();
            let listed = listed["data"].as_array().unwrap();
            let listed: Vec<_> = listed
                .iter()
                .map(|model| model["id"].as_str().unwrap())
                .collect();
            listed == names
        });
    }
}

impl Drop for Dynamo {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Answer {
    /// The data of the next server-sent event; `None` at the end of the stream.
    pub(crate) fn event(&mut self) -> Option<String> {
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(data) = line.trim_end().strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    /// Everything that is left.
    pub(crate) fn rest(&mut self) -> String {
        let mut text = String::new();
        // A server that was killed cuts the connection: what came before counts.
        drop(self.reader.read_to_string(&mut text));
        text
    }
}

/// Looks again and again until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn request(url: &str, method: &str, path: &str, body: &str) -> Answer {
    let host = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // HTTP/1.0: the body ends with the connection and is not chunked.
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap().parse().unwrap();
    while line.trim_end() != "" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    Answer { status, reader }
}
