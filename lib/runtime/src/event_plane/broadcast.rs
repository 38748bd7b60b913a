//! Events through a medium that brings each message to all subscribers at once, and may lose some:
//! NATS subjects, ZMQ sockets.
//!
//! The publisher sends each event once, whatever the number of subscribers. What the medium cannot
//! do is done over the request plane: a subscriber that comes late, or that sees by the numbers
//! that it missed something, reads from the publisher's endpoint, which is the one of the
//! [direct](super::direct) backend. So a medium needs no memory, and a process that does not speak
//! it, or another one, can follow all the same.
//!
//! Invariants
//! - The publisher says where it stands every [`TIP_INTERVAL`], so that the loss of the last event
//!   is noticed as well, and so is a medium that brings nothing.
//! - Nothing waits for the medium: what it does not take is missed, and read later.

use super::channel::ReadChannel;
use super::direct::{ChannelItem, follow_handler};
use super::log::{Cursor, Since};
use super::subscriber::{Source, follow};
use super::{EventPlane, Publication, Subscription};
use crate::component::typed::encode;
use crate::component::{DistributedRuntime, InstanceFilter, ServeError};
use crate::discovery::{EndpointId, Metadata};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// How often a publisher says where it stands when it has nothing else to say.
pub const TIP_INTERVAL: Duration = Duration::from_secs(1);

/// How soon it says so after the last of some events: once it is quiet, so that a busy publisher
/// spends no message on it.
const QUIET_AFTER: Duration = Duration::from_millis(50);

/// Key of the topic's address in the metadata of a channel's endpoint.
pub(super) const ADDRESS_KEY: &str = "events";

/// Bytes of events in one message, at most: many events of a burst, few enough for any medium.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Room for what stands around the events of a message.
const ENVELOPE_BYTES: usize = 1024;

/// A medium.
pub trait Broadcast: Send + Sync + fmt::Debug + 'static {
    /// Opens a topic that is this process's alone.
    fn open<'a>(
        &'a self,
        name: &'a EndpointId,
    ) -> BoxFuture<'a, Result<Box<dyn Topic>, BroadcastError>>;

    /// Listens to a topic.
    fn listen<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Listening>, BroadcastError>>;
}

/// The publisher's end of a topic.
pub trait Topic: Send + Sync {
    /// Where subscribers find it, with the medium as scheme.
    fn address(&self) -> &str;
    /// Largest message that it takes.
    fn max_message(&self) -> usize;
    /// Sends a message to all that listen, or to nobody.
    fn send(&self, message: Bytes) -> BoxFuture<'_, ()>;
}

/// A subscriber's end of a topic. It holds a bounded number of bytes that wait to be read, and
/// loses messages beyond them.
pub trait Listening: Send {
    /// The next message; `None` if the medium broke off. Can be dropped at any point.
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>>;

    /// Messages that were sent earlier, the oldest first, if the medium remembers any.
    fn replay(&mut self) -> BoxFuture<'_, Vec<Bytes>> {
        Box::pin(std::future::ready(Vec::new()))
    }
}

/// Why a medium does not work now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BroadcastError(pub String);

/// The backend of the event plane over a [`Broadcast`].
#[derive(Debug, Clone)]
pub struct BroadcastEventPlane {
    runtime: DistributedRuntime,
    medium: Arc<dyn Broadcast>,
}

impl BroadcastEventPlane {
    /// The event plane of a process.
    pub fn new(runtime: DistributedRuntime, medium: Arc<dyn Broadcast>) -> Self {
        Self { runtime, medium }
    }
}

