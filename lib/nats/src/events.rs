//! The event plane's medium over NATS: one subject per channel and process.
//!
//! Core NATS brings each message to all who listen, and remembers none. With JetStream on, the
//! server keeps them as well, see [`crate::jetstream`].
//!
//! Invariants
//! - A subscriber that does not read holds `MAX_WAITING_BYTES` and no more; what is beyond is
//!   lost, and read from the publisher.

use crate::jetstream::Kept;
use crate::link::Link;
use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use dynamo_runtime::Tasks;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::environment::RandomSource;
use dynamo_runtime::event_plane::WaitingMessages;
use dynamo_runtime::event_plane::broadcast::{Broadcast, BroadcastError, Listening, Topic};
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::DropGuard;

/// The medium's name in addresses.
const SCHEME: &str = "nats://";

/// First tokens of every subject of events.
pub(crate) const PREFIX: &str = "dynamo.ev";

/// Bytes that wait for one subscription: what a publisher remembers.
const MAX_WAITING_BYTES: usize = 256 * 1024;

/// How long a message may wait for a client that is full because the server is away.
const SEND_TIMEOUT: Duration = Duration::from_millis(100);

/// Events over NATS.
#[derive(Debug)]
pub struct NatsEvents {
    link: Link,
    tasks: Tasks,
    random: Arc<dyn RandomSource>,
    jetstream: bool,
}

struct NatsTopic {
    link: Link,
    address: String,
    subject: Subject,
}

struct NatsListening {
    queue: Arc<WaitingMessages>,
    kept: Option<Kept>,
    _reading: DropGuard,
}

impl NatsEvents {
    /// Events through this link. With `jetstream` the server keeps them as well.
    pub async fn start(
        link: Link,
        tasks: Tasks,
        random: Arc<dyn RandomSource>,
        jetstream: bool,
    ) -> Self {
        if jetstream {
            crate::jetstream::keep_stream(&link, &tasks);
        }
        Self {
            link,
            tasks,
            random,
            jetstream,
        }
    }
}

impl Broadcast for NatsEvents {
    fn open<'a>(
        &'a self,
        name: &'a EndpointId,
    ) -> BoxFuture<'a, Result<Box<dyn Topic>, BroadcastError>> {
        let token = |name: &str| -> String {
            let safe = |letter: char| match letter {
                letter if letter.is_ascii_alphanumeric() || letter == '-' => letter,
                _ => '_',
            };
            name.chars().map(safe).collect()
        };
        let subject = format!(
            "{PREFIX}.{}.{}.{}.{:016x}",
            token(name.namespace()),
            token(name.component()),
            token(name.endpoint()),
            self.random.next_u64()
        );
        let topic = NatsTopic {
            link: self.link.clone(),
            address: format!("{SCHEME}{subject}"),
            subject: subject.into(),
        };
        Box::pin(std::future::ready(Ok(Box::new(topic) as Box<dyn Topic>)))
    }

    fn listen<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Listening>, BroadcastError>> {
        Box::pin(async move {
            let subject = address
                .strip_prefix(SCHEME)
                .filter(|subject| subject.starts_with(PREFIX) && !subject.contains(['*', '>', ' ']))
                .ok_or_else(|| BroadcastError(format!("{address} is no nats subject of events")))?
                .to_owned();
            let messages = self.link.client().subscribe(subject.clone()).await;
            let messages = messages.map_err(|error| BroadcastError(error.to_string()))?;
            let queue = Arc::new(WaitingMessages::new(MAX_WAITING_BYTES));
            let tasks = self.tasks.child();
            tasks.spawn_until_cancelled("nats events", read(messages, Arc::clone(&queue)));
            let kept = self
                .jetstream
                .then(|| Kept::new(self.link.clone(), subject));
            Ok(Box::new(NatsListening {
                queue,
                kept,
                _reading: tasks.cancellation().clone().drop_guard(),
            }) as Box<dyn Listening>)
        })
    }
}

/// Takes messages off the client, which would keep many more of them.
async fn read(mut messages: Subscriber, queue: Arc<WaitingMessages>) {
    while let Some(message) = messages.next().await {
        queue.put(message.payload);
    }
    queue.end();
}

impl Topic for NatsTopic {
    fn address(&self) -> &str {
        &self.address
    }

    fn max_message(&self) -> usize {
        self.link.max_payload()
    }

    fn send(&self, message: Bytes) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let sent = self.link.client().publish(self.subject.clone(), message);
            // One that is lost is missed by its number.
            drop(timeout(SEND_TIMEOUT, sent).await);
        })
    }
}

impl Listening for NatsListening {
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(self.queue.next())
    }

    fn replay(&mut self) -> BoxFuture<'_, Vec<Bytes>> {
        Box::pin(async {
            match &mut self.kept {
                Some(kept) => kept.replay().await,
                None => Vec::new(),
            }
        })
    }
}
