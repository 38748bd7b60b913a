//! Sequences that wait for a place, and what they add up to.
//!
//! Invariant: the sums are those of the sequences in the queue, so that a report costs nothing
//! however long the queue is.

use super::Slot;
use super::report::Work;
use super::sequence::{OrderKey, Sequence};
use std::collections::BTreeSet;

/// The queue.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    order: BTreeSet<(OrderKey, Slot)>,
    work: Work,
}

impl Queue {
    pub(crate) fn insert(&mut self, sequence: &Sequence, slot: Slot) {
        if self.order.insert((sequence.order, slot)) {
            let (work, len) = (&mut self.work, sequence.len());
            if sequence.was_admitted() {
                work.decodes.add(len);
            } else {
                work.prefills.add(len);
                work.prefill_tokens += len as u64;
            }
        }
    }

    /// Takes a sequence out, if it is there. It must be as it was when it came in.
    pub(crate) fn remove(&mut self, sequence: &Sequence, slot: Slot) {
        if self.order.remove(&(sequence.order, slot)) {
            let (work, len) = (&mut self.work, sequence.len());
            if sequence.was_admitted() {
                work.decodes.subtract(len);
            } else {
                work.prefills.subtract(len);
                work.prefill_tokens -= len as u64;
            }
        }
    }

    /// Who is next.
    pub(crate) fn first(&self) -> Option<Slot> {
        self.order.first().map(|(_, slot)| *slot)
    }

    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// What waits: a sequence that was preempted waits as a decode.
    pub(crate) fn work(&self) -> Work {
        self.work
    }
}
