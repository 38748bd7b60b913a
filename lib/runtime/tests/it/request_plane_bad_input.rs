//! Peers that break the request plane's protocol, by mistake or on purpose: they lose their
//! connection, and nobody else notices.

use crate::request_plane_peer::{RawPeer, Server, patiently};
use bytes::{BufMut, Bytes, BytesMut};
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::request_plane::frame::{self, Frame, Hello, WireHeader};
use dynamo_runtime::request_plane::{
    MAX_PROTOCOL_VERSION, MIN_PROTOCOL_VERSION, RequestHeader, RequestPlane, TcpPlane,
    TcpPlaneOptions,
};
use dynamo_runtime::{Environment, Tasks};
use futures_util::StreamExt;
use std::fs;
use tokio::net::TcpListener;
use tokio::time::Instant;

fn header() -> RequestHeader {
    let endpoint = EndpointId::new("ns", "recorded", "echo").unwrap();
    RequestHeader::new("r", endpoint, InstanceId::new(1).unwrap())
}

fn put_request(out: &mut BytesMut, stream: u32, window: u32, body: &[u8]) {
    let header = WireHeader::new(&header(), window, Instant::now());
    frame::put_request(out, stream, &header, body);
}

async fn server() -> Server {
    Server::start(&TcpPlaneOptions::default()).await
}

/// A process without endpoints of its own.
async fn caller(tasks: &Tasks) -> TcpPlane {
    let options = TcpPlaneOptions::default();
    TcpPlane::bind(Environment::system(), tasks.child(), &options)
        .await
        .unwrap()
}

/// Checks that the server still serves others.
async fn assert_serves(server: &Server) {
    let tasks = Tasks::root();
    let caller = caller(&tasks).await;
    let answer = caller.call(server.plane.address(), header(), Bytes::from_static(b"x"));
    let items: Vec<_> = patiently(answer).await.unwrap().collect().await;
    assert_eq!(items.len(), 3);
    assert!(items.iter().all(Result::is_ok), "{items:?}");
    tasks.cancel();
}

/// What the server says to a greeted peer that then sends these bytes, at the end.
async fn ended_by(bytes: &[u8]) -> Option<RequestError> {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.greet().await;
    peer.send(bytes).await;
    let reason = peer.end().await;
    assert_serves(&server).await;
    reason
}

fn resident_kilobytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.unwrap().split_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_frame_of_4_gib_is_refused_and_never_allocated() {
    let before = resident_kilobytes();
    let mut bytes = BytesMut::new();
    bytes.put_u32(u32::MAX);
    bytes.put_slice(&[2, 0, 0, 0, 1]);
    bytes.put_bytes(0, 1024);
    let reason = ended_by(&bytes).await.unwrap();
    assert_eq!(reason.code, ErrorCode::WorkerProtocol);
    assert!(reason.message.contains("4294967295 bytes"), "{reason}");
    let grown = resident_kilobytes() - before;
    assert!(grown < 64 * 1024, "memory grew by {grown} kB at its peak");
}

#[tokio::test]
async fn a_large_announcement_takes_memory_only_as_it_is_filled() {
    let server = server().await;
    let before = resident_kilobytes();
    let mut peers = Vec::new();
    for _ in 0..20 {
        let mut peer = server.connect().await;
        peer.greet().await;
        let announced = frame::MAX_FRAME_BYTES as u32;
        peer.send(&announced.to_be_bytes()).await;
        peer.send(&[2, 0, 0, 0, 1]).await;
        peers.push(peer);
    }
    assert_serves(&server).await;
    let grown = resident_kilobytes() - before;
    assert!(grown < 64 * 1024, "memory grew by {grown} kB at its peak");
}

