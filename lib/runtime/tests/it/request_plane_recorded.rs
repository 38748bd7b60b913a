//! Version 1 of the request plane's protocol, byte by byte as it was first spoken: a later build
//! must understand it, and must answer so that a peer of version 1 understands.
//!
//! The bytes are in `recorded/request_plane_v1.txt`; they are never changed, only added to.

use crate::request_plane_peer::{RawPeer, Server, patiently};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::request_plane::frame::{
    self, Frame, Hello, MAGIC, MAX_FRAME_BYTES, WireHeader,
};
use dynamo_runtime::request_plane::{
    ReceivedItem, RequestHeader, RequestPlane, TcpPlane, TcpPlaneOptions, TrafficClass,
};
use dynamo_runtime::{Environment, Tasks};
use futures_util::StreamExt;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

const RECORDED: &str = include_str!("recorded/request_plane_v1.txt");

/// The recorded frames by name.
fn recorded() -> BTreeMap<&'static str, Vec<u8>> {
    let lines = RECORDED.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, hex) = line.split_once(": ").expect("name: hex");
            let bytes = (0..hex.len()).step_by(2);
            let bytes = bytes.map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            (name, bytes.collect())
        })
        .collect()
}

fn header() -> RequestHeader {
    let endpoint = EndpointId::new("ns", "recorded", "echo").unwrap();
    RequestHeader {
        attempt: 2,
        choice: 1,
        start_position: 300,
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        tracestate: Some("vendor=value".into()),
        ..RequestHeader::new("request-1", endpoint, InstanceId::new(0xabcdef).unwrap())
    }
}

fn error() -> RequestError {
    RequestError::invalid("prompt", "too long").with_retry_after(Duration::from_millis(1500))
}

/// Every recorded frame and what it says.
fn meanings() -> Vec<(&'static str, Frame<'static>)> {
    let hello = |features: &[&str]| Hello {
        magic: MAGIC.to_owned(),
        min: 1,
        max: 1,
        features: features.iter().map(|&name| name.to_owned()).collect(),
    };
    let now = Instant::now();
    let deadline = Some(now + Duration::from_secs(30));
    let wire = |header, window| Box::new(WireHeader::new(&header, window, now));
    let other = EndpointId::new("ns", "recorded", "nobody").unwrap();
    let plain = RequestHeader::new("request-2", other, InstanceId::new(1).unwrap());
    let item = |position, positions, payload| Frame::Item {
        stream: 1,
        position,
        positions,
        payload,
    };
    vec![
        ("hello", Frame::Hello(hello(&[]))),
        ("hello bulk", Frame::Hello(hello(&["bulk"]))),
        (
            "request",
            Frame::Request {
                stream: 1,
                header: wire(
                    RequestHeader {
                        deadline,
                        ..header()
                    },
                    65_536,
                ),
                body: b"body",
            },
        ),
        (
            "request unknown endpoint",
            Frame::Request {
                stream: 2,
                header: wire(plain, 1024),
                body: b"",
            },
        ),
        ("item 1", item(300, 1, b"body")),
        ("item 2", item(301, 2, b"body")),
        ("item 3", item(303, 0, b"body")),
        (
            "end",
            Frame::End {
                stream: 1,
                error: None,
            },
        ),
        (
            "end with error",
            Frame::End {
                stream: 1,
                error: Some(error()),
            },
        ),
        (
            "end of connection",
            Frame::End {
                stream: 0,
                error: Some(RequestError::new(ErrorCode::NoCapacity, "full")),
            },
        ),
        ("cancel", Frame::Cancel { stream: 2 }),
        (
            "credit",
            Frame::Credit {
                stream: 1,
                bytes: 32_768,
            },
        ),
        ("ping", Frame::Ping(0x0102_0304_0506_0708)),
        ("pong", Frame::Pong(0x0102_0304_0506_0708)),
        ("go away", Frame::GoAway),
    ]
}

#[test]
fn the_recorded_frames_mean_what_they_meant() {
    let recorded = recorded();
    let meanings = meanings();
    assert_eq!(recorded.len(), meanings.len());
    for (name, meaning) in meanings {
        let bytes = &recorded[name];
        let (frame, taken) = frame::decode(bytes, MAX_FRAME_BYTES).unwrap().unwrap();
        assert_eq!(frame, meaning, "{name}");
        assert_eq!(taken, bytes.len(), "{name}");
    }
}

