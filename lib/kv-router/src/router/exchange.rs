//! What replicas of a router tell each other, and what of it waits to be told.

use crate::affinity::session_hash;
use crate::book::BookChange;
use crate::queue::{Head, Served};
use crate::worker::WorkerKey;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Changes that wait to be sent. At ten a request it takes a shell that stands still for a tenth
/// of a second at thousands of requests a second to fill it; then a snapshot costs less.
const MAX_UNSENT: usize = 8_192;

/// A step of one replica that the others are told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Of a request in flight.
    Booking(BookChange),
    /// Of a conversation.
    Session {
        /// Hash of its id.
        session: u64,
        /// Who serves it; nobody, if it has ended.
        worker: Option<WorkerKey>,
        /// How long ago that was, in milliseconds.
        age_ms: u64,
    },
    /// A request that waited was let go.
    Served(Served),
    /// The first request that waits at a replica.
    Waits {
        /// The replica.
        origin: u64,
        /// Nothing, if none waits.
        head: Option<WaitingHead>,
    },
}

/// The first request that waits at a replica, as others are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingHead {
    /// Its level.
    pub strict_priority: u32,
    /// Its tenant's virtual time.
    pub time: u64,
    /// How long it has waited, in microseconds.
    pub age_us: u64,
}

impl WaitingHead {
    pub(super) fn new(head: Head, now: Duration) -> Self {
        let age = now.saturating_sub(head.arrived);
        Self {
            strict_priority: head.strict_priority,
            time: head.time,
            age_us: u64::try_from(age.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// By the clock of whoever hears it now.
    pub(super) fn head(self, now: Duration) -> Head {
        Head {
            strict_priority: self.strict_priority,
            time: self.time,
            arrived: now.saturating_sub(Duration::from_micros(self.age_us)),
        }
    }
}

impl Change {
    /// A conversation is served by a worker now, or has ended.
    pub(super) fn session(session: &str, worker: Option<WorkerKey>) -> Self {
        Self::Session {
            session: session_hash(session),
            worker,
            age_ms: 0,
        }
    }

    /// The one replica that may say so, if others may not as well.
    pub fn origin(&self) -> Option<u64> {
        match self {
            Self::Booking(change) => Some(change.id().origin),
            Self::Waits { origin, .. } => Some(*origin),
            Self::Session { .. } | Self::Served(_) => None,
        }
    }

    /// Blocks that it names: what decides how long it is when it is written.
    pub fn blocks(&self) -> usize {
        match self {
            Self::Booking(BookChange::Booked { blocks, .. }) => blocks.len(),
            Self::Booking(_) | Self::Session { .. } | Self::Served(_) | Self::Waits { .. } => 0,
        }
    }
}

/// Changes for the other replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// Number of the first one: a replica counts its changes from 0.
    pub first: u64,
    /// In the order in which they happened.
    pub changes: Vec<Change>,
    /// Whether none is missing. If one is, the others need a snapshot.
    pub is_complete: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            first: 0,
            changes: Vec::new(),
            is_complete: true,
        }
    }
}

/// Collects changes until they are sent; bounded by dropping all of them.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    unsent: Changes,
    /// The number of the next change.
    next: u64,
}

impl Outbox {
    pub(super) fn push(&mut self, change: Change) {
        self.next += 1;
        let Changes {
            changes,
            is_complete,
            ..
        } = &mut self.unsent;
        if changes.len() == MAX_UNSENT {
            changes.clear();
            *is_complete = false;
        }
        // What comes after a missing one would be in the snapshot anyway.
        if *is_complete {
            changes.push(change);
        }
    }

    pub(super) fn take(&mut self) -> Changes {
        let next = Changes {
            first: self.next,
            ..Changes::default()
        };
        std::mem::replace(&mut self.unsent, next)
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.next > self.unsent.first
    }

    /// The number of the next change.
    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::BookingId;

    #[test]
    fn too_many_unsent_changes_give_way_to_a_snapshot() {
        let mut outbox = Outbox::default();
        assert!(!outbox.has_unsent());
        let id = BookingId {
            origin: 1,
            number: 2,
        };
        let alive = || Change::Booking(BookChange::Alive(id));
        for _ in 0..MAX_UNSENT {
            outbox.push(alive());
        }
        outbox.push(alive());
        outbox.push(alive());
        assert!(outbox.has_unsent());
        let taken = outbox.take();
        assert_eq!((taken.changes.len(), taken.is_complete), (0, false));
        assert!(!outbox.has_unsent());
        outbox.push(alive());
        let taken = outbox.take();
        assert_eq!((taken.changes.len(), taken.is_complete), (1, true));
        assert_eq!(taken.first, MAX_UNSENT as u64 + 2);
    }
}