#[tokio::test]
async fn garbage_instead_of_a_hello_closes_the_connection() {
    let server = server().await;
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        &[0; 64],
        &[0xff; 64],
        b"\x00\x00\x00\x08\x01\x00\x00\x00\x00\xc1\xc1\xc1",
    ];
    for bytes in garbage {
        let mut peer = server.connect().await;
        peer.send(bytes).await;
        peer.end().await;
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_hello_larger_than_any_is_refused() {
    let server = server().await;
    let mut peer = server.connect().await;
    let hello = Hello {
        features: vec!["x".repeat(8 * 1024)],
        ..Hello::of_this_build()
    };
    peer.put(|out| frame::put_hello(out, &hello)).await;
    peer.end().await;
    assert_serves(&server).await;
}

#[tokio::test]
async fn random_bytes_after_the_handshake_close_the_connection() {
    let server = server().await;
    let random = Environment::system().random;
    for _ in 0..200 {
        let mut bytes = BytesMut::new();
        // Short enough to be a frame, and of any kind, known or not.
        bytes.put_u32(5 + 40);
        bytes.put_u8(random.next_u64() as u8);
        (0..6).for_each(|_| bytes.put_u64(random.next_u64()));
        bytes.put_bytes(0xff, 64);
        let mut peer = server.connect().await;
        peer.greet().await;
        peer.send(&bytes).await;
        assert!(peer.end().await.is_some());
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_future_version_is_told_which_versions_there_are() {
    let future = Hello {
        min: 7,
        max: 9,
        ..Hello::of_this_build()
    };
    // To a server: it says HELLO, which names its versions, and closes.
    let server = server().await;
    let mut peer = server.connect().await;
    peer.put(|out| frame::put_hello(out, &future)).await;
    peer.next(|hello| assert!(matches!(hello, Some(Frame::Hello(hello)) if hello.max < 7)))
        .await;
    peer.end().await;
    assert_serves(&server).await;
    // To a caller: the call fails with both ranges.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let tasks = Tasks::root();
    let caller = caller(&tasks).await;
    let serve = async {
        let mut peer = RawPeer::new(listener.accept().await.unwrap().0);
        peer.put(|out| frame::put_hello(out, &future)).await;
        peer.end().await
    };
    let call = caller.call(&address, header(), Bytes::new());
    let (_, called) = patiently(async { tokio::join!(serve, call) }).await;
    let error = called.unwrap_err();
    assert_eq!(error.code, ErrorCode::WorkerProtocol);
    assert!(error.message.contains("7 to 9"), "{error}");
    let ours = format!("{MIN_PROTOCOL_VERSION} to {MAX_PROTOCOL_VERSION}");
    assert!(error.message.contains(&ours), "{error}");
    tasks.cancel();
}

#[tokio::test]
async fn a_version_range_that_includes_ours_is_spoken() {
    let server = server().await;
    let mut peer = server.connect().await;
    let newer = Hello {
        min: 1,
        max: 9,
        features: vec!["invented later".to_owned()],
        ..Hello::of_this_build()
    };
    peer.put(|out| {
        frame::put_hello(out, &newer);
        put_request(out, 1, 1024, b"x");
    })
    .await;
    peer.next(|hello| assert!(matches!(hello, Some(Frame::Hello(_)))))
        .await;
    peer.next(|item| assert!(matches!(item, Some(Frame::Item { .. }))))
        .await;
}

#[tokio::test]
async fn half_a_hello_and_then_silence_ends_with_the_handshake_deadline() {
    let server = server().await;
    let mut peer = server.connect().await;
    let mut hello = BytesMut::new();
    frame::put_hello(&mut hello, &Hello::of_this_build());
    peer.send(&hello[..hello.len() / 2]).await;
    peer.end().await;
    assert_serves(&server).await;
}

#[tokio::test]
async fn half_a_frame_and_then_silence_ends_the_connection() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.greet().await;
    let mut request = BytesMut::new();
    put_request(&mut request, 1, 1024, b"a body that is cut");
    peer.send(&request[..request.len() / 2]).await;
    // Heartbeats are not answered here: this peer is silent.
    patiently(async { while !peer.closed().await {} }).await;
    assert_serves(&server).await;
}

#[tokio::test]
async fn frames_in_the_wrong_place_end_the_connection() {
    let mut second_hello = BytesMut::new();
    frame::put_hello(&mut second_hello, &Hello::of_this_build());
    let mut item = BytesMut::new();
    frame::put_item(&mut item, 1, 0, 1, b"x");
    let mut end = BytesMut::new();
    frame::put_end(&mut end, 1, None);
    let mut on_the_connection = BytesMut::new();
    put_request(&mut on_the_connection, frame::CONNECTION, 1024, b"x");
    let mut twice = BytesMut::new();
    // No credit: the first stream still runs when the second comes.
    put_request(&mut twice, 1, 0, b"x");
    put_request(&mut twice, 1, 0, b"x");
    for bytes in [second_hello, item, end, on_the_connection, twice] {
        let reason = ended_by(&bytes).await.unwrap();
        assert_eq!(reason.code, ErrorCode::WorkerProtocol);
    }
}

#[tokio::test]
async fn unknown_streams_and_overflowing_credit_are_no_harm() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.greet().await;
    peer.put(|out| {
        frame::put_cancel(out, 77);
        frame::put_credit(out, 77, u32::MAX);
        put_request(out, 1, u32::MAX, b"x");
        (0..100).for_each(|_| frame::put_credit(out, 1, u32::MAX));
        frame::put_ping(out, 5);
    })
    .await;
    let mut ended = false;
    while !ended {
        ended = peer
            .next(|frame| match frame {
                Some(Frame::End { stream, error }) => {
                    assert_eq!((stream, error), (1, None));
                    true
                }
                None => panic!("closed"),
                _ => false,
            })
            .await;
    }
    assert_serves(&server).await;
}

#[tokio::test]
async fn a_header_that_makes_no_sense_is_refused_alone() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.greet().await;
    // Instance 0 does not exist.
    let header = rmp_serde::to_vec_named(&serde_json::json!({
        "request_id": "r", "namespace": "ns", "component": "recorded", "endpoint": "echo",
        "instance": 0, "window": 1024,
    }));
    let header = header.unwrap();
    peer.put(|out| {
        out.put_u32((5 + 4 + header.len()) as u32);
        out.put_u8(2);
        out.put_u32(1);
        out.put_u32(header.len() as u32);
        out.put_slice(&header);
        put_request(out, 2, 1024, b"x");
    })
    .await;
    peer.next(|hello| assert!(matches!(hello, Some(Frame::Hello(_)))))
        .await;
    let (mut refused, mut served) = (false, false);
    while !(refused && served) {
        peer.next(|frame| match frame {
            Some(Frame::End { stream: 1, error }) => {
                assert_eq!(error.unwrap().code, ErrorCode::WorkerProtocol);
                refused = true;
            }
            Some(Frame::End { stream: 2, error }) => {
                assert_eq!(error, None);
                served = true;
            }
            Some(_) => {}
            None => panic!("closed"),
        })
        .await;
    }
}

