//! Decides what the engine works on in each step. Pure: no clock, no llama.cpp, no I/O.
//!
//! Continuous batching over sequences, chunked prefill under a token budget, prefix reuse in
//! whole blocks from running and parked slots, admission within bounded KV memory, preemption,
//! priorities, cancellation. Time is the number of steps. Order is by priority, then answers that
//! began on another worker before those that have not begun (their clients are in the middle of
//! them), then first come, first served.
//!
//! One step is [`Scheduler::plan`], then for each row that was decoded [`Scheduler::computed`],
//! and [`Scheduler::push`] or [`Scheduler::finish`] with what was sampled from it.
//!
//! Invariants
//! - No plan needs more KV cells than the configuration gives: the book of blocks counts every
//!   token before it is computed.
//! - Reuse is decided on tokens and salt, never on hashes alone.
//! - The sequence that is first in order always progresses: it is never preempted for another,
//!   so every sequence that is not stalled ends.
//! - The events mirror exactly what another sequence could reuse.
//!
//! What it does not do: sampling, streams, tokens per second.

mod admission;
mod cache;
mod ledger;
mod plan;
mod pool;
mod report;
mod sequence;
mod slots;
#[cfg(test)]
mod tests;

pub use plan::{Row, StepPlan};
pub use sequence::{NewSequence, SequenceId};
pub use slots::{SlotId, SlotOp};

use dynamo_protocols::kv::KvEventBatch;
use dynamo_tokens::{HashContext, TokenBlocks};
use ledger::Ledger;
use plan::LastStep;
use pool::Pool;
use sequence::{OrderKey, Sequence};
use slots::Slot;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;

/// How KV memory is laid out, and with it how batches are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All slots share one pool of cells; a shared prefix is stored once; all sequences go into
    /// one batch.
    Shared,
    /// Each slot has cells of its own and each batch holds one sequence: prompts in chunks that
    /// start at multiples of `chunk`, generated tokens one by one. Results then depend on the
    /// sequence alone.
    Isolated {
        /// Tokens per prefill chunk, a multiple of the block size.
        chunk: usize,
    },
}

/// Bounds of the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// llama.cpp sequences to use.
    pub slots: usize,
    /// Sequences that run at once; fewer than `slots`, unless slots are isolated.
    pub max_running: usize,
    /// Sequences that wait for a place; more are refused.
    pub max_waiting: usize,
    /// Tokens per block.
    pub block_size: NonZeroUsize,
    /// Blocks of KV memory in all.
    pub total_blocks: usize,
    /// Tokens of one batch.
    pub max_batch_tokens: usize,
    /// Prompt tokens of a batch in which other sequences decode.
    pub mixed_prefill_tokens: usize,
    /// Most tokens of one sequence, prompt and output.
    pub context_length: usize,
    /// Whether computed prefixes may be reused at all.
    pub reuse: bool,
    /// How KV memory is laid out.
    pub layout: Layout,
}

/// The queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueFull;

/// The state of the decision.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    step: u64,
    next_id: SequenceId,
    sequences: BTreeMap<SequenceId, Sequence>,
    running: BTreeSet<OrderKey>,
    waiting: BTreeSet<OrderKey>,
    slots: Vec<Slot>,
    pool: Pool,
    ledger: Ledger,
    ops: Vec<SlotOp>,
    last_step: LastStep,
    found: Found,
}

/// Prompt tokens of sequences that got their place so far, and those of them that were cached.
#[derive(Debug, Default)]
struct Found {
    prompt_tokens: u64,
    cached_tokens: u64,
}

impl Scheduler {
    /// An idle scheduler.
    pub fn new(config: SchedulerConfig) -> Self {
        let slots = (0..config.slots)
            .map(|_| Slot::new(config.block_size))
            .collect();
        let pool = Pool::new(config.total_blocks);
        Self {
            config,
            step: 0,
            next_id: 0,
            sequences: BTreeMap::new(),
            running: BTreeSet::new(),
            waiting: BTreeSet::new(),
            slots,
            pool,
            ledger: Ledger::default(),
            ops: Vec::new(),
            last_step: LastStep::default(),
            found: Found::default(),
        }
    }

