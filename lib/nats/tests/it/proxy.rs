//! A way to the server that one process of a test takes, and that can be frozen or cut: to the
//! server and to the peers it is as if the process were.

use dynamo_runtime::Tasks;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Traffic {
    Flows,
    Stands,
    Ended,
}

#[derive(Debug)]
pub(crate) struct Proxy {
    address: String,
    traffic: Arc<watch::Sender<Traffic>>,
}

impl Proxy {
    pub(crate) async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let traffic = Arc::new(watch::Sender::new(Traffic::Flows));
        let switch = Arc::clone(&traffic);
        let tasks = Tasks::root();
        let below = tasks.child();
        tasks.spawn("proxy", async move {
            while let Ok((near, _)) = listener.accept().await {
                if *switch.borrow() == Traffic::Ended {
                    return;
                }
                let Ok(far) = TcpStream::connect(&server).await else {
                    continue;
                };
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                below.spawn("there", copy(near_read, far_write, switch.subscribe()));
                below.spawn("back", copy(far_read, near_write, switch.subscribe()));
            }
        });
        Self { address, traffic }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut traffic: watch::Receiver<Traffic>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let mut ended = traffic.clone();
        let read = tokio::select! {
            biased;
            _ = ended.wait_for(|traffic| *traffic == Traffic::Ended) => return,
            read = from.read(&mut buffer) => read,
        };
        let Ok(count @ 1..) = read else { return };
        let flows = traffic.wait_for(|traffic| *traffic != Traffic::Stands);
        if flows.await.is_err() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
