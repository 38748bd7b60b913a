//! The contract of the event plane: one suite that every backend passes. Test support.
//!
//! A backend's tests say how a process of it is started and killed ([`TestBackend`],
//! [`TestProcess`]); [`event_plane_contract!`](crate::event_plane_contract) makes one test of each
//! case. The cases wait for events and never for time to pass.
#![expect(missing_docs, reason = "the names of the cases say it all")]

use super::{Channel, ChannelState, EventPlane, News, Publication, Subscription};
use crate::discovery::{EndpointId, InstanceId};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A backend under test: its processes find each other.
pub trait TestBackend: Send + Sync {
    /// Starts a process.
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>>;
}

/// A process under test.
pub trait TestProcess: Send + Sync {
    /// Its side of the plane.
    fn plane(&self) -> &dyn EventPlane;
    /// Ends as abruptly as the backend allows; the others hear of it.
    fn kill(&self) -> BoxFuture<'_, ()>;
}

/// Nothing in a healthy run takes this long: a case that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes one test of each case for a backend. What stands in brackets goes to `tokio::test`.
#[macro_export]
macro_rules! event_plane_contract {
    ($name:ident, [$($flavor:tt)*], $backend:expr) => {
        $crate::event_plane_contract! { @cases $name, [$($flavor)*], $backend,
            a_subscriber_hears_every_event_once_and_in_order
            a_late_subscriber_begins_with_a_snapshot
            an_empty_channel_is_heard_of
            a_subscriber_that_stops_reading_misses_nothing_silently
            publishers_that_come_and_go_are_told
            a_publisher_that_returns_is_a_new_one
            a_closed_channel_ends
        }
    };
    (@cases $name:ident, $flavor:tt, $backend:expr, $($case:ident)+) => {
        mod $name {
            #[expect(unused_imports, reason = "the backend may be written without names from outside")]
            use super::*;
            $($crate::event_plane_contract! { @case $flavor, $backend, $case })+
        }
    };
    (@case [$($flavor:tt)*], $backend:expr, $case:ident) => {
        #[tokio::test($($flavor)*)]
        async fn $case() {
            $crate::event_plane::contract::$case(&$backend).await;
        }
    };
}

/// A state that is all that ever happened, so that anything missed or doubled shows.
#[derive(Debug, Default)]
struct History(Vec<u32>);

impl ChannelState for History {
    fn snapshot(&self) -> Vec<Bytes> {
        let pieces = self.0.chunks(1000);
        pieces
            .map(|piece| piece.iter().flat_map(|n| n.to_le_bytes()).collect())
            .collect()
    }
}

type Numbers = Arc<Channel<History>>;

fn publish(channel: &Numbers, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        channel.publish(|history| {
            history.0.push(number);
            Some(Bytes::copy_from_slice(&number.to_le_bytes()))
        });
    }
}

fn name() -> EndpointId {
    EndpointId::new("ns", "comp", "numbers").expect("it is a name")
}

async fn open(process: &dyn TestProcess, epoch: u64) -> (Numbers, Publication) {
    let channel = Arc::new(Channel::new(epoch, History::default()));
    let publication = process.plane().publish(name(), Arc::clone(&channel) as _);
    (channel, publication.await.expect("it can be published"))
}

/// A subscriber that keeps what each publisher's news add up to.
struct Follower {
    subscription: Subscription,
    known: BTreeMap<InstanceId, Known>,
    snapshots: usize,
}

#[derive(Debug, Default)]
struct Known {
    history: Vec<u32>,
    lost: bool,
}

impl Follower {
    fn of(process: &dyn TestProcess) -> Self {
        Self {
            subscription: process.plane().subscribe(name(), Arc::new(|_| true)),
            known: BTreeMap::new(),
            snapshots: 0,
        }
    }

    /// Takes in news until `is_so`.
    async fn until(&mut self, what: &str, is_so: impl Fn(&BTreeMap<InstanceId, Known>) -> bool) {
        let follow = async {
            while !is_so(&self.known) {
                let heard = self.subscription.next().await;
                let heard = heard.expect("the process lives");
                self.take(heard.publisher, heard.news);
            }
        };
        if timeout(PATIENCE, follow).await.is_err() {
            panic!("never so: {what}; known: {:?}", self.known);
        }
    }

    fn take(&mut self, publisher: InstanceId, news: News) {
        let numbers = |parts: Vec<Bytes>| {
            let numbers = parts.concat();
            let numbers = numbers.chunks_exact(4);
            let numbers = numbers.map(|n| u32::from_le_bytes([n[0], n[1], n[2], n[3]]));
            numbers.collect::<Vec<_>>()
        };
        match news {
            News::Snapshot(pieces) => {
                self.snapshots += 1;
                let known = Known {
                    history: numbers(pieces),
                    lost: false,
                };
                self.known.insert(publisher, known);
            }
            News::Events(events) => {
                let known = self.known.get_mut(&publisher);
                let known = known.expect("a snapshot comes before the first event");
                known.lost = false;
                known.history.extend(numbers(events));
                let all = 0..known.history.len() as u32;
                assert!(
                    known.history.iter().copied().eq(all),
                    "each once and in order"
                );
            }
            News::Lost => {
                let known = self.known.get_mut(&publisher);
                known.expect("only who was there can be lost").lost = true;
            }
            News::Gone => {
                self.known.remove(&publisher);
            }
        }
    }