    /// The bounds it keeps.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Queues a sequence. The caller has checked that it is not empty and leaves room for at
    /// least one token of output in the context.
    pub fn submit(&mut self, new: NewSequence) -> Result<SequenceId, QueueFull> {
        if self.waiting.len() >= self.config.max_waiting {
            return Err(QueueFull);
        }
        let id = self.next_id;
        self.next_id += 1;
        let context = HashContext::of(None, new.salt.as_deref());
        let mut tokens = TokenBlocks::new(self.config.block_size, context);
        tokens.extend(&new.prompt);
        tokens.extend(&new.generated);
        let sequence = Sequence {
            id,
            priority: new.priority,
            begun: !new.generated.is_empty(),
            tokens,
            prompt_len: new.prompt.len(),
            salt: new.salt,
            computed: 0,
            slot: None,
            cached: None,
            stalled: false,
            held: false,
            prefix_waits: 0,
        };
        self.waiting.insert(sequence.key());
        self.sequences.insert(id, sequence);
        Ok(id)
    }

    /// Says whether a sequence's consumer can take no more for now.
    pub fn set_stalled(&mut self, id: SequenceId, stalled: bool) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.stalled = stalled;
        }
    }

    /// Holds a sequence whose next token is not drawn yet, or lets it go on. Unlike a stalled one
    /// it keeps its place: it is held for about a step.
    pub fn set_held(&mut self, id: SequenceId, held: bool) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.held = held;
        }
    }

    /// The row's tokens have KV state now, and others may reuse it.
    pub fn computed(&mut self, row: &Row) {
        let Some(sequence) = self.sequences.get_mut(&row.id) else {
            return;
        };
        sequence.computed = row.range.end;
        self.publish(row.slot);
    }

    /// Appends a sampled token; the sequence goes on.
    pub fn push(&mut self, id: SequenceId, token: u32) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.tokens.push(token);
        }
    }

    /// The sequence ends, by itself or cancelled: what it computed stays as cache, its slot is
    /// free before the next step.
    pub fn finish(&mut self, id: SequenceId) {
        self.park(id, self.step);
        if let Some(sequence) = self.sequences.remove(&id) {
            self.running.remove(&sequence.key());
            self.waiting.remove(&sequence.key());
        }
    }

    /// The sequence ends because computing it failed: what its slot holds is not trusted.
    pub fn discard(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.remove(&id) else {
            return;
        };
        self.running.remove(&sequence.key());
        self.waiting.remove(&sequence.key());
        if let Some(slot) = sequence.slot {
            self.unpublish(slot, sequence.tokens.blocks(), 0);
            self.clear_slot(slot);
        }
    }

    /// The tokens of a row, to put into a batch.
    pub fn tokens(&self, row: &Row) -> &[u32] {
        self.sequences
            .get(&row.id)
            .and_then(|sequence| sequence.tokens.tokens().get(row.range.clone()))
            .unwrap_or_default()
    }

    /// Tokens of the sequence that came from the cache when it first got a place.
    pub fn cached_tokens(&self, id: SequenceId) -> usize {
        self.sequences
            .get(&id)
            .and_then(|sequence| sequence.cached)
            .unwrap_or_default()
    }

    /// Length of the sequence, prompt and output.
    pub fn len_of(&self, id: SequenceId) -> usize {
        self.sequences.get(&id).map_or(0, Sequence::len)
    }

    /// Sequences that wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no sequence runs or waits.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty()
    }

    /// What happened to reusable blocks since the last call.
    pub fn take_events(&mut self) -> Option<KvEventBatch> {
        self.ledger.take_events()
    }

    /// Changes to slots that must be carried out before anything else touches them.
    pub fn take_ops(&mut self) -> Vec<SlotOp> {
        std::mem::take(&mut self.ops)
    }

    fn block_size(&self) -> usize {
        self.config.block_size.get()
    }

    /// How many of a live sequence's computed tokens others may reuse.
    fn reusable(&self, sequence: &Sequence) -> usize {
        if !self.config.reuse {
            return 0;
        }
        match self.config.layout {
            Layout::Shared => sequence.computed / self.block_size() * self.block_size(),
            Layout::Isolated { chunk } => {
                sequence.computed.min(sequence.prompt_len) / chunk * chunk
            }
        }
    }
}