#[tokio::test]
async fn a_server_answers_a_caller_of_version_1() {
    let recorded = recorded();
    let server = Server::start(&TcpPlaneOptions::default()).await;
    let mut caller = server.connect().await;
    caller.send(&recorded["hello"]).await;
    caller.send(&recorded["request"]).await;
    caller.send(&recorded["credit"]).await;
    caller
        .next(|hello| {
            let Some(Frame::Hello(hello)) = hello else {
                panic!("{hello:?}")
            };
            assert_eq!((hello.magic.as_str(), hello.min), (MAGIC, 1));
        })
        .await;
    for expected in ["item 1", "item 2", "item 3", "end"] {
        let (expected, _) = frame::decode(&recorded[expected], MAX_FRAME_BYTES)
            .unwrap()
            .unwrap();
        caller.next(|frame| assert_eq!(frame, Some(expected))).await;
    }
    caller.send(&recorded["ping"]).await;
    caller
        .next(|pong| assert_eq!(pong, Some(Frame::Pong(0x0102_0304_0506_0708))))
        .await;
    caller.send(&recorded["request unknown endpoint"]).await;
    caller
        .next(|end| {
            let Some(Frame::End {
                stream: 2,
                error: Some(error),
            }) = end
            else {
                panic!("{end:?}")
            };
            assert_eq!(error.code, ErrorCode::WorkerUnreachable);
        })
        .await;
    // Too late, and no harm.
    caller.send(&recorded["cancel"]).await;
    caller.send(&recorded["ping"]).await;
    caller
        .next(|pong| assert!(matches!(pong, Some(Frame::Pong(_)))))
        .await;
}

/// Calls a server that says these recorded frames after the handshake; gives back the answer.
async fn call_recorded(frames: &[&str]) -> (Vec<ReceivedItem>, Option<RequestError>) {
    let recorded = recorded();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("tcp://{}", listener.local_addr().unwrap());
    let tasks = Tasks::root();
    let options = TcpPlaneOptions::default();
    let plane = TcpPlane::bind(Environment::system(), tasks.child(), &options)
        .await
        .unwrap();
    let serve = async {
        let mut server = RawPeer::new(listener.accept().await.unwrap().0);
        server.send(&recorded["hello"]).await;
        server
            .next(|hello| assert!(matches!(hello, Some(Frame::Hello(hello)) if hello.min == 1)))
            .await;
        server
            .next(|request| {
                let Some(Frame::Request {
                    stream: 1,
                    header: wire,
                    body: b"body",
                }) = request
                else {
                    panic!("{request:?}")
                };
                let said = wire.open(TrafficClass::Latency, Instant::now()).unwrap();
                assert_eq!(said, header());
            })
            .await;
        for name in frames {
            server.send(&recorded[name]).await;
        }
        server
    };
    let call = async {
        let body = Bytes::from_static(b"body");
        let mut answer = plane.call(&address, header(), body).await.unwrap();
        let mut items = Vec::new();
        loop {
            match answer.next().await {
                Some(Ok(item)) => items.push(item),
                end => return (items, end.and_then(Result::err)),
            }
        }
    };
    let (_server, answer) = patiently(async { tokio::join!(serve, call) }).await;
    tasks.cancel();
    answer
}

#[tokio::test]
async fn a_caller_understands_a_server_of_version_1() {
    let (items, end) = call_recorded(&["item 1", "item 2", "ping", "item 3", "end"]).await;
    let positions: Vec<_> = items.iter().map(|item| item.position).collect();
    assert_eq!((positions, end), (vec![300, 301, 303], None));
    assert!(items.iter().all(|item| item.payload == "body"));
}

#[tokio::test]
async fn a_caller_understands_errors_of_version_1() {
    let (items, end) = call_recorded(&["item 1", "end with error"]).await;
    assert_eq!((items.len(), end), (1, Some(error())));
    let (items, end) = call_recorded(&["go away", "item 1", "end of connection"]).await;
    assert_eq!((items.len(), end.unwrap().code), (1, ErrorCode::NoCapacity));
}

#[tokio::test]
async fn a_repeated_item_is_dropped_and_a_missing_one_ends_the_answer() {
    let (items, end) = call_recorded(&["item 1", "item 2", "item 1", "item 3", "end"]).await;
    assert_eq!((items.len(), end), (3, None));
    let (items, end) = call_recorded(&["item 1", "item 3", "end"]).await;
    assert_eq!(items.len(), 1);
    assert_eq!(end.unwrap().code, ErrorCode::WorkerProtocol);
}