    async fn hears(&mut self, publisher: InstanceId, count: u32) {
        let all = |known: &BTreeMap<InstanceId, Known>| {
            known
                .get(&publisher)
                .is_some_and(|known| known.history.len() == count as usize)
        };
        self.until("all is heard", all).await;
        assert!(self.known[&publisher].history.iter().copied().eq(0..count));
    }
}

pub async fn a_subscriber_hears_every_event_once_and_in_order(backend: &dyn TestBackend) {
    let (publisher, subscriber) = (backend.start().await, backend.start().await);
    let mut follower = Follower::of(&*subscriber);
    let (channel, publication) = open(&*publisher, 1).await;
    follower.hears(publication.instance(), 0).await;
    for start in (0..3000).step_by(100) {
        publish(&channel, start..start + 100);
        tokio::task::yield_now().await;
    }
    follower.hears(publication.instance(), 3000).await;
}

pub async fn a_late_subscriber_begins_with_a_snapshot(backend: &dyn TestBackend) {
    let (publisher, subscriber) = (backend.start().await, backend.start().await);
    let (channel, publication) = open(&*publisher, 1).await;
    publish(&channel, 0..100_000);
    let mut follower = Follower::of(&*subscriber);
    follower.hears(publication.instance(), 100_000).await;
    publish(&channel, 100_000..100_500);
    follower.hears(publication.instance(), 100_500).await;
    assert_eq!(follower.snapshots, 1);
}

pub async fn an_empty_channel_is_heard_of(backend: &dyn TestBackend) {
    let (publisher, subscriber) = (backend.start().await, backend.start().await);
    let (_channel, publication) = open(&*publisher, 1).await;
    let mut follower = Follower::of(&*subscriber);
    follower.hears(publication.instance(), 0).await;
}

pub async fn a_subscriber_that_stops_reading_misses_nothing_silently(backend: &dyn TestBackend) {
    let (publisher, subscriber) = (backend.start().await, backend.start().await);
    let (channel, publication) = open(&*publisher, 1).await;
    let mut follower = Follower::of(&*subscriber);
    let mut attentive = Follower::of(&*subscriber);
    follower.hears(publication.instance(), 0).await;
    let mut count = 0;
    // More than all buffers on the way and the publisher's memory hold.
    while count < 400_000 {
        publish(&channel, count..count + 1000);
        count += 1000;
        attentive.hears(publication.instance(), count).await;
    }
    follower.hears(publication.instance(), count).await;
    assert!(follower.snapshots >= 2, "it was told of what it missed");
}

pub async fn publishers_that_come_and_go_are_told(backend: &dyn TestBackend) {
    let subscriber = backend.start().await;
    let mut follower = Follower::of(&*subscriber);
    let (first, second) = (backend.start().await, backend.start().await);
    let (of_first, one) = open(&*first, 1).await;
    let (of_second, two) = open(&*second, 2).await;
    publish(&of_first, 0..10);
    publish(&of_second, 0..20);
    follower.hears(one.instance(), 10).await;
    follower.hears(two.instance(), 20).await;
    first.kill().await;
    let (one, two) = (one.instance(), two.instance());
    let is_alone =
        |known: &BTreeMap<InstanceId, Known>| !known.contains_key(&one) && known.contains_key(&two);
    follower.until("the killed one is gone", is_alone).await;
    publish(&of_second, 20..30);
    follower.hears(two, 30).await;
}

pub async fn a_publisher_that_returns_is_a_new_one(backend: &dyn TestBackend) {
    let (publisher, subscriber) = (backend.start().await, backend.start().await);
    let mut follower = Follower::of(&*subscriber);
    let (channel, publication) = open(&*publisher, 1).await;
    let instance = publication.instance();
    publish(&channel, 0..10);
    follower.hears(instance, 10).await;
    publication.close().await;
    let (channel, publication) = open(&*publisher, 2).await;
    publish(&channel, 0..5);
    follower.hears(publication.instance(), 5).await;
}

pub async fn a_closed_channel_ends(backend: &dyn TestBackend) {
    let (publisher, subscriber) = (backend.start().await, backend.start().await);
    let (channel, publication) = open(&*publisher, 1).await;
    let mut follower = Follower::of(&*subscriber);
    publish(&channel, 0..10);
    follower.hears(publication.instance(), 10).await;
    // It would wait for its subscribers' streams for ever if it did not end them.
    timeout(PATIENCE, publication.close())
        .await
        .expect("it closes");
    follower.until("it is gone", BTreeMap::is_empty).await;
}
