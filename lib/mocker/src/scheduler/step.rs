//! One step: what it computes, what comes out of it, how long it takes.

use super::report;
use super::{Preemption, Scheduler, SequenceId, Slot};
use crate::timing::StepWork;
use dynamo_protocols::engine::{FinishReason, TokenId};
use dynamo_protocols::kv::KvEvent;
use std::time::Duration;

/// What a step did. It is over, and its outputs and events are there, at `ends_at`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Step {
    /// How long it takes.
    pub duration: Duration,
    /// When it is over.
    pub ends_at: Duration,
    /// Tokens it computed.
    pub tokens: usize,
    /// Drawn tokens, at most one per sequence.
    pub outputs: Vec<Output>,
    /// What happened to cached blocks since the step before.
    pub kv_events: Vec<KvEvent>,
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Output {
    /// The sequence it belongs to.
    pub id: SequenceId,
    /// Index of the sequence among the live ones, reused once it has ended.
    pub slot: u32,
    /// The token.
    pub token: TokenId,
    /// Why the sequence ends with it, if it does.
    pub finish: Option<FinishReason>,
    /// With a sequence's first token: how many prompt tokens came from the cache.
    pub cached_tokens: Option<u32>,
}

/// The step being made.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Tokens that may still be computed.
    pub(super) budget: usize,
    outputs: Vec<Output>,
    ended: Vec<Slot>,
    preempted: bool,
    computed: usize,
    computed_prefill: u64,
    facts: report::Work,
}

impl Step {
    /// Whether there was nothing to compute.
    pub fn is_idle(&self) -> bool {
        self.tokens == 0
    }
}

impl Scheduler {
    /// Makes the step that starts now.
    pub fn step(&mut self, now: Duration) -> Step {
        let mut work = Work {
            budget: self.config.max_batched_tokens,
            outputs: Vec::with_capacity(self.running.len()),
            ..Work::default()
        };
        self.plan_running(&mut work);
        for index in 0..self.running.len() {
            self.compute(self.running[index], &mut work);
        }
        // What was taken away from one sequence must not go to another that waits, unless nobody
        // else can use it.
        if !work.preempted || work.computed == 0 {
            self.admit_waiting(&mut work);
        }
        let duration = self.duration(&work);
        self.last_step = work.facts;
        if !work.ended.is_empty() {
            let sequences = &self.sequences;
            self.running.retain(|&slot| {
                sequences[slot as usize]
                    .as_ref()
                    .is_some_and(|it| !it.ended)
            });
            for slot in work.ended {
                self.end(slot);
            }
        }
        Step {
            duration,
            ends_at: now.saturating_add(duration),
            tokens: work.computed,
            outputs: work.outputs,
            kv_events: self.take_events(),
        }
    }

    fn duration(&self, work: &Work) -> Duration {
        let block_size = self.config.block_size.get();
        self.timing.duration(&StepWork {
            prefill_tokens: work.computed_prefill,
            decodes: work.facts.decodes.count,
            decode_kv_tokens: work.facts.decodes.sum,
            active_kv_tokens: (self.cache.held() * block_size) as u64,
            total_kv_tokens: (self.config.total_blocks * block_size) as u64,
        })
    }

    /// Plans what running sequences compute, and preempts until there is memory for it.
    fn plan_running(&mut self, work: &mut Work) {
        let mut index = 0;
        while let Some(&slot) = self.running.get(index) {
            if self.plan(slot, work) {
                index += 1;
                continue;
            }
            let Some(position) = self.victim() else {
                return;
            };
            self.preempt(position, work);
            // Before this one, all move up; this one itself is not there any more.
            index -= usize::from(position < index);
        }
    }

    /// Plans what a sequence computes as far as the budget goes; `false` if there is no block
    /// for it.
    pub(super) fn plan(&mut self, slot: Slot, work: &mut Work) -> bool {
        let Some(sequence) = self.sequences[slot as usize].as_mut() else {
            return true;
        };
        if sequence.stalled {
            return true;
        }
        let planned = sequence.remaining().min(work.budget);
        let end = sequence.computed + planned;
        while sequence.blocks.len() * self.config.block_size.get() < end {
            let Some(block) = self.cache.allocate() else {
                return false;
            };
            sequence.blocks.push(block);
        }
        sequence.planned = planned;
        work.budget -= planned;
        true
    }

    /// The place among the running ones of who gives way.
    fn victim(&self) -> Option<usize> {
        let of = |position: usize| {
            let sequence = self.sequence(self.running[position])?;
            let order = match self.config.preemption {
                Preemption::NewestFirst => usize::MAX - position,
                Preemption::OldestFirst => position,
            };
            Some((std::cmp::Reverse(sequence.order.0), order))
        };
        (0..self.running.len()).min_by_key(|&position| of(position))
    }

    fn preempt(&mut self, position: usize, work: &mut Work) {
        let slot = self.running.remove(position);
        work.preempted = true;
        if let Some(sequence) = self.sequence(slot) {
            work.budget += sequence.planned;
        }
        self.release_blocks(slot);
        if let Some(sequence) = self.sequences[slot as usize].as_ref() {
            self.waiting.insert(sequence, slot);
        }
    }

    /// Computes what was planned for a sequence, and draws a token if nothing is left of it.
    pub(super) fn compute(&mut self, slot: Slot, work: &mut Work) {
        let Some(sequence) = self.sequences[slot as usize].as_mut() else {
            return;
        };
        let planned = std::mem::take(&mut sequence.planned);
        if planned == 0 {
            return;
        }
        let facts = &mut work.facts;
        if sequence.decoding {
            facts.decodes.add(sequence.len());
        } else {
            facts.prefills.add(sequence.len());
            facts.prefill_tokens += sequence.remaining() as u64;
            facts.prefill_kv_tokens += sequence.computed as u64;
            work.computed_prefill += planned as u64;
        }
        work.computed += planned;
        sequence.computed += planned;
        if self.config.prefix_caching {
            let block_size = self.config.block_size.get();
            while (sequence.published + 1) * block_size <= sequence.computed {
                let index = sequence.published;
                let names = sequence.tokens.blocks();
                let parent = index.checked_sub(1).map(|it| names[it].sequence_hash);
                let block = &mut sequence.blocks[index];
                *block = self.cache.publish(*block, names[index], parent);
                sequence.published += 1;
            }
        }
        if sequence.remaining() == 0 {
            let output = sequence.draw(slot, &self.config);
            if output.finish.is_some() {
                work.ended.push(slot);
            }
            work.outputs.push(output);
        }
    }
}
