//! An etcd of a test's own: on ports of its own, in a folder of its own, killed with the test.
//! Shared with the tests of the binary, which include this file.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to serve: a slow disk's fsyncs, many times over.
const PATIENCE: Duration = Duration::from_secs(30);

/// Servers that are tried when another process takes a port between its choice and its use.
const TRIES: u32 = 10;

/// Said once per start by a server that serves.
const READY: &str = "ready to serve client requests";

/// A server, or the place where one was.
pub(crate) struct EtcdServer {
    folder: tempfile::TempDir,
    port: u16,
    peer_port: u16,
    /// More arguments.
    arguments: Vec<String>,
    scheme: &'static str,
    child: Option<Child>,
    starts: u32,
}

/// Certificates that a server and its clients trust, made by the test.
pub(crate) struct Certificates {
    folder: tempfile::TempDir,
}

// === impl EtcdServer ===

impl EtcdServer {
    /// A server that asks nobody for anything.
    pub(crate) fn start() -> Self {
        Self::start_with("http", &[])
    }

    /// A server that speaks TLS with these certificates, and lets in only who has one of them.
    pub(crate) fn start_tls(certificates: &Certificates) -> Self {
        let arguments = [
            format!("--cert-file={}", certificates.file("server.pem")),
            format!("--key-file={}", certificates.file("server.key")),
            format!("--trusted-ca-file={}", certificates.file("ca.pem")),
            "--client-cert-auth".to_owned(),
        ];
        Self::start_with("https", &arguments)
    }

    /// A server with more arguments.
    pub(crate) fn start_with(scheme: &'static str, arguments: &[String]) -> Self {
        for _ in 0..TRIES {
            let mut server = Self {
                folder: tempfile::tempdir().unwrap(),
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
    pub(crate) fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Kills it: what a power cut does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Freezes it: its connections stay open and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Takes away everything that it stored.
    pub(crate) fn forget(&self) {
        fs::remove_dir_all(self.data()).unwrap();
    }

    /// Starts it again where it was.
    pub(crate) fn restart(&mut self) {
        let mut started = false;
        for _ in 0..TRIES {
            started = started || self.try_to_run();
        }
        assert!(started, "etcd did not start again: {}", self.log());
    }

    /// Runs etcd's own command line against it.
    pub(crate) fn ctl(&self, words: &[&str]) -> String {
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

    /// The kernel ends it with the thread that started it, so that it never outlives a test.
    fn command(&self) -> Command {
        let client = self.endpoint();
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "etcd", "--name", "default"])
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
            .stdin(Stdio::null())
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
fn free_port() -> u16 {
    use std::hash::BuildHasher;
    let random = std::hash::RandomState::new();
    let mut candidates = (0_u32..).map(|n| 20_000 + (random.hash_one(n) % 12_000) as u16);
    candidates
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .unwrap()
}

// === impl Certificates ===

impl Certificates {
    /// An authority, a server's certificate for this machine, a client's.
    pub(crate) fn make() -> Self {
        let certificates = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        certificates.authority("ca");
        certificates.signed("server", "subjectAltName=IP:127.0.0.1,DNS:localhost");
        certificates.signed("client", "extendedKeyUsage=clientAuth");
        certificates
    }

    /// Another authority, which signed nothing here.
    pub(crate) fn authority(&self, name: &str) {
        self.openssl(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -subj /CN={name} -keyout {name}.key -out {name}.pem"
        ));
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn signed(&self, name: &str, extension: &str) {
        let extensions = format!("basicConstraints=CA:FALSE\n{extension}\n");
        fs::write(self.path("extensions"), extensions).unwrap();
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN={name} \
             -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile extensions -out {name}.pem"
        ));
    }

    fn openssl(&self, words: &str) {
        let output = run_in(self.folder.path(), "openssl", words);
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}

fn run_in(folder: &Path, program: &str, words: &str) -> std::process::Output {
    Command::new(program)
        .args(words.split_whitespace())
        .current_dir(folder)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; apt-get install {program}"))
}
