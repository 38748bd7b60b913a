//! One request as the scheduler sees it: tokens, how many of them are computed, where they live.

use super::slots::SlotId;
use dynamo_tokens::TokenBlocks;
use std::cmp::Reverse;
use std::sync::Arc;

/// A sequence's number, in order of arrival.
pub type SequenceId = u64;

/// Place in every order: higher priority first, then answers that began on another worker (`false`),
/// then first come, first served.
pub(crate) type OrderKey = (Reverse<i32>, bool, SequenceId);

/// What a sequence starts from.
#[derive(Debug, Clone, Default)]
pub struct NewSequence {
    /// Token ids of the prompt.
    pub prompt: Vec<u32>,
    /// Token ids that earlier attempts generated.
    pub generated: Vec<u32>,
    /// Blocks are shared within one salt only.
    pub salt: Option<Arc<str>>,
    /// Higher goes first.
    pub priority: i32,
}

/// A sequence that has not ended.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: SequenceId,
    pub(crate) priority: i32,
    /// It began on another worker.
    pub(crate) begun: bool,
    /// Prompt and generated tokens.
    pub(crate) tokens: TokenBlocks,
    pub(crate) prompt_len: usize,
    pub(crate) salt: Option<Arc<str>>,
    /// Tokens whose KV state is in the slot.
    pub(crate) computed: usize,
    /// The place of the KV state while the sequence runs.
    pub(crate) slot: Option<SlotId>,
    /// Tokens found in the cache when the sequence first got a place.
    pub(crate) cached: Option<usize>,
    /// The consumer does not read: do not produce more.
    pub(crate) stalled: bool,
    /// Its next token is still to be drawn: there is nothing to compute for now.
    pub(crate) held: bool,
    /// Steps spent waiting for another sequence to compute the same prefix.
    pub(crate) prefix_waits: u32,
}

impl Sequence {
    pub(crate) fn key(&self) -> OrderKey {
        (Reverse(self.priority), !self.begun, self.id)
    }

    pub(crate) fn len(&self) -> usize {
        self.tokens.tokens().len()
    }

    /// Whether nothing is to be computed for it, whatever room there is.
    pub(crate) fn waits(&self) -> bool {
        self.stalled || self.held
    }

    /// Known tokens without KV state; 1 in a sequence that decodes.
    pub(crate) fn remaining(&self) -> usize {
        self.len() - self.computed
    }
}
