//! Makes and takes connections, and gives each message to the one that it is for.
//!
//! A process has one subject. Others dial it by publishing there; whatever else comes below it
//! belongs to a connection, by the number that the side that dialled has drawn and by which side
//! that was (a process may dial itself).
//!
//! Invariants
//! - The reader of messages never waits: a connection that is not read from holds a window's worth
//!   and no more, and one that nobody accepts is refused.

use crate::connection::{Dial, Shared};
use crate::link::Link;
use crate::segment::{Kind, Segment};
use async_nats::{Message, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use dynamo_runtime::Tasks;
use dynamo_runtime::environment::{Connection, Listener, Network, RandomSource};
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// Connections of a process, both ways: what its server takes and its client remembers, and some
/// that are just ending.
const MAX_CONNECTIONS: usize = 4096;

/// How long to wait for an answer before asking for a connection again. The caller bounds how
/// often.
const DIAL_AGAIN: Duration = Duration::from_millis(250);

/// Longest subject that is dialled from: that of a process has 42 characters.
const MAX_SUBJECT: usize = 256;

/// A connection's number, and whether this side dialled.
type Key = (u64, bool);

/// Byte streams over NATS, to processes by their subject.
#[derive(Clone)]
pub(crate) struct NatsNetwork {
    parts: Arc<Parts>,
}

struct Parts {
    link: Link,
    tasks: Tasks,
    random: Arc<dyn RandomSource>,
    connections: Mutex<BTreeMap<Key, Arc<Shared>>>,
}

/// Where the peers of this process come in.
pub(crate) struct NatsListener {
    incoming: tokio::sync::Mutex<mpsc::Receiver<Box<dyn Connection>>>,
}

impl NatsNetwork {
    /// Listens below the link's subject until `tasks` are cancelled.
    pub(crate) async fn start(
        link: Link,
        tasks: Tasks,
        random: Arc<dyn RandomSource>,
    ) -> io::Result<(Self, NatsListener)> {
        let below = format!("{}.>", link.subject());
        let messages = link.client().subscribe(below).await;
        let messages = messages.map_err(io::Error::other)?;
        let network = Self {
            parts: Arc::new(Parts {
                link,
                tasks: tasks.clone(),
                random,
                connections: Mutex::default(),
            }),
        };
        let (sender, incoming) = mpsc::channel(BACKLOG);
        let reading = network.clone().read(messages, sender);
        tasks.spawn_until_cancelled("nats messages", reading);
        tasks.spawn_until_cancelled("nats reconnects", network.clone().tell_reconnects());
        let incoming = tokio::sync::Mutex::new(incoming);
        Ok((network, NatsListener { incoming }))
    }

    async fn read(self, mut messages: Subscriber, incoming: mpsc::Sender<Box<dyn Connection>>) {
        while let Some(message) = messages.next().await {
            self.parts.link.mark_heard();
            self.take(message, &incoming);
        }
    }

    fn take(&self, message: Message, incoming: &mpsc::Sender<Box<dyn Connection>>) {
        let last = message.subject.rsplit('.').next().unwrap_or_default();
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            // The reply subject of a DIAL ends with its connection.
            if let Ok(connection) = u64::from_str_radix(last, 16)
                && let Some(dialled) = self.find((connection, true))
                && self.parts.link.has_settled()
            {
                dialled.set_dial(Dial::NobodyThere);
            }
            return;
        }
        let Some(segment) = Segment::decode(message.payload) else {
            tracing::debug!(subject = %message.subject, "a nats message that is none of ours");
            return;
        };
        let key = (segment.connection, !segment.from_dialler);
        match (self.find(key), segment.kind) {
            (Some(known), Kind::Dial) => self.answer(&known, Kind::Accept),
            (Some(known), _) => known.take(segment),
            (None, Kind::Dial) if segment.from_dialler => self.accept(&segment, incoming),
            (None, _) => {}
        }
    }

    fn find(&self, key: Key) -> Option<Arc<Shared>> {
        self.parts.connections.lock().get(&key).cloned()
    }

    fn accept(&self, dial: &Segment, incoming: &mpsc::Sender<Box<dyn Connection>>) {
        let subject = std::str::from_utf8(&dial.payload).unwrap_or_default();
        let is_subject = |text: &str| {
            !text.is_empty()
                && text.len() <= MAX_SUBJECT
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'.' || byte == b'_')
        };
        if !is_subject(subject) {
            return;
        }
        let peer = Subject::from(format!("{subject}.in"));
        let link = self.parts.link.clone();
        let shared = Shared::new(link, dial.connection, false, peer);
        let key = (dial.connection, false);
        if !self.insert(key, &shared) || incoming.try_send(Box::new(shared.open())).is_err() {
            self.parts.connections.lock().remove(&key);
            self.answer(&shared, Kind::Reset);
            return;
        }
        self.answer(&shared, Kind::Accept);
        self.look_after(key, shared);
    }

    fn insert(&self, key: Key, shared: &Arc<Shared>) -> bool {
        let mut connections = self.parts.connections.lock();
        if connections.len() >= MAX_CONNECTIONS {
            return false;
        }
        connections.insert(key, Arc::clone(shared));
        true
    }

    /// Publishes a message that is not part of a stream, without waiting: it is asked for again
    /// if it does not arrive.
    fn answer(&self, shared: &Shared, kind: Kind) {
        use futures_util::FutureExt;
        let message = shared.plain(kind, Bytes::new());
        let client = self.parts.link.client();
        drop(
            client
                .publish(shared.peer().clone(), message)
                .now_or_never(),
        );
    }

    fn look_after(&self, key: Key, shared: Arc<Shared>) {
        let network = self.clone();
        self.parts.tasks.spawn("nats connection", async move {
            shared.run().await;
            network.parts.connections.lock().remove(&key);
        });
    }

    async fn dial(&self, address: &str) -> io::Result<Box<dyn Connection>> {
        let link = &self.parts.link;
        let connection = self.parts.random.next_u64();
        let peer = Subject::from(format!("{address}.in"));
        let shared = Shared::new(link.clone(), connection, true, peer.clone());
        let key = (connection, true);
        if !self.insert(key, &shared) {
            return Err(io::Error::other("this process has too many connections"));
        }
        // From here on dropping the connection ends it, also when the caller gives up.
        let opened = shared.open();
        self.look_after(key, Arc::clone(&shared));
        let mut dial = shared.watch_dial();
        let own = Bytes::copy_from_slice(link.subject().as_bytes());
        let reply = Subject::from(format!("{}.{connection:016x}", link.subject()));
        let asking = async {
            loop {
                let message = shared.plain(Kind::Dial, own.clone());
                let client = link.client();
                let asked = client.publish_with_reply(peer.clone(), reply.clone(), message);
                asked.await.map_err(io::Error::other)?;
                sleep(DIAL_AGAIN).await;
            }
        };
        let answered = dial.wait_for(|dial| *dial != Dial::Asked);
        tokio::select! {
            biased;
            answered = answered => match answered.map(|dial| *dial) {
                Ok(Dial::Made) => Ok(Box::new(opened) as Box<dyn Connection>),
                Ok(Dial::NobodyThere) => Err(io::Error::new(
                    io::ErrorKind::ConnectionRefused,
                    "nobody listens at its nats subject",
                )),
                Ok(Dial::Asked | Dial::Refused) | Err(_) => {
                    Err(io::ErrorKind::ConnectionRefused.into())
                }
            },
            failed = asking => failed,
        }
    }

    /// Tells every connection when the link came up again.
    async fn tell_reconnects(self) {
        let mut connected = self.parts.link.watch_connected();
        loop {
            if connected.changed().await.is_err() {
                return;
            }
            let all: Vec<_> = self.parts.connections.lock().values().cloned().collect();
            for shared in all {
                shared.link_was_down();
            }
        }
    }
}

impl Network for NatsNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(self.dial(address))
    }

    fn bind<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        // The one listener of a process came with its network.
        Box::pin(std::future::ready(Err(io::ErrorKind::AddrInUse.into())))
    }

    fn excuses_silence(&self) -> bool {
        self.parts.link.excuses_silence()
    }
}

impl Listener for NatsListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(NOWHERE)
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Connection>, SocketAddr)>> {
        Box::pin(async {
            match self.incoming.lock().await.recv().await {
                Some(connection) => Ok((connection, NOWHERE)),
                // The process is stopping, and its tasks with it.
                None => std::future::pending().await,
            }
        })
    }
}

/// Peers over NATS have a subject and no socket address.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl fmt::Debug for NatsNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsNetwork")
            .field("subject", &self.parts.link.subject())
            .finish_non_exhaustive()
    }
}
