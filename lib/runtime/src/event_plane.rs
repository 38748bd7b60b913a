//! The event plane: a process publishes what happens to it, and any number of others follow.
//!
//! A publisher's events are numbered and add up to a state. Whoever subscribes late, or missed
//! more than the publisher remembers, gets the state first and the events from there on; nobody
//! has to have been there from the beginning, and nothing is missed without a word.
//!
//! Invariants
//! - A subscriber gets a snapshot, then every later event once and in order, or another snapshot
//!   in place of those that it missed. Snapshot and events fit together: none is in both.
//! - Publishing never waits: a subscriber that is slow, or stops, costs the publisher a bounded
//!   memory of events and nothing else.
//! - A publisher that restarts is a new one: its numbers are of another epoch.
//! - Losing sight of a publisher is said ([`News::Lost`]), and seeing it again: what was known of it
//!   may be stale until its next news, which come also if nothing has happened.
//!
//! - [`channel`]: the publisher's side of a channel, which every backend reads
//! - [`log`]: the remembered events, pure
//! - [`direct`]: the default backend, from publisher to subscriber without a broker
//! - [`broadcast`]: through a medium that brings each message to all subscribers, and may lose some
//! - [`contract`]: the suite that every backend passes

pub mod broadcast;
pub mod channel;
pub mod contract;
pub mod direct;
pub mod log;
mod subscriber;
mod waiting;

pub use broadcast::{Broadcast, BroadcastEventPlane};
pub use channel::{Channel, ChannelState, ChannelWatch, ReadChannel};
pub use direct::DirectEventPlane;
pub use waiting::WaitingMessages;

use crate::Tasks;
use crate::component::{InstanceFilter, ServeError, ServedEndpoint};
use crate::discovery::{EndpointId, InstanceId};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// News that wait for the subscriber: enough to keep it busy while more come in, and little
/// beside what publishers remember.
const MAX_WAITING_NEWS: usize = 256;

/// A way to bring events from publishers to subscribers.
pub trait EventPlane: Send + Sync + fmt::Debug + 'static {
    /// Lets others follow a channel of this process, under an endpoint's name.
    fn publish(
        &self,
        name: EndpointId,
        channel: Arc<dyn ReadChannel>,
    ) -> BoxFuture<'_, Result<Publication, ServeError>>;

    /// Follows the channels of this name of the processes that `publishers` accepts, those that
    /// come later included.
    fn subscribe(&self, name: EndpointId, publishers: InstanceFilter) -> Subscription;
}

/// A channel that others can follow. Dropping it ends their streams.
#[derive(Debug)]
pub struct Publication {
    served: ServedEndpoint,
    closed: CancellationToken,
    /// Stops what tells a medium of the channel.
    telling: Option<DropGuard>,
}

/// The news of every publisher of a channel. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    news: mpsc::Receiver<PublisherNews>,
    tasks: Tasks,
}

/// News of one publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherNews {
    /// Whose.
    pub publisher: InstanceId,
    /// What.
    pub news: News,
}

/// What a subscriber hears of a publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// All that is so, in place of everything heard before.
    Snapshot(Vec<Bytes>),
    /// What happened since, in order; nothing, if it was lost and is in reach again.
    Events(Vec<Bytes>),
    /// It cannot be reached for now.
    Lost,
    /// It is no more.
    Gone,
}

// === impl Publication ===

impl Publication {
    fn new(served: ServedEndpoint, closed: CancellationToken) -> Self {
        Self {
            served,
            closed,
            telling: None,
        }
    }

    fn with_telling(self, telling: DropGuard) -> Self {
        Self {
            telling: Some(telling),
            ..self
        }
    }

    /// This process's instance of the channel.
    pub fn instance(&self) -> InstanceId {
        self.served.instance()
    }

    /// Ends the subscribers' streams and withdraws the channel.
    pub async fn close(self) {
        drop(self.telling);
        self.closed.cancel();
        self.served.drain().await;
    }
}

// === impl Subscription ===

impl Subscription {
    /// A subscription whose news `follow` brings, in a task below `tasks`.
    fn start<F>(tasks: &Tasks, follow: impl FnOnce(mpsc::Sender<PublisherNews>, Tasks) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, news) = mpsc::channel(MAX_WAITING_NEWS);
        let tasks = tasks.child();
        tasks.spawn_until_cancelled("event subscription", follow(sender, tasks.clone()));
        Self { news, tasks }
    }

    /// The next news; `None` once the process stops.
    pub async fn next(&mut self) -> Option<PublisherNews> {
        self.news.recv().await
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
