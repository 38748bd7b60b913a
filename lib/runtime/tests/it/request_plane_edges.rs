//! Edges that the contract does not reach: numbers at their end, an endpoint that comes again, and
//! a peer that never lets the other side have its turn.

use crate::request_plane_peer::{Server, patiently};
use bytes::{BufMut, Bytes, BytesMut};
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::environment::{Connection, Listener, Network};
use dynamo_runtime::request_plane::frame::{self, Frame, Hello, MAX_FRAME_BYTES, WireHeader};
use dynamo_runtime::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, RequestHeader, RequestPlane, TcpPlane,
    TcpPlaneOptions,
};
use dynamo_runtime::{Environment, Tasks};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::task::coop;
use tokio::time::Instant;

fn endpoint() -> EndpointId {
    EndpointId::new("ns", "recorded", "echo").unwrap()
}

fn header() -> RequestHeader {
    RequestHeader::new("r", endpoint(), InstanceId::new(1).unwrap())
}

#[tokio::test]
async fn a_start_position_at_the_end_of_numbers_is_no_harm() {
    let server = Server::start(&TcpPlaneOptions::default()).await;
    let tasks = Tasks::root();
    let options = TcpPlaneOptions::default();
    let caller = TcpPlane::bind(Environment::system(), tasks.child(), &options)
        .await
        .unwrap();
    for start_position in [u64::MAX, u64::MAX - 1, 0] {
        let header = RequestHeader {
            start_position,
            ..header()
        };
        let answer = caller.call(server.plane.address(), header, Bytes::from_static(b"x"));
        let items = patiently(patiently(answer).await.unwrap().collect::<Vec<_>>()).await;
        assert!(items[0].is_ok(), "{items:?}");
    }
    tasks.stop().await;
}

#[tokio::test]
async fn an_endpoint_can_be_registered_again_once_its_registration_is_gone() {
    let server = Server::start(&TcpPlaneOptions::default()).await;
    let handlers = server.plane.handlers();
    let other = EndpointId::new("ns", "recorded", "other").unwrap();
    for _ in 0..3 {
        let registration = handlers.register(other.clone(), Arc::new(OneItem)).unwrap();
        assert!(handlers.register(other.clone(), Arc::new(OneItem)).is_err());
        let header = RequestHeader {
            endpoint: other.clone(),
            ..header()
        };
        let call = |header, body| handlers.dispatch(IncomingRequest { header, body });
        assert!(call(header.clone(), Bytes::new()).await.is_ok());
        drop(registration);
        let refused = call(header, Bytes::new()).await.err().unwrap();
        assert_eq!(refused.code, ErrorCode::WorkerUnreachable);
    }
}

/// A peer that always has more to say, over a connection that always takes what it is given.
/// Like a socket it uses up its task's turn.
struct Chatterbox {
    first: Bytes,
    heard: mpsc::Sender<Bytes>,
}

impl AsyncRead for Chatterbox {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(coop::poll_proceed(context)).made_progress();
        if self.first.is_empty() {
            let mut pong = BytesMut::new();
            frame::put_pong(&mut pong, 0);
            self.first = pong.freeze();
        }
        let some = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first.split_to(some));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Chatterbox {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(coop::poll_proceed(context)).made_progress();
        // What comes after the test has seen enough is of no interest.
        drop(self.heard.try_send(Bytes::copy_from_slice(bytes)));
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A network with one connection, which comes in.
#[derive(Debug, Clone)]
struct OneCaller(Arc<tokio::sync::Mutex<mpsc::Receiver<Chatterbox>>>);

impl Network for OneCaller {
    fn connect<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn bind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async { Ok(Box::new(self.clone()) as Box<dyn Listener>) })
    }
}

impl Listener for OneCaller {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from(([127, 0, 0, 1], 1)))
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async {
            match self.0.lock().await.recv().await {
                Some(caller) => Ok((Box::new(caller) as Box<dyn Connection>, self.local_addr()?)),
                None => std::future::pending().await,
            }
        })
    }
}

#[derive(Debug)]
struct OneItem;

impl Handler for OneItem {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let item = Item {
            positions: 1,
            payload: request.body,
        };
        Box::pin(async { Ok(Box::pin(stream::iter([Ok(item)])) as ItemStream) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_never_stops_sending_still_gets_its_answers() {
    let mut first = BytesMut::new();
    frame::put_hello(&mut first, &Hello::of_this_build());
    let wire = WireHeader::new(&header(), 1024, Instant::now());
    frame::put_request(&mut first, 1, &wire, b"body");
    let (heard, mut said) = mpsc::channel(64);
    let (callers, incoming) = mpsc::channel(1);
    let environment = Environment {
        network: Arc::new(OneCaller(Arc::new(tokio::sync::Mutex::new(incoming)))),
        ..Environment::system()
    };
    let tasks = Tasks::root();
    let options = TcpPlaneOptions::default();
    let plane = TcpPlane::bind(environment, tasks.child(), &options)
        .await
        .unwrap();
    let handlers = plane.handlers();
    let _registration = handlers.register(endpoint(), Arc::new(OneItem)).unwrap();
    // Only now may the caller arrive: a request before the registration is refused.
    let caller = Chatterbox {
        first: first.freeze(),
        heard,
    };
    callers.send(caller).await.ok().unwrap();
    let mut bytes = BytesMut::new();
    let mut kinds = Vec::new();
    while kinds.last() != Some(&"end") {
        bytes.put(patiently(said.recv()).await.expect("the connection lives"));
        while let Some((frame, taken)) = frame::decode(&bytes, MAX_FRAME_BYTES).unwrap() {
            match frame {
                Frame::Hello(_) => kinds.push("hello"),
                Frame::Item { payload, .. } => {
                    assert_eq!(payload, b"body");
                    kinds.push("item");
                }
                Frame::End { error, .. } => {
                    assert_eq!(error, None);
                    kinds.push("end");
                }
                Frame::Ping(_) => {}
                other => panic!("{other:?}"),
            }
            drop(bytes.split_to(taken));
        }
    }
    assert_eq!(kinds, ["hello", "item", "end"]);
    tasks.cancel();
}
