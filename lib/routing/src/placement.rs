//! A prompt on its way to a worker that is no engine of ours, and what the router is told of it.
//!
//! Invariant: it is booked with one worker at any time, and the booking ends with it.

use crate::question::Question;
use crate::router::{CANCELLED, Shared};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::mode::RouterMode;
use dynamo_kv_router::router::Placed;
use std::fmt;
use std::sync::Arc;

/// See the module's description.
pub struct Placement {
    shared: Arc<Shared>,
    question: Question,
    placed: Placed,
    generated: u32,
    /// Generated tokens at which the next block is full.
    next_block: u32,
    is_over: bool,
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement")
            .field("worker", &self.placed.worker)
            .field("generated", &self.generated)
            .finish_non_exhaustive()
    }
}

impl Placement {
    pub(crate) fn new(shared: Arc<Shared>, question: Question, placed: Placed) -> Self {
        let block_size = shared.block_size().get();
        let filled = placed.ticket.isl_tokens % u64::from(block_size);
        Self {
            next_block: block_size - u32::try_from(filled).unwrap_or(0),
            shared,
            question,
            placed,
            generated: 0,
            is_over: false,
        }
    }

    /// Who gets it.
    pub fn worker(&self) -> WorkerKey {
        self.placed.worker
    }

    /// Who gets it has several data-parallel ranks.
    pub fn has_ranks(&self) -> bool {
        self.shared.has_ranks(self.placed.worker.instance)
    }

    /// Prompt tokens that the worker should find in its cache.
    pub fn predicted_tokens(&self) -> u64 {
        self.placed.ticket.predicted_tokens
    }

    /// Books it with a worker that is none of `except`. If there is none, it stays where it is
    /// and the answer is false.
    pub fn again(&mut self, except: &[u64]) -> bool {
        let Some(placed) = self.shared.resubmit(&self.question, except) else {
            return false;
        };
        let refused = Outcome {
            cached_tokens: None,
            output_tokens: 0,
            end: End::Failed,
        };
        let former = std::mem::replace(&mut self.placed, placed);
        self.shared.end(&former.ticket, refused);
        true
    }

    /// The worker gave so many more tokens; the first of them end its prefill.
    pub fn generated(&mut self, tokens: u32) {
        if tokens == 0 {
            return;
        }
        if self.generated == 0 {
            self.shared.first_token(&self.placed.ticket);
        }
        self.generated = self.generated.saturating_add(tokens);
        while self.generated >= self.next_block {
            self.shared
                .block_filled(&self.placed.ticket, self.next_block);
            let next = self.next_block.checked_add(self.shared.block_size().get());
            let Some(next) = next else { return };
            self.next_block = next;
        }
    }

    /// The prompt is computed.
    pub fn prefill_complete(&mut self) {
        self.generated(1);
    }

    /// The worker has filled a block with output, however many tokens that took.
    pub fn output_block(&mut self) {
        let left = self.next_block.saturating_sub(self.generated);
        self.generated(left.max(1));
    }

    /// How workers are picked.
    pub fn mode(&self) -> RouterMode {
        self.placed.mode
    }

    /// The answer is over; `cached_tokens` of the prompt were in the worker's cache, if it said so.
    pub fn end(mut self, cached_tokens: Option<u64>, end: End) {
        self.conclude(Outcome {
            cached_tokens,
            output_tokens: self.generated,
            end,
        });
    }

    fn conclude(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.shared.end(&self.placed.ticket, outcome);
        }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.conclude(Outcome {
            output_tokens: self.generated,
            ..CANCELLED
        });
    }
}
