//! A ZMQ publisher: whoever connects and subscribes gets the messages of the topics it asked for.
//!
//! Invariants
//! - Publishing never waits. A subscriber that does not read loses what is beyond
//!   [`MAX_WAITING_BYTES`], and its connection once its socket takes nothing at all.
//! - Subscribers, and subscriptions of each, are bounded.

use crate::socket::{Socket, SocketError};
use crate::zmtp::{Arrival, SocketType, command, message};
use bytes::Bytes;
use dynamo_runtime::Tasks;
use dynamo_runtime::environment::{Connection, Listener};
use dynamo_runtime::event_plane::WaitingMessages;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Bytes that wait for one subscriber: seconds of a busy fleet, and what is lost is read over.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// Subscribers at once: each router follows each topic over a connection of its own.
const MAX_SUBSCRIBERS: usize = 4096;

/// Subscriptions of one connection.
const MAX_SUBSCRIPTIONS: usize = 256;

/// Pause after a failed accept, so that it does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Bytes before the context of a ping, and of the context at most, by the protocol.
const PING_TTL_BYTES: usize = 2;
const MAX_PING_CONTEXT: usize = 16;

/// A publisher. Cheap to clone; clones are the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publisher {
    subscribers: Arc<Mutex<Subscribers>>,
}

#[derive(Debug, Default)]
struct Subscribers {
    by_number: BTreeMap<u64, Arc<Subscriber>>,
    next: u64,
}

#[derive(Debug)]
struct Subscriber {
    waiting: WaitingMessages,
    /// What the topics that it wants begin with.
    prefixes: Mutex<Vec<Bytes>>,
}

impl Publisher {
    /// Takes subscribers until `tasks` are cancelled.
    pub(crate) fn serve(&self, listener: Box<dyn Listener>, tasks: &Tasks) {
        let (own, below) = (self.clone(), tasks.child());
        tasks.spawn_until_cancelled("zmq publisher", async move {
            loop {
                match listener.accept().await {
                    Ok((connection, _)) => own.take(connection, &below),
                    Err(error) => {
                        tracing::warn!(%error, "accepting a zmq subscriber failed");
                        sleep(ACCEPT_BACKOFF).await;
                    }
                }
            }
        });
    }

    /// Sends a message to whoever wants its topic.
    pub(crate) fn publish(&self, topic: &str, parts: &[&[u8]]) {
        let subscribers = self.subscribers.lock();
        let mut frames = None;
        for subscriber in subscribers.by_number.values() {
            let wants = |prefix: &Bytes| topic.as_bytes().starts_with(prefix);
            if !subscriber.prefixes.lock().iter().any(wants) {
                continue;
            }
            let frames = frames.get_or_insert_with(|| {
                let mut all = vec![topic.as_bytes()];
                all.extend_from_slice(parts);
                message(&all)
            });
            // What is lost is missed by its number.
            subscriber.waiting.put(frames.clone());
        }
    }

    fn take(&self, connection: Box<dyn Connection>, tasks: &Tasks) {
        let subscriber = Arc::new(Subscriber {
            waiting: WaitingMessages::new(MAX_WAITING_BYTES),
            prefixes: Mutex::default(),
        });
        let mut subscribers = self.subscribers.lock();
        if subscribers.by_number.len() >= MAX_SUBSCRIBERS {
            tracing::warn!(limit = MAX_SUBSCRIBERS, "zmq subscriber refused");
            return;
        }
        let number = subscribers.next;
        subscribers.next += 1;
        subscribers
            .by_number
            .insert(number, Arc::clone(&subscriber));
        drop(subscribers);
        let own = self.clone();
        tasks.spawn_until_cancelled("zmq subscriber", async move {
            if let Err(error) = serve(connection, &subscriber).await {
                tracing::debug!(%error, "a zmq subscriber left");
            }
            own.subscribers.lock().by_number.remove(&number);
        });
    }
}

/// What the loop of a connection wakes up for.
enum Event {
    Arrival(Result<Arrival, SocketError>),
    Message(Option<Bytes>),
}

async fn serve(
    connection: Box<dyn Connection>,
    subscriber: &Subscriber,
) -> Result<(), SocketError> {
    let mut socket = Socket::accept(connection, SocketType::Pub).await?;
    loop {
        let event = tokio::select! {
            biased;
            arrival = socket.receive() => Event::Arrival(arrival),
            message = subscriber.waiting.next() => Event::Message(message),
        };
        match event {
            Event::Arrival(arrival) => match arrival? {
                Arrival::Message(parts) => {
                    if let Some(first) = parts.first() {
                        subscriber.take(first);
                    }
                }
                Arrival::Command { name, body } if name == "PING" => {
                    let context = body.get(PING_TTL_BYTES..).unwrap_or_default();
                    let context = context.get(..MAX_PING_CONTEXT).unwrap_or(context);
                    socket.send(&command("PONG", context)).await?;
                }
                Arrival::Command { name, body } if name == "SUBSCRIBE" => {
                    subscriber.subscribe(body);
                }
                Arrival::Command { name, body } if name == "CANCEL" => subscriber.cancel(&body),
                Arrival::Command { .. } => {}
            },
            Event::Message(Some(frames)) => socket.send(&frames).await?,
            Event::Message(None) => return Ok(()),
        }
    }
}

impl Subscriber {
    /// A subscription as messages tell it: one byte that says whether, then the prefix.
    fn take(&self, message: &Bytes) {
        match message.first() {
            Some(1) => self.subscribe(message.slice(1..)),
            Some(0) => self.cancel(&message[1..]),
            _ => {}
        }
    }

    fn subscribe(&self, prefix: Bytes) {
        let mut prefixes = self.prefixes.lock();
        if prefixes.len() < MAX_SUBSCRIPTIONS {
            prefixes.push(prefix);
        }
    }

    fn cancel(&self, prefix: &[u8]) {
        let mut prefixes = self.prefixes.lock();
        if let Some(index) = prefixes.iter().position(|known| known == prefix) {
            prefixes.swap_remove(index);
        }
    }
}
