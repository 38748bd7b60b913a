//! One view of the load among the replicas of a router: each tells the others what it books, and
//! which worker a conversation is with.

use super::Router;
use super::exchange::{Change, Changes, Outbox, WaitingHead};
use crate::book::BookChange;
use crate::worker::{Slot, WorkerKey};
use std::time::Duration;

impl Router {
    /// The name of this replica among others.
    pub fn origin(&self) -> u64 {
        self.book.origin()
    }

    /// Whether there is anything to tell the other replicas.
    pub fn has_changes(&self) -> bool {
        let has_moved = || self.told_head != self.queue.head();
        let outbox = self.outbox.as_ref();
        outbox.is_some_and(|outbox| outbox.has_unsent() || has_moved())
    }

    /// What was done here since the last call, for the other replicas.
    pub fn take_changes(&mut self, now: Duration) -> Changes {
        let head = self.queue.head();
        if head != self.told_head {
            self.told_head = head;
            let change = self.waits(now);
            self.publish(|| change);
        }
        self.outbox.as_mut().map(Outbox::take).unwrap_or_default()
    }

    /// What adds up to the same for replicas that start or have missed something: the bookings
    /// made here, and every conversation that is known. It holds the changes up to `first` and
    /// none from there on.
    pub fn snapshot(&self, now: Duration) -> Changes {
        let own = |change: &BookChange| change.id().origin == self.origin();
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
        let bookings = self.book.snapshot(key_of).filter(own);
        let sessions = self.chooser.affinity().into_iter();
        let sessions = sessions.flat_map(|affinity| affinity.bindings());
        let sessions = sessions.map(|(session, worker, used)| Change::Session {
            session,
            worker: Some(worker),
            age_ms: u64::try_from(now.saturating_sub(used).as_millis()).unwrap_or(u64::MAX),
        });
        let bookings = bookings.map(Change::Booking);
        Changes {
            first: self.outbox.as_ref().map_or(0, Outbox::next),
            changes: bookings.chain(sessions).chain([self.waits(now)]).collect(),
            is_complete: true,
        }
    }

    /// Takes over what another replica did.
    pub fn apply(&mut self, change: &Change, now: Duration) {
        match change {
            Change::Booking(change) => self.apply_booking(change, now),
            Change::Session {
                session,
                worker,
                age_ms,
            } => {
                let Some(affinity) = self.chooser.affinity_mut() else {
                    return;
                };
                let used = now.saturating_sub(Duration::from_millis(*age_ms));
                match worker {
                    Some(worker) => affinity.bind_hashed(*session, *worker, used),
                    None => affinity.end_hashed(*session),
                }
            }
            Change::Served(served) => self.queue.hear_served(*served),
            Change::Waits { origin, head } if *origin != self.origin() => {
                self.queue
                    .hear_head(*origin, head.map(|head| head.head(now)));
            }
            Change::Waits { .. } => {}
        }
    }

    /// Takes over all bookings of another replica in place of those known. Without any, the
    /// replica is gone; what is known of conversations stays.
    pub fn apply_snapshot(&mut self, origin: u64, changes: &[Change], now: Duration) {
        self.book.remove_replica(origin);
        self.absent.remove_replica(origin);
        self.queue.hear_head(origin, None);
        for change in changes {
            if change.origin().is_none_or(|it| it == origin) {
                self.apply(change, now);
            }
        }
    }

    pub(super) fn publish(&mut self, change: impl FnOnce() -> Change) {
        if let Some(outbox) = &mut self.outbox {
            outbox.push(change());
        }
    }

    fn waits(&self, now: Duration) -> Change {
        let head = self.queue.head();
        Change::Waits {
            origin: self.origin(),
            head: head.map(|head| WaitingHead::new(head, now)),
        }
    }

    /// Enters what other replicas booked with a worker before it was known here.
    pub(super) fn book_absent(&mut self, key: WorkerKey, slot: Slot) {
        for (booked, seen) in self.absent.take(key) {
            self.book.apply(&booked, |_| Some(slot), seen);
        }
    }

    fn apply_booking(&mut self, change: &BookChange, now: Duration) {
        if change.id().origin == self.origin() {
            return;
        }
        let slot_of = |key| self.fleet.get(key).map(|worker| worker.slot);
        let is_known = match change {
            BookChange::Booked { worker, .. } => slot_of(*worker).is_some(),
            _ => true,
        };
        if self.absent.apply(change, is_known, now) {
            return;
        }
        self.book.apply(change, slot_of, now);
        if let BookChange::Booked { worker, blocks, .. } = change
            && let (Some(approximate), Some(slot)) = (&mut self.approximate, slot_of(*worker))
        {
            approximate.send(slot, blocks, now);
        }
    }
}
