//! The shell against a publisher whose every byte the test writes, on a clock that only moves
//! when everybody waits.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use dynamo_engine_events::{EngineEventMetrics, SourceItem, Subscriber, SubscriberOptions};
use dynamo_runtime::environment::{Connection, Listener, Network};
use dynamo_runtime::telemetry::MetricsRegistry;
use dynamo_runtime::{Environment, Tasks};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::Instant;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send + 'a>>;

/// A network that hands the other end of each connection to the test.
#[derive(Debug)]
struct Wire {
    peers: Sender<(String, DuplexStream)>,
}

impl Network for Wire {
    fn connect<'a>(&'a self, address: &'a str) -> Boxed<'a, Box<dyn Connection>> {
        Box::pin(async move {
            let (ours, theirs) = duplex(1 << 20);
            let peer = (address.to_owned(), theirs);
            self.peers.send(peer).await.map_err(io::Error::other)?;
            Ok(Box::new(ours) as Box<dyn Connection>)
        })
    }

    fn bind<'a>(&'a self, _address: &'a str) -> Boxed<'a, Box<dyn Listener>> {
        Box::pin(async { Err(io::Error::other("nobody listens here")) })
    }
}

/// A listener, and the ends of its connections.
struct Setup {
    peers: Receiver<(String, DuplexStream)>,
    items: Receiver<SourceItem>,
    metrics: MetricsRegistry,
    tasks: Tasks,
}

fn start(replay: bool) -> Setup {
    let (sender, peers) = channel(8);
    let mut environment = Environment::system();
    environment.network = Arc::new(Wire { peers: sender });
    let options = SubscriberOptions {
        endpoint: "tcp://engine:5557".parse().unwrap(),
        replay: replay.then(|| "tcp://engine:5558".parse().unwrap()),
        topic: "kv".to_owned(),
    };
    let tasks = Tasks::root();
    let counted = EngineEventMetrics::new();
    let metrics = MetricsRegistry::new();
    metrics.register(counted.clone()).unwrap();
    let items = Subscriber::start(options, &environment, &tasks, &counted);
    Setup {
        peers,
        items,
        metrics,
        tasks,
    }
}

impl Setup {
    /// The next connection, past its handshake.
    async fn accept(&mut self, socket: &str, minor: u8) -> Peer {
        let (address, stream) = self.peers.recv().await.unwrap();
        let mut peer = Peer { stream };
        peer.shake_hands(socket, minor).await;
        let port = if socket == "ROUTER" { "5558" } else { "5557" };
        assert_eq!(address, format!("engine:{port}"));
        peer
    }

    async fn accept_subscriber(&mut self, minor: u8) -> Peer {
        let mut peer = self.accept("PUB", minor).await;
        assert_eq!(peer.frame().await, (0, b"\x01kv".to_vec()));
        peer
    }

    fn counted(&self, line: &str) -> bool {
        let line = format!("dynamo_engine_kv_{line}");
        self.metrics.encode().lines().any(|it| it == line)
    }
}

/// The publisher's end of a connection.
struct Peer {
    stream: DuplexStream,
}

impl Peer {
    async fn shake_hands(&mut self, socket: &str, minor: u8) {
        let mut greeting = [0; 64];
        greeting[0] = 0xff;
        greeting[9..16].copy_from_slice(&[0x7f, 3, minor, b'N', b'U', b'L', b'L']);
        self.stream.write_all(&greeting).await.unwrap();
        let mut theirs = [0; 64];
        self.stream.read_exact(&mut theirs).await.unwrap();
        assert_eq!(theirs[9..16], [0x7f, 3, 0, b'N', b'U', b'L', b'L']);
        let mut ready = b"\x05READY\x0bSocket-Type\0\0\0".to_vec();
        ready.push(socket.len() as u8);
        ready.extend(socket.as_bytes());
        self.send(4, &ready).await;
        let (flags, body) = self.frame().await;
        assert_eq!(flags, 4);
        assert!(body.starts_with(b"\x05READY\x0bSocket-Type"));
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; head[1].into()];
        self.stream.read_exact(&mut body).await.unwrap();
        (head[0], body)
    }

    async fn send(&mut self, flags: u8, body: &[u8]) {
        let mut frame = vec![flags, body.len() as u8];
        frame.extend(body);
        self.stream.write_all(&frame).await.unwrap();
    }

    /// A live message without events.
    async fn publish(&mut self, number: u64) {
        for (flags, part) in [
            (1, &b"kv"[..]),
            (1, &number.to_be_bytes()),
            (0, EMPTY_BATCH),
        ] {
            self.send(flags, part).await;
        }
    }

    /// An answer of the replay socket.
    async fn answer(&mut self, number: u64) {
        for (flags, part) in [(1, &b""[..]), (1, &number.to_be_bytes()), (0, EMPTY_BATCH)] {
            self.send(flags, part).await;
        }
    }

    /// The number that a replay is asked from.
    async fn request(&mut self) -> u64 {
        assert_eq!(self.frame().await, (1, vec![]));
        let (flags, number) = self.frame().await;
        assert_eq!(flags, 0);
        u64::from_be_bytes(number.try_into().unwrap())
    }

    /// Reads until the listener hangs up.
    async fn end(mut self) {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).await.unwrap();
    }
}

/// `[1, []]`.
const EMPTY_BATCH: &[u8] = b"\x92\x01\x90";

