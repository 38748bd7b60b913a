//! What the router answers to a shell.

use crate::book::BookingId;
use crate::choice::{NoChoice, Rule};
use crate::cost::{Facts, Parts};
use crate::decision_log::DecisionNumber;
use crate::mode::RouterMode;
use crate::queue::{Place, QueueRefusal};
use crate::worker::{Slot, WorkerKey};
use dynamo_protocols::RequestError;

/// A request on its worker, as the shell holds it until the request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// Its entry in the book.
    pub booking: BookingId,
    /// Its entry in the decision log.
    pub decision: DecisionNumber,
    /// Tokens of its prompt.
    pub isl_tokens: u64,
    /// Of those, what the worker should find in its cache.
    pub predicted_tokens: u64,
}

/// A request that goes to a worker. The decision log holds more of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Placed {
    /// To be held until the request ends.
    pub ticket: Ticket,
    /// Who gets it.
    pub worker: WorkerKey,
    /// Its place in index and book.
    pub slot: Slot,
    /// How workers are picked.
    pub mode: RouterMode,
    /// What decided.
    pub rule: Rule,
    /// What was known of the worker.
    pub facts: Facts,
    /// What it costs by that.
    pub parts: Parts,
}

/// What became of a new request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Submitted {
    /// It goes to a worker.
    Placed(Placed),
    /// It waits until [`Router::tick`](super::Router::tick) answers with its place.
    Waits {
        /// Its place in the queue.
        place: Place,
        /// The place of a request that had to leave for it and is to be refused with
        /// [`QueueRefusal::Displaced`].
        displaced: Option<Place>,
    },
}

/// A request that waits no longer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Released {
    /// The place that it had.
    pub place: Place,
    /// Where it goes, or why nowhere.
    pub result: Result<Placed, Refusal>,
}

/// Why a request goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No worker can take it.
    #[error(transparent)]
    Choice(#[from] NoChoice),
    /// It cannot wait, or not any longer.
    #[error(transparent)]
    Queue(#[from] QueueRefusal),
}

impl From<Refusal> for RequestError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Choice(refusal) => refusal.into(),
            Refusal::Queue(refusal) => refusal.into(),
        }
    }
}
