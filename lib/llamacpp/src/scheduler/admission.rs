//! Who gets a place next, and from which slot it takes its prefix.

use super::plan::Step;
use super::pool::Holder;
use super::sequence::{OrderKey, Sequence};
use super::slots::SlotUse;
use super::{Layout, Scheduler, SequenceId, SlotId, SlotOp};

/// Waiting sequences looked at per step. Those ahead of the last one looked at can only be
/// sequences that wait for a prefix, so this bounds the work of a step, not fairness.
const ADMISSION_SCAN: usize = 64;

/// Steps a sequence waits for another one to compute the prefix they share. Prompts are computed
/// in order of admission, so waiting costs nothing while the other one progresses; the bound is
/// for when it does not. At the smallest usual chunk (128 tokens) it covers 16,384 tokens.
const PREFIX_WAIT_STEPS: u32 = 128;

/// What became of an attempt to admit a sequence.
enum Placing {
    Placed,
    WaitForPrefix,
    NoMemory,
}

/// The slot that holds most of a prompt already.
#[derive(Debug, Clone, Copy)]
struct Donor {
    slot: SlotId,
    len: usize,
}

impl Scheduler {
    /// Gives places to waiting sequences while there are places, memory and room in the step.
    pub(crate) fn admit(&mut self, step: &mut Step) {
        let waiting: Vec<OrderKey> = self
            .waiting
            .iter()
            .copied()
            .filter(|(_, _, id)| self.sequences.get(id).is_some_and(|s| !s.waits()))
            .take(ADMISSION_SCAN)
            .collect();
        for key in waiting {
            if step.is_full(self.config.layout) {
                return;
            }
            if self.running.len() >= self.config.max_running && !self.preempt_stalled() {
                return;
            }
            match self.place(key.2) {
                Placing::Placed => self.plan_prefill(key.2, step),
                Placing::WaitForPrefix => {}
                Placing::NoMemory => return,
            }
        }
    }

