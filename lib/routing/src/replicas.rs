//! Replicas of a router tell each other what they book, which worker a conversation is with, and
//! who is next of those that wait, so that all see the load that all make and take turns.
//!
//! Each publishes a channel whose state is its router's own snapshot, and follows the others'. A
//! request only puts its steps into the router's outbox; a task takes them out and sends what
//! came together within `LINGER`, in batches.
//!
//! Invariants
//! - A replica's view of another is that one's own view, a little later: steps are counted, so
//!   that those which a snapshot holds already are not taken over twice.
//! - A replica out of reach keeps its bookings until discovery says that it is gone; the book's
//!   own bound on bookings without a sign of life holds besides.
//! - Locks are taken in one order, the channel's before the router's, and a batch at a time.
//!
//! What is not exchanged: the requests that wait, but for what the first of each replica stands
//! for; the counts behind the queue's limits; hit rates and the log of decisions.

use crate::router::Shared;
use bytes::Bytes;
use dynamo_kv_router::router::{Change, Changes};
use dynamo_runtime::component::{DistributedRuntime, InstanceFilter};
use dynamo_runtime::discovery::{EndpointId, InstanceId, NameError};
use dynamo_runtime::event_plane::{
    Channel, ChannelState, EventPlane, News, Publication, PublisherNews, Subscription,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use xxhash_rust::xxh3::xxh3_64;

/// First part of the name of the endpoints whose streams are bookings.
const BOOKINGS_ENDPOINT: &str = "router-bookings";

/// How long a change waits for others: less than a step of an engine, and long enough that a busy
/// router sends a thousand batches a second at most.
const LINGER: Duration = Duration::from_millis(1);

/// Changes of one batch.
const MAX_BATCH: usize = 256;

/// Blocks of one batch, which keep it at some tens of kilobytes. A single booking may have more.
const MAX_BATCH_BLOCKS: usize = 4_096;

/// Wait before a channel that could not be published is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// What a replica tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Telling {
    /// Whatever was told before is void. States follow, then steps from number `next` on.
    Anew { origin: u64, next: u64 },
    /// A part of all that is so.
    State { origin: u64, changes: Vec<Change> },
    /// What happened, from step `first` on.
    Steps {
        origin: u64,
        first: u64,
        changes: Vec<Change>,
    },
}

/// A router's side of the exchange.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    /// Told when there is something to tell.
    unsent: Notify,
    peers: AtomicU64,
    told: AtomicU64,
    heard: AtomicU64,
    malformed: AtomicU64,
    losses: AtomicU64,
}

/// The exchange in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplicaCounts {
    /// Other replicas that are there.
    pub peers: u64,
    /// Steps that were told.
    pub told: u64,
    /// Steps of others that were heard, those of their snapshots included.
    pub heard: u64,
    /// Pieces of news that could not be read, or that spoke for somebody else.
    pub malformed: u64,
    /// Times that another replica was out of reach.
    pub losses: u64,
}

/// What a channel's events add up to: the router's own bookings.
struct Own(Arc<Shared>);

/// How far another replica has been heard.
#[derive(Debug, Clone, Copy)]
struct Peer {
    origin: u64,
    next: u64,
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Own").finish_non_exhaustive()
    }
}

/// The endpoint of the bookings with a model's workers. Other models of the same component have
/// others.
pub fn bookings_endpoint(
    generate: &EndpointId,
    model: &str,
    checksum: &str,
) -> Result<EndpointId, NameError> {
    let identity = format!("{}\n{checksum}\n{model}", generate.endpoint());
    let endpoint = format!("{BOOKINGS_ENDPOINT}-{:016x}", xxh3_64(identity.as_bytes()));
    EndpointId::new(generate.namespace(), generate.component(), &endpoint)
}

/// Tells the other replicas what this one books, until cancelled.
pub(crate) async fn tell(runtime: DistributedRuntime, name: EndpointId, shared: Arc<Shared>) {
    let epoch = runtime.environment().random.next_u64();
    let channel = Arc::new(Channel::new(epoch, Own(Arc::clone(&shared))));
    let plane = runtime.event_plane();
    // Its streams last as long as this task.
    let _publication = publish(&*plane, &name, &channel).await;
    loop {
        shared.replicas.unsent.notified().await;
        sleep(LINGER).await;
        let now = shared.now();
        let changes = shared.with_router_mut(|router| router.take_changes(now));
        let told = changes.changes.len() as u64;
        shared.replicas.told.fetch_add(told, Ordering::Relaxed);
        let origin = shared.origin();
        let tellings = match changes.is_complete {
            true => steps(origin, changes),
            false => anew(origin, shared.snapshot_of_bookings()),
        };
        for telling in tellings {
            channel.publish(|_| encode(&telling));
        }
    }
}

async fn publish(
    plane: &dyn EventPlane,
    name: &EndpointId,
    channel: &Arc<Channel<Own>>,
) -> Publication {
    loop {
        match plane.publish(name.clone(), Arc::clone(channel) as _).await {
            Ok(publication) => return publication,
            Err(error) => {
                tracing::warn!(%error, "other replicas cannot be told of this router's bookings now");
                sleep(RETRY).await;
            }
        }
    }
}

/// Follows the other replicas: every publisher of the channel but this process.
pub(crate) fn subscribe(runtime: &DistributedRuntime, name: EndpointId) -> Subscription {
    let own_address = runtime.request_plane().address().to_owned();
    let others: InstanceFilter = Arc::new(move |process| {
        let mut instances = process.instances.iter();
        instances.all(|instance| instance.address != own_address)
    });
    runtime.event_plane().subscribe(name, others)
}

