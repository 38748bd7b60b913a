//! A `nats-server` of a test's own. It is killed with the test that started it, even if that is
//! killed itself.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Nothing in a healthy run takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(10);

pub(crate) struct NatsServer {
    folder: tempfile::TempDir,
    port: u16,
    child: Child,
}

impl NatsServer {
    /// A server without any settings.
    pub(crate) async fn start() -> Self {
        Self::start_with("").await
    }

    /// A server with these settings, as its configuration file has them.
    pub(crate) async fn start_with(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("nats.conf"), settings).unwrap();
        let mut child = spawn(folder.path(), -1);
        // The server writes the port that it took into a file of this folder.
        let port = timeout(PATIENCE, async {
            loop {
                if let Some(port) = read_port(folder.path()) {
                    return port;
                }
                let status = child.try_wait().unwrap();
                assert!(status.is_none(), "nats-server ended at start: {status:?}");
                sleep(POLL).await;
            }
        });
        let port = port.await.expect("nats-server says where it listens");
        let server = Self {
            folder,
            port,
            child,
        };
        server.until_it_listens().await;
        server
    }

    /// A server that is not there, and comes with [`NatsServer::restart`].
    pub(crate) async fn start_killed() -> Self {
        let mut server = Self::start().await;
        server.kill();
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Starts again on the same port.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.folder.path(), i32::from(self.port));
        self.until_it_listens().await;
    }

    pub(crate) fn freeze(&self) {
        kill_process(Pid::from_child(&self.child), Signal::STOP).unwrap();
    }

    pub(crate) fn thaw(&self) {
        kill_process(Pid::from_child(&self.child), Signal::CONT).unwrap();
    }

    async fn until_it_listens(&self) {
        let listens = async {
            while TcpStream::connect(self.address()).await.is_err() {
                sleep(POLL).await;
            }
        };
        timeout(PATIENCE, listens).await.expect("it listens");
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, port: i32) -> Child {
    let missing = "nats-server or setpriv is not installed; on Debian: apt-get install nats-server util-linux";
    let found = Command::new("nats-server").arg("--version").output();
    assert!(found.is_ok_and(|found| found.status.success()), "{missing}");
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "nats-server", "-a", "127.0.0.1"])
        .args(["-p", &port.to_string()])
        .arg("-c")
        .arg(folder.join("nats.conf"))
        .arg("--ports_file_dir")
        .arg(folder)
        .stdin(Stdio::null())
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
