//! A `nats-server` of a test's own: on a port of its own, in a folder of its own, killed with the
//! test.

use crate::process::until;
use crate::site::Site;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server, or the place where one was.
#[derive(Debug)]
pub struct NatsServer {
    folder: tempfile::TempDir,
    site: Site,
    port: u16,
    child: Child,
}

impl NatsServer {
    /// A server without any settings.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// A server with these settings, as its configuration file has them.
    pub fn start_with(settings: &str) -> Self {
        Self::start_at(&Site::local(), settings)
    }

    /// A server somewhere else.
    pub fn start_at(site: &Site, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("nats.conf"), settings).unwrap();
        let mut child = spawn(folder.path(), site, -1);
        let mut port = None;
        // The server writes the port that it took into a file of this folder.
        until("nats-server says where it listens", || {
            let status = child.try_wait().unwrap();
            assert!(status.is_none(), "nats-server ended at start: {status:?}");
            port = read_port(folder.path());
            port.is_some()
        });
        let server = Self {
            folder,
            site: site.clone(),
            port: port.unwrap(),
            child,
        };
        server.until_it_listens();
        server
    }

    /// A server that is not there, and comes with [`NatsServer::restart`].
    pub fn start_killed() -> Self {
        let mut server = Self::start();
        server.kill();
        server
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        format!("{}:{}", self.site.host(), self.port)
    }

    /// Where it listens, for `--nats-server`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// kill -9.
    pub fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.folder.path(), &self.site, i32::from(self.port));
        self.until_it_listens();
    }

    /// SIGSTOP: its connections stay open and nobody answers.
    pub fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    fn until_it_listens(&self) {
        until("nats-server listens", || {
            TcpStream::connect(self.address()).is_ok()
        });
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, site: &Site, port: i32) -> Child {
    let missing = "nats-server or setpriv is not installed; on Debian: apt-get install nats-server util-linux";
    let found = Command::new("nats-server").arg("--version").output();
    assert!(found.is_ok_and(|found| found.status.success()), "{missing}");
    site.command("nats-server")
        .args(["-a", site.host(), "-p", &port.to_string()])
        .arg("-c")
        .arg(folder.join("nats.conf"))
        .arg("--ports_file_dir")
        .arg(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect(missing)
}

/// The port out of `{"nats":["nats://127.0.0.1:4222"],...}`.
fn read_port(folder: &Path) -> Option<u16> {
    let files = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let file = files
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|it| it == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
    let url = ports["nats"][0].as_str()?;
    url.rsplit_once(':')?.1.parse().ok()
}
