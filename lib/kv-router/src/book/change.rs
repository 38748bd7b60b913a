//! What replicas of a router tell each other of their bookings.

use super::BookingId;
use crate::worker::WorkerKey;
use dynamo_protocols::kv::SequenceHash;
use serde::{Deserialize, Serialize};

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
