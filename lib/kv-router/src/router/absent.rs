//! Bookings of other replicas with workers that are not known here yet: discovery and the other
//! replicas tell of a worker each in its own time.
//!
//! Bounded: what does not fit is left out, and costs a load that is too low until it ends.

use crate::book::{BookChange, BookingId, STALE_AFTER};
use crate::worker::WorkerKey;
use std::collections::BTreeMap;
use std::time::Duration;

/// Bookings held: what a hundred busy workers have, which is more than discovery is ever behind.
const MAX_ABSENT: usize = 16_384;

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Absent(BTreeMap<BookingId, Held>);

#[derive(Debug)]
struct Held {
    worker: WorkerKey,
    /// As it would be told now.
    booked: BookChange,
    seen: Duration,
}

impl Absent {
    /// Takes over a step, if it is of a booking that is held or, with `is_known` false, to be held.
    /// Answers whether it was.
    pub(super) fn apply(&mut self, change: &BookChange, is_known: bool, now: Duration) -> bool {
        let id = change.id();
        match change {
            BookChange::Booked { .. } if is_known => {
                self.0.remove(&id);
                false
            }
            BookChange::Booked { worker, .. } => {
                self.hold(id, *worker, change.clone(), now);
                true
            }
            BookChange::Ended(_) => self.0.remove(&id).is_some(),
            BookChange::FirstToken(_) | BookChange::Block { .. } | BookChange::Alive(_) => {
                let Some(held) = self.0.get_mut(&id) else {
                    return false;
                };
                held.seen = now;
                held.progress(change);
                true
            }
        }
    }

    /// What is held of a worker's bookings, and when each was heard of last.
    pub(super) fn take(&mut self, worker: WorkerKey) -> Vec<(BookChange, Duration)> {
        let of_worker = self.0.iter().filter(|(_, held)| held.worker == worker);
        let ids: Vec<BookingId> = of_worker.map(|(id, _)| *id).collect();
        let taken = ids.iter().filter_map(|id| self.0.remove(id));
        taken.map(|held| (held.booked, held.seen)).collect()
    }

    /// Forgets the bookings of a replica.
    pub(super) fn remove_replica(&mut self, origin: u64) {
        self.0.retain(|id, _| id.origin != origin);
    }

    fn hold(&mut self, id: BookingId, worker: WorkerKey, booked: BookChange, now: Duration) {
        if self.0.len() >= MAX_ABSENT {
            self.0.retain(|_, held| held.seen + STALE_AFTER > now);
        }
        if self.0.len() < MAX_ABSENT {
            let held = Held {
                worker,
                booked,
                seen: now,
            };
            self.0.insert(id, held);
        }
    }
}

impl Held {
    fn progress(&mut self, change: &BookChange) {
        let BookChange::Booked {
            prefill_tokens,
            own_blocks,
            blocks,
            ..
        } = &mut self.booked
        else {
            return;
        };
        match change {
            BookChange::FirstToken(_) => *prefill_tokens = 0,
            BookChange::Block {
                hash: Some(hash), ..
            } => blocks.push(*hash),
            BookChange::Block { hash: None, .. } => *own_blocks = own_blocks.saturating_add(1),
            BookChange::Booked { .. } | BookChange::Alive(_) | BookChange::Ended(_) => {}
        }
    }
}