#[tokio::test]
async fn a_peer_that_never_reads_is_given_up() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.greet().await;
    let body = vec![0; 1024 * 1024];
    let before = resident_kilobytes();
    // Far more is asked for than sockets and outbox hold; it all waits, until heartbeats that
    // are not answered end it.
    for stream in 1..=100 {
        peer.put(|out| put_request(out, stream, u32::MAX, &body))
            .await;
        if stream == 1 {
            assert_serves(&server).await;
        }
    }
    patiently(async { while !peer.closed().await {} }).await;
    let grown = resident_kilobytes() - before;
    assert!(grown < 512 * 1024, "memory grew by {grown} kB at its peak");
    assert_serves(&server).await;
}

#[tokio::test]
async fn connections_and_streams_beyond_the_limit_are_refused() {
    let options = TcpPlaneOptions {
        max_connections: 1,
        max_streams_per_connection: 2,
        ..TcpPlaneOptions::default()
    };
    let server = Server::start(&options).await;
    let mut peer = server.connect().await;
    peer.greet().await;
    // No credit: they run until the connection ends.
    peer.put(|out| (1..=3).for_each(|stream| put_request(out, stream, 0, b"x")))
        .await;
    peer.next(|hello| assert!(matches!(hello, Some(Frame::Hello(_)))))
        .await;
    peer.next(|refused| {
        let Some(Frame::End {
            stream: 3,
            error: Some(error),
        }) = refused
        else {
            panic!("{refused:?}")
        };
        assert_eq!(error.code, ErrorCode::NoCapacity);
    })
    .await;

    let tasks = Tasks::root();
    let other = caller(&tasks).await;
    let answer = other.call(server.plane.address(), header(), Bytes::new());
    let error = match patiently(answer).await {
        Err(error) => error,
        Ok(mut answer) => patiently(answer.next()).await.unwrap().unwrap_err(),
    };
    assert_eq!(error.code, ErrorCode::NoCapacity);
    assert!(error.retry_after.is_some());
    tasks.cancel();
}

#[tokio::test]
async fn a_request_that_comes_with_the_hello_is_answered_at_once() {
    let server = server().await;
    let mut peer = server.connect().await;
    peer.put(|out| {
        frame::put_hello(out, &Hello::of_this_build());
        put_request(out, 1, 1024, b"x");
    })
    .await;
    peer.next(|hello| assert!(matches!(hello, Some(Frame::Hello(_)))))
        .await;
    // Nothing else is sent, and the first heartbeat would come before it if it waited for more.
    let first = patiently(peer.next_of_any_kind(|frame| matches!(frame, Some(Frame::Item { .. }))));
    assert!(first.await);
}