impl EventPlane for BroadcastEventPlane {
    fn publish(
        &self,
        name: EndpointId,
        channel: Arc<dyn ReadChannel>,
    ) -> BoxFuture<'_, Result<Publication, ServeError>> {
        Box::pin(async move {
            let mut metadata = Metadata::new();
            let topic = match self.medium.open(&name).await {
                Ok(topic) => {
                    metadata.insert(ADDRESS_KEY.to_owned(), topic.address().into());
                    Some(topic)
                }
                Err(error) => {
                    tracing::warn!(endpoint = %name, %error, "events go to each subscriber alone");
                    None
                }
            };
            let closed = CancellationToken::new();
            let handler = follow_handler(Arc::clone(&channel), closed.clone());
            let endpoint = self.runtime.endpoint(name);
            let served = endpoint.serve(handler, metadata).await?;
            let tasks = self.runtime.tasks().child();
            if let Some(topic) = topic {
                tasks.spawn_until_cancelled("event topic", tell(channel, topic));
            }
            let telling = tasks.cancellation().clone().drop_guard();
            Ok(Publication::new(served, closed).with_telling(telling))
        })
    }

    fn subscribe(&self, name: EndpointId, publishers: InstanceFilter) -> Subscription {
        let client = self.runtime.endpoint(name).typed_client_of(publishers);
        let source = Source {
            client: Arc::new(client),
            random: Arc::clone(&self.runtime.environment().random),
            medium: Some(Arc::clone(&self.medium)),
        };
        Subscription::start(self.runtime.tasks(), |news, tasks| {
            follow(source, news, tasks)
        })
    }
}

/// Sends what happens on the channel, until cancelled.
async fn tell(channel: Arc<dyn ReadChannel>, topic: Box<dyn Topic>) {
    let mut changes = channel.watch();
    let mut cursor = channel.end();
    let mut patience = QUIET_AFTER;
    loop {
        // Marked before it is read: an event in between is seen at the next turn.
        changes.mark_seen();
        let most = topic.max_message().min(MAX_MESSAGE_BYTES);
        let (events, missed) = match channel.since(cursor, most.saturating_sub(ENVELOPE_BYTES)) {
            Since::Events(events, after) => {
                cursor = after;
                (events, false)
            }
            // More happened at once than is remembered: subscribers read it all anew.
            Since::Missed => {
                cursor = channel.end();
                (Vec::new(), true)
            }
        };
        if missed || !events.is_empty() {
            send(&*topic, cursor, events).await;
            patience = QUIET_AFTER;
            continue;
        }
        if timeout(patience, changes.changed()).await.is_err() {
            send(&*topic, cursor, Vec::new()).await;
            patience = TIP_INTERVAL;
        }
    }
}

async fn send(topic: &dyn Topic, cursor: Cursor, payloads: Vec<Bytes>) {
    let mut item = ChannelItem {
        cursor: cursor.into(),
        snapshot: None,
        payloads,
    };
    let Ok(mut message) = encode(&item) else {
        return;
    };
    if message.len() > topic.max_message() {
        // One event is too large for the medium: its number is said, and it is read.
        item.payloads.clear();
        match encode(&item) {
            Ok(tip) => message = tip,
            Err(_) => return,
        }
    }
    topic.send(message).await;
}

/// What a message is to a subscriber that stands somewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The events after so many are new, and the next ones.
    Next(usize),
    /// Nothing in it is new.
    Old,
    /// Something before it is missing.
    Gap,
}

/// How a message of so many events, after which one stands at `after`, fits a subscriber.
pub(super) fn fit(stands: Cursor, after: Cursor, events: usize) -> Fit {
    if stands.epoch != after.epoch {
        return Fit::Gap;
    }
    let first = after.next.saturating_sub(events as u64);
    if after.next <= stands.next {
        Fit::Old
    } else if first <= stands.next && events > 0 {
        Fit::Next(usize::try_from(stands.next - first).unwrap_or(events))
    } else {
        Fit::Gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, next: u64) -> Cursor {
        Cursor { epoch, next }
    }

    #[test]
    fn a_message_is_next_old_or_after_a_gap() {
        assert_eq!(fit(at(1, 5), at(1, 8), 3), Fit::Next(0));
        assert_eq!(fit(at(1, 6), at(1, 8), 3), Fit::Next(1));
        assert_eq!(fit(at(1, 8), at(1, 8), 3), Fit::Old);
        assert_eq!(fit(at(1, 9), at(1, 8), 3), Fit::Old);
        assert_eq!(fit(at(1, 4), at(1, 8), 3), Fit::Gap);
    }

    #[test]
    fn a_word_of_where_the_publisher_stands_is_old_or_a_gap() {
        assert_eq!(fit(at(1, 8), at(1, 8), 0), Fit::Old);
        assert_eq!(fit(at(1, 7), at(1, 8), 0), Fit::Gap);
        assert_eq!(fit(at(1, 8), at(2, 8), 0), Fit::Gap);
    }
}
