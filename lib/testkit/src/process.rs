//! Starts the binary in a folder of the test's own, asks it over HTTP, and ends it. Every wait has
//! a bound, and no process outlives its test.

use crate::http::{Answer, ask};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything: far above what it takes, far below what a person waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that the processes of one test share: discovery, caches, logs.
pub(crate) struct Place {
    folder: tempfile::TempDir,
}

/// A process of the binary. Killed when dropped.
pub(crate) struct Dynamo {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// The first line it printed: what it serves.
    pub(crate) address: String,
}

/// A process that came to its end.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file; gives back its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The binary with these words, and of the environment only what keeps it in this folder.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dynamo"));
        command
            .args(words)
            .env_clear()
            .env("DYN_FILE_KV", self.path("discovery"))
            .env("DYN_ARTEFACT_CACHE", self.path("artefacts"))
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts a command whose output goes to files called `name`.
    pub(crate) fn spawn(&self, name: &str, mut command: Command) -> Dynamo {
        let (stdout, stderr) = (
            self.path(&format!("{name}.out")),
            self.path(&format!("{name}.log")),
        );
        let child = command
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(&stderr).unwrap())
            .spawn()
            .unwrap();
        Dynamo {
            child,
            stdout,
            stderr,
            address: String::new(),
        }
    }

    /// Starts a command and waits until it says what it serves.
    pub(crate) fn serve(&self, name: &str, command: Command) -> Dynamo {
        let mut process = self.spawn(name, command);
        until(&format!("{name} serves"), || {
            let printed = read(&process.stdout);
            if let Some((first, _)) = printed.split_once('\n') {
                first.clone_into(&mut process.address);
                return true;
            }
            let ended = process.child.try_wait().unwrap();
            assert!(
                ended.is_none(),
                "{name} did not start: {}",
                read(&process.stderr)
            );
            false
        });
        process
    }

    /// Starts the binary with these words and waits until it says what it serves.
    pub(crate) fn start(&self, name: &str, words: &[&str]) -> Dynamo {
        self.serve(name, self.command(words))
    }

    /// Runs the binary to its end.
    pub(crate) fn run(&self, words: &[&str]) -> Ended {
        self.spawn("run", self.command(words)).wait()
    }
}

impl Dynamo {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until its log has this.
    pub(crate) fn await_log(&self, text: &str) {
        until(&format!("the log has: {text}"), || {
            self.log().contains(text)
        });
    }

    /// Waits for it to end.
    pub(crate) fn wait(&mut self) -> Ended {
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        Ended {
            code: status.unwrap().code(),
            stdout: read(&self.stdout),
            stderr: read(&self.stderr),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        ask(&self.address, ("GET", path), &[], "").unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        ask(&self.address, ("POST", path), &[], body).unwrap()
    }

    /// The address of its status server, as logged.
    pub(crate) fn status_address(&self) -> String {
        const SAID: &str = "status server listens";
        self.await_log(SAID);
        let log = self.log();
        let line = log.lines().find(|line| line.contains(SAID)).unwrap();
        let start = line.find("127.0.0.1:").unwrap();
        let rest = &line[start..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        rest[..end.unwrap_or(rest.len())].to_owned()
    }

    /// Requests that this worker's endpoint took, by its status server.
    pub(crate) fn requests_taken(&self) -> u64 {
        let metrics = ask(&self.status_address(), ("GET", "/metrics"), &[], "").unwrap();
        let metrics = metrics.text();
        let line = metrics.lines().find(|line| {
            line.starts_with("dynamo_component_requests_total{")
                && line.contains("dynamo_endpoint=\"generate\"")
        });
        let line = line.unwrap_or_else(|| panic!("the worker does not count: {metrics}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// The names it lists.
    pub(crate) fn models(&self) -> Vec<String> {
        let listed = self.get("/v1/models").json();
        let listed = listed["data"].as_array().unwrap().iter();
        listed
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the models listed are these.
    pub(crate) fn await_models(&self, names: &[&str]) {
        until(&format!("the models are {names:?}"), || {
            self.models() == names
        });
    }
}

impl Drop for Dynamo {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Looks again and again until it is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
