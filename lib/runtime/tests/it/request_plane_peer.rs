//! A peer that puts its bytes together by hand: to say what a correct one never would, and to
//! say today what one of an earlier version said.

use bytes::{Buf, BytesMut};
use dynamo_protocols::RequestError;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::request_plane::frame::{self, Frame, Hello, MAX_FRAME_BYTES};
use dynamo_runtime::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, Registration, RequestPlane, TcpPlane,
    TcpPlaneOptions,
};
use dynamo_runtime::{Environment, Tasks};
use futures_util::future::BoxFuture;
use futures_util::stream;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing in a healthy run takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection without manners.
pub(crate) struct RawPeer {
    connection: TcpStream,
    buffer: BytesMut,
}

/// A process that serves the endpoint of the recorded calls.
pub(crate) struct Server {
    pub(crate) plane: TcpPlane,
    tasks: Tasks,
    _registration: Registration,
}

/// Gives the body back in three items, of 1, 2 and 0 positions.
#[derive(Debug)]
struct Echo;

impl Handler for Echo {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let payload = request.body;
        let items = [1, 2, 0].map(|positions| {
            Ok(Item {
                positions,
                payload: payload.clone(),
            })
        });
        Box::pin(async move { Ok(Box::pin(stream::iter(items)) as ItemStream) })
    }
}

pub(crate) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("in time")
}

impl Server {
    pub(crate) async fn start(options: &TcpPlaneOptions) -> Self {
        let tasks = Tasks::root();
        let plane = TcpPlane::bind(Environment::system(), tasks.child(), options).await;
        let plane = plane.unwrap();
        let endpoint = EndpointId::new("ns", "recorded", "echo").unwrap();
        let registration = plane.handlers().register(endpoint, Arc::new(Echo));
        Self {
            plane,
            tasks,
            _registration: registration.unwrap(),
        }
    }

    pub(crate) async fn connect(&self) -> RawPeer {
        let address = self.plane.address().strip_prefix("tcp://").unwrap();
        RawPeer::new(TcpStream::connect(address).await.unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl RawPeer {
    pub(crate) fn new(connection: TcpStream) -> Self {
        Self {
            connection,
            buffer: BytesMut::new(),
        }
    }

    /// Sends bytes; a peer that closed meanwhile takes none.
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        drop(patiently(self.connection.write_all(bytes)).await);
    }

    /// Sends frames.
    pub(crate) async fn put(&mut self, put: impl FnOnce(&mut BytesMut)) {
        let mut bytes = BytesMut::new();
        put(&mut bytes);
        self.send(&bytes).await;
    }

    /// Says HELLO as this build does.
    pub(crate) async fn greet(&mut self) {
        self.put(|out| frame::put_hello(out, &Hello::of_this_build()))
            .await;
    }

    /// Calls `look` with the next frame that is no heartbeat; `None` once the peer has closed.
    pub(crate) async fn next<T>(&mut self, look: impl FnOnce(Option<Frame<'_>>) -> T) -> T {
        patiently(async {
            loop {
                self.complete().await;
                let Some((Frame::Ping(nonce), taken)) = self.front() else {
                    return self.next_of_any_kind(look).await;
                };
                self.buffer.advance(taken);
                self.put(|out| frame::put_pong(out, nonce)).await;
            }
        })
        .await
    }

    /// Calls `look` with the next frame, heartbeats included.
    pub(crate) async fn next_of_any_kind<T>(
        &mut self,
        look: impl FnOnce(Option<Frame<'_>>) -> T,
    ) -> T {
        self.complete().await;
        let Some((frame, taken)) = self.front() else {
            return look(None);
        };
        let seen = look(Some(frame));
        self.buffer.advance(taken);
        seen
    }

    fn front(&self) -> Option<(Frame<'_>, usize)> {
        frame::decode(&self.buffer, MAX_FRAME_BYTES).unwrap()
    }

    /// Reads until there is a frame, or the peer has closed.
    async fn complete(&mut self) {
        while self.front().is_none() {
            // A reset is the end as well: what was not read is lost.
            let Ok(1..) = self.connection.read_buf(&mut self.buffer).await else {
                return;
            };
        }
    }

    /// Throws away what comes, without an answer; true once the peer has closed.
    pub(crate) async fn closed(&mut self) -> bool {
        self.buffer.clear();
        !matches!(self.connection.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// Reads frames until the peer closes, and gives back the error with which it ended the
    /// connection, if it said one.
    pub(crate) async fn end(&mut self) -> Option<RequestError> {
        let mut reason = None;
        loop {
            let more = self.next(|frame| {
                if let Some(Frame::End {
                    stream: frame::CONNECTION,
                    error,
                }) = &frame
                {
                    reason.clone_from(error);
                }
                frame.is_some()
            });
            if !more.await {
                return reason;
            }
        }
    }
}
