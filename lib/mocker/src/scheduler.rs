//! Decides what the simulated engine works on in each step. Pure: no clock, no I/O, no random
//! source; time is an argument.
//!
//! The semantics are vLLM's. Running sequences go first, in the order they were admitted, then
//! waiting ones, first come, first served within a priority, under a budget of tokens per step.
//! Beside vLLM's: an answer that has begun on another worker goes before those that have not begun,
//! since its client is in the middle of it.
//! Prompts are computed in chunks. KV memory is blocks: a prompt's are taken when it is admitted,
//! an output's one by one; full blocks are found again by sequence hash, and the least recently
//! used one that nobody needs is evicted. When there is none left a running sequence is
//! preempted: it waits again and is recomputed, as far as its blocks are gone by then.
//!
//! Every computed sequence draws a token, by default a random one that ends no sequence, so that
//! answers are as long as they may be.
//!
//! Invariants
//! - A block is held by running sequences, or cached, or blank; none is lost.
//! - A step computes at most the budget of tokens and runs at most so many sequences.
//! - The events, replayed, give the set of blocks that can be found.
//! - Every sequence that is not cancelled or stalled for ever ends: a step in which anything runs
//!   computes something, and a sequence loses computed tokens only when another one has grown by
//!   a block in between.
//!
//! A request whose prompt another worker has computed gets memory for all of it and computes its last
//! token alone. If it is preempted, what it was handed is gone, and it computes the rest as well.
//!
//! What it does not do: streams, waiting for time to pass, start-up, LoRA adapters' memory, the time
//! that a transfer of KV state takes.

mod admission;
mod draw;
mod kv_cache;
mod queue;
mod report;
mod sequence;
mod step;
#[cfg(test)]
mod tests;

pub use admission::{Admission, admit};
pub use draw::Vocabulary;
pub(crate) use report::Load;
pub use step::{Output, Step};

use crate::timing::Timing;
use dynamo_protocols::engine::EngineRequest;
use dynamo_protocols::kv::KvEvent;
use dynamo_protocols::load::LoadReport;
use kv_cache::KvCache;
use queue::Queue;
use report::{Found, Work};
use sequence::Sequence;
use std::collections::HashMap;
use std::num::NonZeroUsize;

/// The caller's number of a sequence, never used twice.
pub type SequenceId = u64;

/// Index of a live sequence.
pub(crate) type Slot = u32;

/// Who gives way when KV memory runs out. Lower priorities go first in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preemption {
    /// The sequence that was admitted last.
    NewestFirst,
    /// The sequence that was admitted first.
    OldestFirst,
}

/// Bounds of the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerConfig {
    /// Tokens per block.
    pub block_size: NonZeroUsize,
    /// Blocks of KV memory in all.
    pub total_blocks: usize,
    /// Blocks that admission leaves free, for running sequences to grow into.
    pub watermark_blocks: usize,
    /// Sequences that run at once.
    pub max_running: usize,
    /// Tokens that one step computes.
    pub max_batched_tokens: usize,
    /// Most tokens of one sequence, prompt and output. All blocks together hold one such
    /// sequence, and without chunks a step computes it.
    pub context_length: usize,
    /// Whether computed blocks are found again.
    pub prefix_caching: bool,
    /// Whether a prompt may be spread over several steps.
    pub chunked_prefill: bool,
    /// Who gives way when memory runs out.
    pub preemption: Preemption,
    /// Where output tokens come from.
    pub vocabulary: Vocabulary,
}

/// The state of the simulation.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    timing: Timing,
    cache: KvCache,
    sequences: Vec<Option<Sequence>>,
    free_slots: Vec<Slot>,
    // Looked up by id only; never iterated.
    slots: HashMap<SequenceId, Slot>,
    /// In order of admission.
    running: Vec<Slot>,
    waiting: Queue,
    arrivals: u64,
    last_step: Work,
    found: Found,
}

impl Scheduler {
    /// An idle scheduler.
    pub fn new(config: SchedulerConfig, timing: Timing) -> Self {
        Self {
            cache: KvCache::new(config.total_blocks),
            config,
            timing,
            sequences: Vec::new(),
            free_slots: Vec::new(),
            slots: HashMap::new(),
            running: Vec::new(),
            waiting: Queue::default(),
            arrivals: 0,
            last_step: Work::default(),
            found: Found::default(),
        }
    }

    /// The bounds it keeps.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Queues a sequence that [`admit`] lets in. An id that is live is left as it is.
    pub fn submit(&mut self, id: SequenceId, request: &EngineRequest) {
        debug_assert!(
            matches!(
                admit(request, self.config.context_length),
                Ok(Admission::Generate)
            ),
            "the caller checks requests"
        );
        if self.slots.contains_key(&id) {
            return;
        }
        let sequence = Sequence::new(id, request, self.arrivals, self.config.block_size);
        self.arrivals += 1;
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.sequences.push(None);
            Slot::try_from(self.sequences.len() - 1).expect("fewer sequences live than 2^32")
        });
        self.waiting.insert(&sequence, slot);
        self.sequences[slot as usize] = Some(sequence);
        self.slots.insert(id, slot);
    }

    /// Ends a sequence: its blocks are free before the next step. One that has ended already is
    /// no concern.
    pub fn cancel(&mut self, id: SequenceId) {
        if let Some(&slot) = self.slots.get(&id) {
            self.running.retain(|&running| running != slot);
            self.end(slot);
        }
    }

    /// Says whether a sequence's consumer can take no more for now: it keeps its place and its
    /// memory, and produces nothing.
    pub fn set_stalled(&mut self, id: SequenceId, stalled: bool) {
        let slot = self.slots.get(&id);
        if let Some(sequence) = slot.and_then(|&slot| self.sequences[slot as usize].as_mut()) {
            sequence.stalled = stalled;
        }
    }

    /// Where [`Output::slot`] says a live sequence is.
    pub fn slot_of(&self, id: SequenceId) -> Option<u32> {
        self.slots.get(&id).copied()
    }

    /// Sequences that wait for a place.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences that run.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// What happened to cached blocks since the last call, in order. [`Scheduler::step`] gives
    /// them out itself.
    fn take_events(&mut self) -> Vec<KvEvent> {
        self.cache.take_events()
    }

    /// A snapshot of work and memory.
    pub fn load(&self) -> LoadReport {
        self.facts().report(&self.config)
    }

    /// A snapshot that adds up with those of other ranks.
    pub(crate) fn facts(&self) -> Load {
        Load {
            scheduled: self.last_step,
            queued: self.waiting.work(),
            held_blocks: self.cache.held(),
            cached_blocks: self.cache.idle(),
            found: self.found,
            ranks: 1,
        }
    }

    fn sequence(&self, slot: Slot) -> Option<&Sequence> {
        self.sequences[slot as usize].as_ref()
    }

    /// Gives back what a sequence holds, the end first: the blocks that fewest others share are
    /// evicted first.
    fn release_blocks(&mut self, slot: Slot) {
        if let Some(sequence) = self.sequences[slot as usize].as_mut() {
            for block in sequence.take_blocks().rev() {
                self.cache.release(block);
            }
        }
    }

    /// Forgets a sequence that runs no more.
    fn end(&mut self, slot: Slot) {
        self.release_blocks(slot);
        if let Some(sequence) = self.sequences[slot as usize].take() {
            self.waiting.remove(&sequence, slot);
            self.slots.remove(&sequence.id);
            self.free_slots.push(slot);
        }
    }
}
