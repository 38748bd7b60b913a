//! One step: which tokens of which sequences go into which batch.
//!
//! Decodes go first, so that a long prompt never stalls them; prompts then share what the budget
//! leaves, first come, first served.

use super::sequence::{OrderKey, Sequence};
use super::{Layout, Scheduler, SequenceId, SlotId, SlotOp};
use std::ops::Range;

/// Consecutive tokens of one sequence in a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Whose tokens.
    pub id: SequenceId,
    /// Where its KV state is.
    pub slot: SlotId,
    /// Positions in the sequence.
    pub range: Range<usize>,
    /// Whether the last token's logits are needed.
    pub output: bool,
}

/// What to do in one step: carry out the changes to slots, then decode each batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// Changes to slots, in order.
    pub ops: Vec<SlotOp>,
    /// Batches, in order.
    pub batches: Vec<Vec<Row>>,
}

impl StepPlan {
    /// Whether there is nothing to decode.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

/// Rows of the last plan, for the load report.
#[derive(Debug, Default)]
pub(crate) struct LastStep {
    pub(crate) prefills: Vec<SequenceId>,
    pub(crate) decodes: Vec<SequenceId>,
}

/// What is left to fill in the step being planned.
#[derive(Debug, Default)]
pub(crate) struct Step {
    decodes: Vec<Row>,
    prefills: Vec<Row>,
    prefill_tokens: usize,
}

impl Scheduler {
    /// Decides the next step.
    pub fn plan(&mut self) -> StepPlan {
        self.step += 1;
        let mut step = Step::default();
        self.plan_decodes(&mut step);
        step.prefill_tokens = self.prefill_budget(&step);
        let running: Vec<OrderKey> = self.running.iter().copied().collect();
        for (_, _, id) in running {
            self.plan_prefill(id, &mut step);
        }
        self.admit(&mut step);
        self.last_step = LastStep {
            prefills: step.prefills.iter().map(|row| row.id).collect(),
            decodes: step.decodes.iter().map(|row| row.id).collect(),
        };
        StepPlan {
            ops: self.take_ops(),
            batches: self.batches(step),
        }
    }

    /// One token for each sequence that decodes, as far as memory goes.
    fn plan_decodes(&mut self, step: &mut Step) {
        let running: Vec<OrderKey> = self.running.iter().copied().collect();
        for (_, _, id) in running {
            let Some(sequence) = self.sequences.get(&id) else {
                continue;
            };
            // An earlier sequence may have preempted this one for its memory.
            let Some(slot) = sequence.slot else { continue };
            if sequence.waits() || !self.decodes(sequence) {
                continue;
            }
            let row = Row {
                id,
                slot,
                range: sequence.computed..sequence.computed + 1,
                output: sequence.remaining() == 1,
            };
            if self.grow(id, slot, row.range.end) {
                step.decodes.push(row);
            }
        }
    }

    /// Whether the next token of a sequence goes alone.
    fn decodes(&self, sequence: &Sequence) -> bool {
        match self.config.layout {
            Layout::Shared => sequence.remaining() == 1,
            Layout::Isolated { .. } => sequence.computed >= sequence.prompt_len,
        }
    }

    fn prefill_budget(&self, step: &Step) -> usize {
        let left = self
            .config
            .max_batch_tokens
            .saturating_sub(step.decodes.len());
        if step.decodes.is_empty() {
            left
        } else {
            left.min(self.config.mixed_prefill_tokens)
        }
    }

    /// Puts the next part of a prompt into the step, if there is room. Memory for the whole
    /// prompt was taken at admission.
    pub(crate) fn plan_prefill(&mut self, id: SequenceId, step: &mut Step) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        let Some(slot) = sequence.slot else { return };
        let planned = step.decodes.iter().any(|row| row.id == id);
        if sequence.waits() || planned {
            return;
        }
        let start = sequence.computed;
        let count = match self.config.layout {
            Layout::Shared => sequence.remaining().min(step.prefill_tokens),
            // One chunk a step, whatever the budget: its border must not depend on others.
            Layout::Isolated { .. } if !step.prefills.is_empty() => 0,
            Layout::Isolated { chunk } => {
                let border = (start / chunk + 1) * chunk;
                border.min(sequence.prompt_len).saturating_sub(start)
            }
        };
        if count == 0 {
            return;
        }
        step.prefill_tokens = step.prefill_tokens.saturating_sub(count);
        step.prefills.push(Row {
            id,
            slot,
            range: start..start + count,
            output: count == sequence.remaining(),
        });
    }

    fn batches(&self, step: Step) -> Vec<Vec<Row>> {
        match self.config.layout {
            Layout::Shared => {
                let mut rows = step.decodes;
                rows.extend(step.prefills);
                if rows.is_empty() {
                    Vec::new()
                } else {
                    vec![rows]
                }
            }
            Layout::Isolated { .. } => {
                let rows = step.decodes.into_iter().chain(step.prefills);
                rows.map(|row| vec![row]).collect()
            }
        }
    }
}

impl Step {
    /// Whether no prompt token fits any more.
    pub(crate) fn is_full(&self, layout: Layout) -> bool {
        match layout {
            Layout::Shared => self.prefill_tokens == 0,
            Layout::Isolated { .. } => !self.prefills.is_empty(),
        }
    }
}
