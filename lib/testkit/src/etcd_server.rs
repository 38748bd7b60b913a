//! An etcd of a test's own: on ports of its own, in a folder of its own, killed with the test.

use crate::certificates::Certificates;
use crate::site::Site;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to serve: a slow disk's fsyncs, many times over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers that are tried when another process takes a port between its choice and its use.
const TRIES: u32 = 10;

/// Said once per start by a server that serves.
const READY: &str = "ready to serve client requests";

/// A server, or the place where one was.
#[derive(Debug)]
pub struct EtcdServer {
    folder: tempfile::TempDir,
    site: Site,
    port: u16,
    peer_port: u16,
    /// More arguments.
    arguments: Vec<String>,
    scheme: &'static str,
    child: Option<Child>,
    starts: u32,
}

// === impl EtcdServer ===

impl EtcdServer {
    /// A server that asks nobody for anything.
    pub fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// A server that speaks TLS with these certificates, and lets in only who has one of them.
    pub fn start_tls(certificates: &Certificates) -> Self {
        let arguments = [
            format!("--cert-file={}", certificates.file("server.pem")),
            format!("--key-file={}", certificates.file("server.key")),
            format!("--trusted-ca-file={}", certificates.file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ];
        Self::start_with("https", &arguments)
    }

    /// A server with more arguments.
    pub fn start_with(scheme: &'static str, arguments: &[String]) -> Self {
        Self::start_at(&Site::local(), scheme, arguments)
    }

    /// A server somewhere else.
    pub fn start_at(site: &Site, scheme: &'static str, arguments: &[String]) -> Self {
        for _ in 0..TRIES {
            let mut server = Self {
                folder: tempfile::tempdir().unwrap(),
                site: site.clone(),
                port: free_port(),
                peer_port: free_port(),
                arguments: arguments.to_vec(),
                scheme,
                child: None,
                starts: 0,
            };
            if server.try_to_run() {
                return server;
            }
        }
        panic!("etcd did not start {TRIES} times");
    }

    /// Where it listens, for `--etcd-endpoints`.
    pub fn endpoint(&self) -> String {
        format!("{}://{}:{}", self.scheme, self.site.host(), self.port)
    }

    /// Kills it: what a power cut does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Freezes it: its connections stay open and nobody answers.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Takes away everything that it stored.
    pub fn forget(&self) {
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// Starts it again where it was.
    pub fn restart(&mut self) {
        let mut started = false;
        for _ in 0..TRIES {
            started = started || self.try_to_run();
        }
        assert!(started, "etcd did not start again: {}", self.log());
    }

    /// Runs etcd's own command line against it.
    pub fn ctl(&self, words: &[&str]) -> String {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.endpoint())
            .args(words)
            .output()
            .unwrap_or_else(|error| panic!("etcdctl: {error}; apt-get install etcd-client"));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words:?}: {text}{error}");
        text
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }

    /// Whether it serves; not, if it ended by itself.
    fn try_to_run(&mut self) -> bool {
        let log = self.folder.path().join("log");
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut child = self.command().stderr(log).spawn().unwrap_or_else(|error| {
            panic!("cannot start etcd: {error}; apt-get install etcd-server")
        });
        let deadline = Instant::now() + PATIENCE;
        while self.log().matches(READY).count() <= self.starts as usize {
            if let Some(status) = child.try_wait().unwrap() {
                let log = self.log();
                assert_ne!(
                    status.code(),
                    Some(127),
                    "{log}; apt-get install etcd-server"
                );
                return false;
            }
            assert!(Instant::now() < deadline, "etcd hangs: {}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        self.starts += 1;
        self.child = Some(child);
        true
    }

    fn command(&self) -> Command {
        let client = self.endpoint();
        let peer = format!("http://{}:{}", self.site.host(), self.peer_port);
        let mut command = self.site.command("etcd");
        command
            .args(["--name", "default"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            // Alone, it need not wait for others to vote; and it takes leases of one second.
            .args(["--heartbeat-interval", "50", "--election-timeout", "250"])
            .args(&self.arguments)
            .stdout(Stdio::null());
        command
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nobody listens on, below those that the system hands out by itself: nobody's
/// outgoing connection takes it while its server is away.
pub fn free_port() -> u16 {
    use std::hash::BuildHasher;
    let random = std::hash::RandomState::new();
    let mut candidates = (0_u32..).map(|n| 20_000 + (random.hash_one(n) % 12_000) as u16);
    candidates
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}
