//! Starts the binary in a folder of the test's own, asks it over HTTP, and ends it. Every wait has
//! a bound, and no process outlives its test.

use crate::http::{Answer, ask};
use crate::site::{PATH, Site};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for anything: far above what it takes, far below what a person waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder that the processes of one test share: discovery, caches, logs.
#[derive(Debug)]
pub struct Place {
    folder: tempfile::TempDir,
}

/// A process of the binary. Killed when dropped.
#[derive(Debug)]
pub struct Dynamo {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// The first line it printed: what it serves.
    pub address: String,
}

/// A process that came to its end.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it logged.
    pub stderr: String,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A fresh folder.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file; gives back its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The binary with these words, and of the environment only what keeps it in this folder.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.args(words).stdin(Stdio::null());
        self.keep(&mut command);
        command
    }

    /// The same somewhere else, and ended by the kernel with the thread that started it.
    pub fn command_at(&self, site: &Site, words: &[&str]) -> Command {
        let mut command = site.command(binary().to_str().unwrap());
        command.args(words);
        self.keep(&mut command);
        command
    }

    fn keep(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", PATH)
            .env("DYN_FILE_KV", self.path("discovery"))
            .env("DYN_ARTEFACT_CACHE", self.path("artefacts"))
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path());
    }

    /// Starts a command whose output goes to files called `name`.
    pub fn spawn(&self, name: &str, mut command: Command) -> Dynamo {
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
    pub fn serve(&self, name: &str, command: Command) -> Dynamo {
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
    pub fn start(&self, name: &str, words: &[&str]) -> Dynamo {
        self.serve(name, self.command(words))
    }

    /// Runs the binary to its end.
    pub fn run(&self, words: &[&str]) -> Ended {
        self.spawn("run", self.command(words)).wait()
    }
}

impl Dynamo {
    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        read(&self.stderr)
    }

    /// What it printed so far.
    pub fn printed(&self) -> String {
        read(&self.stdout)
    }

    /// Whether it has come to its end.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until its log has this.
    pub fn await_log(&self, text: &str) {
        until(&format!("the log has: {text}"), || {
            self.log().contains(text)
        });
    }

    /// Waits for it to end.
    pub fn wait(&mut self) -> Ended {
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

    /// Asks it.
    pub fn get(&self, path: &str) -> Answer {
        ask(&self.address, ("GET", path), &[], "").unwrap()
    }

    /// Sends it JSON.
    pub fn post(&self, path: &str, body: &str) -> Answer {
        ask(&self.address, ("POST", path), &[], body).unwrap()
    }

    /// The address of its status server, as logged.
    pub fn status_address(&self) -> String {
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
    pub fn requests_taken(&self) -> u64 {
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
    pub fn models(&self) -> Vec<String> {
        let listed = self.get("/v1/models").json();
        let listed = listed["data"].as_array().unwrap().iter();
        listed
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the models listed are these.
    pub fn await_models(&self, names: &[&str]) {
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

/// The binary that was built beside the program that runs, which is a test (`PROFILE/deps/it-...`)
/// or a tool (`PROFILE/...`).
fn binary() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let mut folders = own.ancestors().skip(1).take(2);
    let found = folders.find_map(|folder| {
        let binary = folder.join("dynamo");
        binary.is_file().then_some(binary)
    });
    found.unwrap_or_else(|| panic!("no dynamo beside {}: run make build", own.display()))
}

/// Looks again and again until it is so.
///
/// # Panics
///
/// After half a minute.
pub fn until(what: &str, is_so: impl FnMut() -> bool) {
    until_within(PATIENCE, what, is_so);
}

/// The same with a patience of its own.
///
/// # Panics
///
/// When that is over.
pub fn until_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + patience;
    while !is_so() {
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
