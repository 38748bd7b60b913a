//! Slots: the llama.cpp sequences that hold KV state, of running requests or parked as cache.
//!
//! Invariant: a parked slot holds whole reusable blocks only, all of them published; a free slot
//! holds nothing.

use super::pool::BlockId;
use super::sequence::SequenceId;
use dynamo_tokens::{HashContext, TokenBlocks};
use std::num::NonZeroUsize;
use std::sync::Arc;

/// Number of a slot.
pub type SlotId = usize;

/// What a slot is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotUse {
    Free,
    Parked,
    Live(SequenceId),
}

/// One llama.cpp sequence.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) usage: SlotUse,
    /// What a parked slot holds; empty otherwise (a live slot's tokens are its sequence's).
    pub(crate) tokens: TokenBlocks,
    pub(crate) salt: Option<Arc<str>>,
    /// Blocks of the book that the slot holds.
    pub(crate) blocks: Vec<BlockId>,
    /// How many of its blocks are in the ledger.
    pub(crate) published: usize,
    /// Step of the last use; the smallest is evicted first.
    pub(crate) last_used: u64,
}

impl Slot {
    pub(crate) fn new(block_size: NonZeroUsize) -> Self {
        Self {
            usage: SlotUse::Free,
            tokens: TokenBlocks::new(block_size, HashContext::new()),
            salt: None,
            blocks: Vec::new(),
            published: 0,
            last_used: 0,
        }
    }
}

/// A change to what a slot holds, to be carried out before the next batch, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotOp {
    /// The slot holds nothing any more.
    Clear {
        /// Which slot.
        slot: SlotId,
    },
    /// The slot keeps its first `len` tokens.
    Trim {
        /// Which slot.
        slot: SlotId,
        /// Tokens to keep.
        len: usize,
    },
    /// The empty slot `to` gets the first `len` tokens of `from`.
    Copy {
        /// Where the state is.
        from: SlotId,
        /// Where it goes.
        to: SlotId,
        /// How many tokens of it.
        len: usize,
    },
}