/// Takes over what the other replicas tell, until cancelled.
pub(crate) async fn hear(mut news: Subscription, shared: Arc<Shared>) {
    let mut peers = Peers::new(shared);
    while let Some(heard) = news.next().await {
        peers.hear(&heard);
    }
}

fn steps(origin: u64, changes: Changes) -> Vec<Telling> {
    let mut first = changes.first;
    let batches = batches(changes.changes).into_iter();
    let telling = batches.map(|changes| {
        let number = first;
        first += changes.len() as u64;
        Telling::Steps {
            origin,
            first: number,
            changes,
        }
    });
    telling.collect()
}

fn anew(origin: u64, state: Changes) -> Vec<Telling> {
    let next = state.first;
    let mut tellings = vec![Telling::Anew { origin, next }];
    let batches = batches(state.changes).into_iter();
    tellings.extend(batches.map(|changes| Telling::State { origin, changes }));
    tellings
}

fn batches(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut blocks = 0;
    for change in changes {
        blocks += change.blocks();
        let is_full = batch.len() == MAX_BATCH || blocks > MAX_BATCH_BLOCKS;
        if is_full && !batch.is_empty() {
            batches.push(std::mem::take(&mut batch));
            blocks = change.blocks();
        }
        batch.push(change);
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn encode(telling: &Telling) -> Option<Bytes> {
    match rmp_serde::to_vec_named(telling) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            tracing::error!(%error, "a router's bookings could not be written");
            None
        }
    }
}

impl ChannelState for Own {
    fn snapshot(&self) -> Vec<Bytes> {
        let tellings = anew(self.0.origin(), self.0.snapshot_of_bookings());
        tellings.iter().filter_map(encode).collect()
    }
}

// === impl Replicas ===

impl Replicas {
    /// There is something to tell.
    pub(crate) fn notify(&self) {
        self.unsent.notify_one();
    }

    pub(crate) fn counts(&self) -> ReplicaCounts {
        ReplicaCounts {
            peers: self.peers.load(Ordering::Relaxed),
            told: self.told.load(Ordering::Relaxed),
            heard: self.heard.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
        }
    }
}

/// The other replicas, as far as they have been heard.
struct Peers {
    shared: Arc<Shared>,
    known: BTreeMap<InstanceId, Peer>,
}

impl Peers {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            known: BTreeMap::new(),
        }
    }

    fn hear(&mut self, heard: &PublisherNews) {
        let publisher = heard.publisher;
        let replicas = &self.shared.replicas;
        match &heard.news {
            News::Snapshot(pieces) | News::Events(pieces) => {
                for piece in pieces {
                    self.read(publisher, piece);
                }
            }
            News::Lost => {
                replicas.losses.fetch_add(1, Ordering::Relaxed);
            }
            News::Gone => self.forget(publisher),
        }
        let peers = self.known.len() as u64;
        self.shared.replicas.peers.store(peers, Ordering::Relaxed);
        self.shared.look_at_queue();
    }

    fn read(&mut self, publisher: InstanceId, piece: &[u8]) {
        let read = rmp_serde::from_slice::<Telling>(piece);
        let taken = match read {
            Ok(telling) => self.take(publisher, telling),
            Err(_) => None,
        };
        if taken.is_none() {
            let malformed = &self.shared.replicas.malformed;
            if malformed.fetch_add(1, Ordering::Relaxed) == 0 {
                tracing::warn!(%publisher, "another router's bookings make no sense; is it of another version?");
            }
        }
    }

    /// Takes over what is told; `None` if it cannot be so.
    fn take(&mut self, publisher: InstanceId, telling: Telling) -> Option<()> {
        match telling {
            Telling::Anew { origin, next } => {
                self.forget(publisher);
                if origin == self.shared.origin() {
                    return None;
                }
                // The same replica may be known by an earlier instance, whose end must not be taken
                // for its own.
                self.known.retain(|_, peer| peer.origin != origin);
                self.known.insert(publisher, Peer { origin, next });
                self.forget_origin(origin);
            }
            Telling::State { origin, changes } => {
                let peer = self.known.get(&publisher)?;
                self.enter(peer.origin, origin, &changes)?;
            }
            Telling::Steps {
                origin,
                first,
                changes,
            } => {
                let peer = self.known.get_mut(&publisher)?;
                let told = peer.next.saturating_sub(first);
                let told = usize::try_from(told).unwrap_or(usize::MAX);
                peer.next = peer.next.max(first.saturating_add(changes.len() as u64));
                let known_as = peer.origin;
                let new = changes.get(told..).unwrap_or_default();
                self.enter(known_as, origin, new)?;
            }
        }
        Some(())
    }

    fn enter(&self, known_as: u64, origin: u64, changes: &[Change]) -> Option<()> {
        let is_its = |change: &Change| change.origin().is_none_or(|it| it == origin);
        if known_as != origin || !changes.iter().all(is_its) {
            return None;
        }
        let heard = &self.shared.replicas.heard;
        heard.fetch_add(changes.len() as u64, Ordering::Relaxed);
        let now = self.shared.now();
        self.shared.with_router_mut(|router| {
            for change in changes {
                router.apply(change, now);
            }
        });
        Some(())
    }

    fn forget(&mut self, publisher: InstanceId) {
        if let Some(peer) = self.known.remove(&publisher) {
            self.forget_origin(peer.origin);
        }
    }

    fn forget_origin(&self, origin: u64) {
        let now = self.shared.now();
        self.shared
            .with_router_mut(|router| router.apply_snapshot(origin, &[], now));
    }
}

#[cfg(test)]
mod tests;
