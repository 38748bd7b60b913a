//! What replicas of a router tell each other of their bookings.

use super::BookingId;
use crate::worker::WorkerKey;
use dynamo_protocols::kv::SequenceHash;
use serde::{Deserialize, Serialize};

/// Changes that wait to be sent. At ten a request it takes a shell that stands still for a tenth
/// of a second at thousands of requests a second to fill it; then a snapshot costs less.
const MAX_UNSENT: usize = 8_192;

/// A step in the life of a booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BookChange {
    /// A request goes to a worker.
    Booked {
        /// The booking.
        id: BookingId,
        /// Who got it.
        worker: WorkerKey,
        /// As in [`Work`](super::Work).
        prefill_tokens: u64,
        /// As in [`Work`](super::Work).
        blocks: Vec<SequenceHash>,
        /// As in [`Work`](super::Work).
        own_blocks: u64,
        /// As in [`Work`](super::Work).
        expected_output_tokens: Option<u32>,
    },
    /// [`Book::first_token`](super::Book::first_token).
    FirstToken(BookingId),
    /// [`Book::block`](super::Book::block).
    Block {
        /// The booking.
        id: BookingId,
        /// The block, if it is known.
        hash: Option<SequenceHash>,
        /// Tokens generated so far.
        generated_tokens: u32,
    },
    /// [`Book::touch`](super::Book::touch).
    Alive(BookingId),
    /// [`Book::end`](super::Book::end).
    Ended(BookingId),
}

impl BookChange {
    /// The booking that it is about.
    pub fn id(&self) -> BookingId {
        match self {
            Self::Booked { id, .. } | Self::Block { id, .. } => *id,
            Self::FirstToken(id) | Self::Alive(id) | Self::Ended(id) => *id,
        }
    }
}

/// Changes for the other replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// In the order in which they happened.
    pub changes: Vec<BookChange>,
    /// Whether none is missing. If one is, the others need a snapshot.
    pub is_complete: bool,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            changes: Vec::new(),
            is_complete: true,
        }
    }
}

/// Collects changes until they are sent; bounded by dropping all of them.
#[derive(Debug, Default)]
pub(crate) struct Outbox(Changes);

impl Outbox {
    pub(crate) fn push(&mut self, change: BookChange) {
        let Changes {
            changes,
            is_complete,
        } = &mut self.0;
        if changes.len() == MAX_UNSENT {
            changes.clear();
            *is_complete = false;
        }
        // What comes after a missing one would be in the snapshot anyway.
        if *is_complete {
            changes.push(change);
        }
    }

    pub(crate) fn take(&mut self) -> Changes {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_many_unsent_changes_give_way_to_a_snapshot() {
        let mut outbox = Outbox::default();
        let id = BookingId {
            origin: 1,
            number: 2,
        };
        for _ in 0..MAX_UNSENT {
            outbox.push(BookChange::Alive(id));
        }
        outbox.push(BookChange::Ended(id));
        outbox.push(BookChange::Ended(id));
        let taken = outbox.take();
        assert_eq!((taken.changes.len(), taken.is_complete), (0, false));
        outbox.push(BookChange::Ended(id));
        let taken = outbox.take();
        assert_eq!((taken.changes.len(), taken.is_complete), (1, true));
    }
}