    fn place(&mut self, id: SequenceId) -> Placing {
        let Some(sequence) = self.sequences.get(&id) else {
            return Placing::WaitForPrefix;
        };
        let donor = self.best_donor(sequence);
        let found = donor.map_or(0, |donor| donor.len);
        if sequence.prefix_waits < PREFIX_WAIT_STEPS && self.soon_computed(sequence) > found {
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.prefix_waits += 1;
            }
            return Placing::WaitForPrefix;
        }
        // The block of the first output token is taken along: a sequence that was let in must
        // not be preempted before it has produced anything.
        let need = (sequence.len() + 1).div_ceil(self.block_size());
        while !self.fits(need, donor) {
            if !self.preempt_stalled() {
                return Placing::NoMemory;
            }
        }
        match self.take_slot(donor) {
            Some(slot) => {
                self.occupy(id, slot, need, found);
                Placing::Placed
            }
            None => Placing::NoMemory,
        }
    }

    /// Whether `need` blocks fit beside those of running sequences, with one block left to each
    /// of them to grow into.
    fn fits(&self, need: usize, donor: Option<Donor>) -> bool {
        if self.config.layout != Layout::Shared {
            // Each slot has memory for a whole context.
            return true;
        }
        let shared = donor.map_or(0, |donor| {
            let blocks = &self.slots[donor.slot].blocks[..donor.len / self.block_size()];
            blocks.iter().filter(|&&b| self.pool.is_live(b)).count()
        });
        self.pool.live_used() + need - shared + self.running.len() <= self.pool.total()
    }

    /// The slot with the longest reusable prefix of the sequence; of equals, one that ends there,
    /// then the lowest.
    fn best_donor(&self, sequence: &Sequence) -> Option<Donor> {
        let cap = self.reuse_cap(sequence);
        let unit = self.reuse_unit();
        let mut best: Option<(usize, bool, SlotId)> = None;
        for (slot, content) in self.slots.iter().enumerate() {
            let (tokens, reusable, salt) = match content.usage {
                SlotUse::Free => continue,
                SlotUse::Parked => {
                    let tokens = content.tokens.tokens();
                    (tokens, tokens.len(), &content.salt)
                }
                SlotUse::Live(owner) => match self.sequences.get(&owner) {
                    Some(owner) => (owner.tokens.tokens(), self.reusable(owner), &owner.salt),
                    None => continue,
                },
            };
            if *salt != sequence.salt {
                continue;
            }
            let reach = reusable.min(cap);
            let len = common_prefix(&tokens[..reach], sequence.tokens.tokens()) / unit * unit;
            let exact = content.usage == SlotUse::Parked && tokens.len() == len;
            if len > 0 && best.is_none_or(|(l, e, _)| (len, exact) > (l, e)) {
                best = Some((len, exact, slot));
            }
        }
        best.map(|(len, _, slot)| Donor { slot, len })
    }

    /// How much of the sequence's prefix a running prompt will have computed when it is done.
    fn soon_computed(&self, sequence: &Sequence) -> usize {
        let cap = self.reuse_cap(sequence);
        let unit = self.reuse_unit();
        let prompts = self
            .running
            .iter()
            .filter_map(|(_, _, id)| self.sequences.get(id));
        prompts
            .filter(|other| other.remaining() > 1 && !other.stalled && other.salt == sequence.salt)
            .map(|other| {
                let end = match self.config.layout {
                    Layout::Shared => other.len(),
                    Layout::Isolated { .. } => other.prompt_len,
                };
                let tokens = &other.tokens.tokens()[..end.min(cap)];
                common_prefix(tokens, sequence.tokens.tokens()) / unit * unit
            })
            .max()
            .unwrap_or(0)
    }

    /// Reuse goes in units of this many tokens.
    fn reuse_unit(&self) -> usize {
        match self.config.layout {
            Layout::Shared => self.block_size(),
            Layout::Isolated { chunk } => chunk,
        }
    }

    /// Most tokens a sequence may reuse: its last token is always computed, for its logits.
    fn reuse_cap(&self, sequence: &Sequence) -> usize {
        let unit = self.reuse_unit();
        let end = match self.config.layout {
            _ if !self.config.reuse => 0,
            Layout::Shared => sequence.len() - 1,
            Layout::Isolated { .. } => sequence.prompt_len - 1,
        };
        end / unit * unit
    }

    /// Finds a slot for a sequence and puts the donor's prefix into it.
    fn take_slot(&mut self, donor: Option<Donor>) -> Option<SlotId> {
        let Some(donor) = donor else {
            return self.empty_slot(None);
        };
        self.slots[donor.slot].last_used = self.step;
        let parked = self.slots[donor.slot].usage == SlotUse::Parked;
        let ends_there = parked && self.slots[donor.slot].tokens.tokens().len() == donor.len;
        let empty = if ends_there {
            None
        } else {
            self.empty_slot(Some(donor.slot))
        };
        let Some(to) = empty else {
            if !parked {
                return None;
            }
            // Nothing is lost by taking the donor over, or nothing else is left.
            self.truncate_parked(donor.slot, donor.len);
            for &block in &self.slots[donor.slot].blocks {
                self.pool.turn(block, Holder::Live);
            }
            return Some(donor.slot);
        };
        self.ops.push(SlotOp::Copy {
            from: donor.slot,
            to,
            len: donor.len,
        });
        self.copy_blocks(donor, to);
        Some(to)
    }

    /// The book's side of a copy: shared blocks get one more holder, isolated ones are new.
    fn copy_blocks(&mut self, donor: Donor, to: SlotId) {
        let count = donor.len / self.block_size();
        for index in 0..count {
            let block = match self.config.layout {
                Layout::Shared => {
                    let block = self.slots[donor.slot].blocks[index];
                    self.pool.hold(block, Holder::Live);
                    Some(block)
                }
                Layout::Isolated { .. } => self.allocate(Holder::Live),
            };
            self.slots[to].blocks.extend(block);
        }
    }

    fn occupy(&mut self, id: SequenceId, slot: SlotId, need: usize, found: usize) {
        let Some(sequence) = self.sequences.get_mut(&id) else {
            return;
        };
        sequence.slot = Some(slot);
        sequence.computed = found;
        sequence.prefix_waits = 0;
        if sequence.cached.is_none() {
            sequence.cached = Some(found);
            self.found.prompt_tokens += sequence.prompt_len as u64;
            self.found.cached_tokens += found.min(sequence.prompt_len) as u64;
        }
        let key = sequence.key();
        self.waiting.remove(&key);
        self.running.insert(key);
        let place = &mut self.slots[slot];
        place.usage = SlotUse::Live(id);
        place.last_used = self.step;
        place.tokens.truncate(0);
        place.salt = None;
        while self.slots[slot].blocks.len() < need {
            let Some(block) = self.allocate(Holder::Live) else {
                break;
            };
            self.slots[slot].blocks.push(block);
        }
        self.publish(slot);
    }
}

fn common_prefix(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}