fn number(item: Option<SourceItem>) -> u64 {
    match item {
        Some(SourceItem::Batch(batch)) => batch.sequence,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_is_answered_with_its_context() {
    let mut setup = start(false);
    let mut peer = setup.accept_subscriber(1).await;
    peer.send(4, b"\x04PING\0\x0acontext").await;
    assert_eq!(peer.frame().await, (4, b"\x04PONGcontext".to_vec()));
    peer.send(4, b"\x04PING").await;
    assert_eq!(peer.frame().await, (4, b"\x04PONG".to_vec()));
    peer.send(4, b"\x07UNKNOWNx").await;
    peer.publish(0).await;
    assert_eq!(number(setup.items.recv().await), 0);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_froze_is_left_and_connected_to_again() {
    let mut setup = start(false);
    let mut peer = setup.accept_subscriber(1).await;
    // One that answers is kept, however long it has nothing to say.
    for _ in 0..20 {
        assert_eq!(peer.frame().await, (4, b"\x04PING\0\0".to_vec()));
        peer.send(4, b"\x04PONGx").await;
    }
    let frozen = Instant::now();
    peer.end().await;
    assert!(frozen.elapsed() < Duration::from_secs(60));
    setup.accept_subscriber(1).await.publish(0).await;
    assert_eq!(number(setup.items.recv().await), 0);
    assert!(setup.counted("disconnections_total{reason=\"silent\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn an_old_publisher_without_heartbeats_may_be_silent() {
    let mut setup = start(false);
    let mut peer = setup.accept_subscriber(0).await;
    tokio::time::advance(Duration::from_secs(3600)).await;
    peer.publish(0).await;
    assert_eq!(number(setup.items.recv().await), 0);
    assert!(setup.counted("connections_total 1"));
}

#[tokio::test(start_paused = true)]
async fn what_breaks_the_protocol_ends_the_connection_and_not_the_listener() {
    let oversized = [&[2][..], &u64::MAX.to_be_bytes()].concat();
    let broken = [oversized, vec![0x80, 0], [1, 0].repeat(100), vec![4, 0]];
    let mut setup = start(false);
    for bytes in &broken {
        let mut peer = setup.accept_subscriber(1).await;
        peer.stream.write_all(bytes).await.unwrap();
        peer.end().await;
    }
    for (greeting, socket) in [(&b"SSH-2.0-x\r\n"[..], None), (b"", Some("PUSH"))] {
        let (_, stream) = setup.peers.recv().await.unwrap();
        let mut peer = Peer { stream };
        peer.stream.write_all(greeting).await.unwrap();
        if let Some(socket) = socket {
            peer.shake_hands(socket, 0).await;
        }
        peer.end().await;
    }
    // One that accepts and never greets.
    let (_, stream) = setup.peers.recv().await.unwrap();
    Peer { stream }.end().await;
    setup.accept_subscriber(1).await.publish(0).await;
    assert_eq!(number(setup.items.recv().await), 0);
    assert!(setup.counted("disconnections_total{reason=\"protocol\"} 6"));
    assert!(setup.counted("disconnections_total{reason=\"silent\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_replay_that_never_answers_holds_live_messages_up_for_seconds_only() {
    let mut setup = start(true);
    let mut peer = setup.accept_subscriber(1).await;
    let mut router = setup.accept("ROUTER", 1).await;
    assert_eq!(router.request().await, 0);
    peer.publish(2).await;
    let lost = SourceItem::Lost { first: 0, count: 2 };
    assert_eq!(setup.items.recv().await, Some(lost));
    assert_eq!(number(setup.items.recv().await), 2);
    router.end().await;
    assert!(setup.counted("replays_total{result=\"failed\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn a_replay_whose_end_was_dropped_goes_on_where_it_stopped() {
    let mut setup = start(true);
    let peer = setup.accept_subscriber(1).await;
    let mut router = setup.accept("ROUTER", 1).await;
    assert_eq!(router.request().await, 0);
    router.answer(0).await;
    router.answer(1).await;
    let mut again = setup.accept("ROUTER", 1).await;
    assert_eq!(again.request().await, 2);
    again.answer(2).await;
    again.answer(u64::MAX).await;
    for expected in 0..3 {
        assert_eq!(number(setup.items.recv().await), expected);
    }
    drop((peer, router, again));
}

#[tokio::test(start_paused = true)]
async fn a_slow_router_is_told_what_it_missed() {
    const MESSAGES: u64 = 3000;
    let mut setup = start(false);
    let mut peer = setup.accept_subscriber(1).await;
    for sequence in 0..MESSAGES {
        peer.publish(sequence).await;
    }
    // The answer shows that all before it was read.
    peer.send(4, b"\x04PING\0\0").await;
    peer.frame().await;
    let mut next = 0;
    while next < MESSAGES {
        match setup.items.recv().await.unwrap() {
            SourceItem::Batch(batch) => {
                assert_eq!(batch.sequence, next);
                next += 1;
            }
            SourceItem::Lost { first, count } => {
                assert_eq!(first, next);
                next += count;
            }
            SourceItem::Reset => panic!("no reset"),
        }
    }
    assert!(setup.counted("dropped_messages_total 1976"));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_receiver_ends_the_task() {
    let mut setup = start(false);
    let peer = setup.accept_subscriber(1).await;
    drop(setup.items);
    peer.end().await;
    setup.tasks.wait().await;
    let setup = start(false);
    drop(setup.items);
    setup.tasks.wait().await;
}
