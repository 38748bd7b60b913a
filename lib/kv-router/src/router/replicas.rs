//! One view of the load among the replicas of a router: each tells the others what it books.

use super::Router;
use crate::book::{BookChange, Changes, Outbox};
use crate::worker::{Slot, WorkerKey};
use std::time::Duration;

impl Router {
    /// What was done here since the last call, for the other replicas.
    pub fn take_changes(&mut self) -> Changes {
        self.outbox.as_mut().map(Outbox::take).unwrap_or_default()
    }

    /// The bookings made here, for replicas that start or have missed some.
    pub fn snapshot(&self) -> Vec<BookChange> {
        let own = |change: &BookChange| change.id().origin == self.book.origin();
        let keys: Vec<(Slot, WorkerKey)> = {
            let workers = self.fleet.workers().iter();
            let mut keys: Vec<_> = workers.map(|it| (it.slot, it.key)).collect();
            keys.sort_unstable();
            keys
        };
        let key_of = |slot: Slot| {
            let at = keys.binary_search_by_key(&slot, |(held, _)| *held).ok()?;
            Some(keys[at].1)
        };
        self.book.snapshot(key_of).filter(own).collect()
    }

    /// Takes over what another replica did.
    pub fn apply(&mut self, change: &BookChange, now: Duration) {
        let slot_of = |key| self.fleet.get(key).map(|worker| worker.slot);
        self.book.apply(change, slot_of, now);
        if let BookChange::Booked { worker, blocks, .. } = change
            && let (Some(approximate), Some(slot)) = (&mut self.approximate, slot_of(*worker))
        {
            approximate.send(slot, blocks, now);
        }
    }

    /// Takes over all bookings of another replica in place of those known. Without any, the
    /// replica is gone.
    pub fn apply_snapshot(&mut self, origin: u64, changes: &[BookChange], now: Duration) {
        self.book.remove_replica(origin);
        for change in changes.iter().filter(|it| it.id().origin == origin) {
            self.apply(change, now);
        }
    }

    pub(super) fn publish(&mut self, change: impl FnOnce() -> BookChange) {
        if let Some(outbox) = &mut self.outbox {
            outbox.push(change());
        }
    }
}
