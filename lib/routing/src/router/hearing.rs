//! What workers tell, into the index and the router: who is there, what caches hold, how busy they
//! are.
//!
//! Invariants
//! - One task alone does this.
//! - What cannot be read costs only itself, and is counted.

use crate::members::Leavers;
use crate::router::Shared;
use dynamo_kv_router::index::TierEvent;
use dynamo_kv_router::{Slot, Tier, WorkerKey};
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};
use dynamo_runtime::Environment;
use dynamo_runtime::component::Instance;
use dynamo_runtime::event_plane::{News, PublisherNews, Subscription};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// What became of the workers' news.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(super) events: AtomicU64,
    snapshots: AtomicU64,
    malformed: AtomicU64,
    pub(super) losses: AtomicU64,
    lag_ms: AtomicU64,
}

/// The workers' news in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct NewsCounts {
    /// Events heard.
    pub events: u64,
    /// Snapshots heard: one for each worker at first, and one for each gap that was too wide.
    pub snapshots: u64,
    /// News that could not be read.
    pub malformed: u64,
    /// Times that a publisher was out of reach.
    pub losses: u64,
    /// Age of the last event when it was heard, in milliseconds, by both clocks.
    pub lag_ms: u64,
}

/// Keeps the router like discovery and like what workers tell, until cancelled.
pub(super) async fn follow(
    shared: Arc<Shared>,
    mut instances: watch::Receiver<Option<Arc<[Instance]>>>,
    mut news: Subscription,
) {
    let mut discovery_lives = true;
    loop {
        let present = instances.borrow_and_update().clone();
        if let Some(present) = present {
            shared.set_instances(&present);
        }
        loop {
            tokio::select! {
                biased;
                changed = instances.changed(), if discovery_lives => {
                    discovery_lives = changed.is_ok();
                    break;
                }
                heard = news.next() => match heard {
                    Some(heard) => shared.hear(heard),
                    None => return,
                },
            }
        }
    }
}

impl Shared {
    fn set_instances(&self, instances: &[Instance]) {
        let present: Vec<u64> = instances.iter().map(|it| it.id.get()).collect();
        self.set_present(&present);
    }

    pub(super) fn set_present(&self, present: &[u64]) {
        let leavers = {
            let mut core = self.core.lock();
            let (router, members) = core.parts();
            members.set_instances(router, present)
        };
        self.clear(&leavers);
        self.wake(&self.core.lock());
    }

    fn hear(&self, PublisherNews { publisher, news }: PublisherNews) {
        let instance = publisher.get();
        match news {
            News::Snapshot(pieces) => {
                self.told.snapshots.fetch_add(1, Ordering::Relaxed);
                self.snapshot(instance, &pieces);
            }
            News::Events(events) => {
                for event in &events {
                    if let Some(event) = self.told.read(event, &self.environment) {
                        self.event(instance, event);
                    }
                }
            }
            News::Lost => {
                // What it held is still the best guess; discovery says when it is gone.
                self.told.losses.fetch_add(1, Ordering::Relaxed);
            }
            News::Gone => {
                let leavers = {
                    let mut core = self.core.lock();
                    let (router, members) = core.parts();
                    members.lose(router, instance)
                };
                self.clear(&leavers);
            }
        }
        self.wake(&self.core.lock());
    }

    fn event(&self, instance: u64, event: WorkerEvent) {
        let worker = WorkerKey {
            instance,
            dp_rank: event.dp_rank,
        };
        let slot = {
            let mut core = self.core.lock();
            let (router, members) = core.parts();
            let slot = members.hear(router, worker);
            match &event.news {
                WorkerNews::Kv(_) => members.tells_kv(router, worker),
                WorkerNews::Load(load) => members.load(router, worker, load.clone()),
            }
            slot
        };
        if let (WorkerNews::Kv(batch), Some(slot)) = (event.news, slot) {
            for event in &batch.events {
                self.index.apply(slot, Tier::Device, event);
            }
        }
    }

    /// Takes over all that a worker says of itself, in place of what it said before.
    fn snapshot(&self, instance: u64, pieces: &[bytes::Bytes]) {
        let mut held: BTreeMap<Slot, Vec<TierEvent>> = BTreeMap::new();
        {
            let core = self.core.lock();
            // Ranks that the snapshot does not name hold nothing.
            held.extend(
                core.members
                    .slots_of(instance)
                    .map(|slot| (slot, Vec::new())),
            );
        }
        for piece in pieces {
            let Some(event) = self.told.read(piece, &self.environment) else {
                continue;
            };
            let worker = WorkerKey {
                instance,
                dp_rank: event.dp_rank,
            };
            let mut core = self.core.lock();
            let (router, members) = core.parts();
            let Some(slot) = members.hear(router, worker) else {
                continue;
            };
            match event.news {
                WorkerNews::Kv(batch) => {
                    members.tells_kv(router, worker);
                    let tier = Tier::Device;
                    let events = batch.events.into_iter();
                    let events = events.map(|event| TierEvent { tier, event });
                    held.entry(slot).or_default().extend(events);
                }
                WorkerNews::Load(load) => members.load(router, worker, load),
            }
        }
        for (slot, events) in held {
            self.index.replace(slot, &events);
        }
    }

    fn clear(&self, leavers: &Leavers) {
        for slot in leavers {
            self.index.clear(*slot);
        }
        let mut core = self.core.lock();
        for slot in leavers {
            core.router.cache_cleared(*slot);
        }
        core.members.release(leavers);
    }
}

// === impl Told ===

impl Told {
    fn read(&self, bytes: &[u8], environment: &Environment) -> Option<WorkerEvent> {
        match rmp_serde::from_slice::<WorkerEvent>(bytes) {
            Ok(event) => {
                self.events.fetch_add(1, Ordering::Relaxed);
                let now = environment.clock.unix_time().as_millis();
                let now = u64::try_from(now).unwrap_or(u64::MAX);
                let lag = now.saturating_sub(event.sent_at_ms);
                self.lag_ms.store(lag, Ordering::Relaxed);
                Some(event)
            }
            Err(error) => {
                if self.malformed.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(%error, "a worker's news cannot be read; is it of another version?");
                }
                None
            }
        }
    }

    pub(super) fn counts(&self) -> NewsCounts {
        NewsCounts {
            events: self.events.load(Ordering::Relaxed),
            snapshots: self.snapshots.load(Ordering::Relaxed),
            malformed: self.malformed.load(Ordering::Relaxed),
            losses: self.losses.load(Ordering::Relaxed),
            lag_ms: self.lag_ms.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::load::LoadReport;

    #[test]
    fn what_cannot_be_read_costs_only_itself_and_is_counted() {
        let (told, environment) = (Told::default(), Environment::system());
        assert!(told.read(b"no news of a worker", &environment).is_none());
        let event = WorkerEvent {
            dp_rank: 1,
            sent_at_ms: 0,
            news: WorkerNews::Load(LoadReport::default()),
        };
        let bytes = rmp_serde::to_vec_named(&event).unwrap();
        assert_eq!(told.read(&bytes, &environment).unwrap().dp_rank, 1);
        let counts = told.counts();
        assert_eq!((counts.malformed, counts.events), (1, 1));
    }
}
