//! Parked prefixes: what stays when a sequence ends, what goes when memory is needed.

use super::pool::Holder;
use super::slots::SlotUse;
use super::{Scheduler, SequenceId, SlotId, SlotOp};
use dynamo_tokens::{Block, HashContext, TokenBlocks};
use std::sync::Arc;

/// Rank of a preempted sequence's slot among the parked ones: evicted before any other, because
/// it was preempted to make room.
const EVICT_FIRST: u64 = 0;

/// A cached prefix, for export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachedPrefix {
    pub(crate) slot: SlotId,
    pub(crate) blocks: usize,
    pub(crate) tokens: Vec<u32>,
    pub(crate) salt: Option<Arc<str>>,
}

impl Scheduler {
    /// Brings the ledger up to what the live slot's sequence has computed.
    pub(crate) fn publish(&mut self, slot: SlotId) {
        let SlotUse::Live(owner) = self.slots[slot].usage else {
            return;
        };
        let Some(sequence) = self.sequences.get(&owner) else {
            return;
        };
        let reusable = self.reusable(sequence) / self.block_size();
        let place = &mut self.slots[slot];
        if reusable > place.published {
            let blocks = &sequence.tokens.blocks()[..reusable];
            self.ledger.store(blocks, place.published);
            place.published = reusable;
        }
    }

    /// Takes the slot's blocks from `keep` on out of the ledger; `blocks` are the slot's.
    pub(crate) fn unpublish(&mut self, slot: SlotId, blocks: &[Block], keep: usize) {
        let published = self.slots[slot].published;
        if published > keep {
            self.ledger.remove(&blocks[keep..published]);
            self.slots[slot].published = keep;
        }
    }

    /// Takes the sequence's place away and keeps what it computed as cache.
    pub(crate) fn park(&mut self, id: SequenceId, last_used: u64) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        let Some(slot) = sequence.slot else { return };
        let reusable = self.reusable(sequence);
        let computed = sequence.computed;
        let mut tokens = sequence.tokens.clone();
        let salt = sequence.salt.clone();
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.slot = None;
            sequence.computed = 0;
        }
        tokens.truncate(reusable);
        let keep = reusable / self.block_size();
        let place = &mut self.slots[slot];
        place.usage = SlotUse::Parked;
        place.tokens = tokens;
        place.salt = salt;
        place.last_used = last_used;
        for block in place.blocks.split_off(keep) {
            self.pool.release(block, Holder::Live);
        }
        for &block in &place.blocks {
            self.pool.turn(block, Holder::Parked);
        }
        if keep == 0 {
            self.clear_slot(slot);
        } else if computed > reusable {
            self.ops.push(SlotOp::Trim {
                slot,
                len: reusable,
            });
        }
    }

    /// Gives a running sequence's place up; it is computed again when it gets another one.
    fn preempt(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get(&id) else {
            return;
        };
        let key = sequence.key();
        self.park(id, EVICT_FIRST);
        self.running.remove(&key);
        self.waiting.insert(key);
    }

    /// Preempts a running sequence that nobody reads, if there is one.
    pub(crate) fn preempt_stalled(&mut self) -> bool {
        let mut running = self.running.iter().rev().map(|(_, _, id)| *id);
        let victim = running.find(|id| self.sequences.get(id).is_some_and(|s| s.stalled));
        victim.map(|id| self.preempt(id)).is_some()
    }

    /// Makes sure that the slot has blocks for `len` tokens. Takes them from the cache, then from
    /// stalled sequences, then from those later in order; gives up the sequence itself when it
    /// is the last.
    pub(crate) fn grow(&mut self, id: SequenceId, slot: SlotId, len: usize) -> bool {
        while self.slots[slot].blocks.len() * self.block_size() < len {
            if let Some(block) = self.allocate(Holder::Live) {
                self.slots[slot].blocks.push(block);
                continue;
            }
            if self.preempt_stalled() {
                continue;
            }
            let Some(&(_, _, last)) = self.running.last() else {
                return false;
            };
            self.preempt(last);
            if last == id {
                return false;
            }
        }
        true
    }

    /// A block for one holder, evicted from the cache if none is free.
    pub(crate) fn allocate(&mut self, holder: Holder) -> Option<u32> {
        while self.pool.free() == 0 {
            let slot = self.least_recently_parked(None)?;
            let blocks = self.slots[slot].blocks.len();
            self.truncate_parked(slot, (blocks - 1) * self.block_size());
        }
        self.pool.allocate(holder)
    }

    /// An empty slot: a free one, or else the least recently parked one but `keep`, emptied.
    pub(crate) fn empty_slot(&mut self, keep: Option<SlotId>) -> Option<SlotId> {
        let free = self.slots.iter().position(|s| s.usage == SlotUse::Free);
        if free.is_some() {
            return free;
        }
        let slot = self.least_recently_parked(keep)?;
        self.truncate_parked(slot, 0);
        Some(slot)
    }

    fn least_recently_parked(&self, keep: Option<SlotId>) -> Option<SlotId> {
        let slots = self.slots.iter().enumerate();
        slots
            .filter(|(id, slot)| slot.usage == SlotUse::Parked && Some(*id) != keep)
            .min_by_key(|(id, slot)| (slot.last_used, *id))
            .map(|(id, _)| id)
    }

    /// Cuts a parked slot back to `len` tokens; none left frees it.
    pub(crate) fn truncate_parked(&mut self, slot: SlotId, len: usize) {
        let keep = len / self.block_size();
        if keep == self.slots[slot].blocks.len() {
            return;
        }
        let empty = self.no_tokens();
        let mut tokens = std::mem::replace(&mut self.slots[slot].tokens, empty);
        self.unpublish(slot, tokens.blocks(), keep);
        tokens.truncate(len);
        self.slots[slot].tokens = tokens;
        for block in self.slots[slot].blocks.split_off(keep) {
            self.pool.release(block, Holder::Parked);
        }
        if keep == 0 {
            self.clear_slot(slot);
        } else {
            self.ops.push(SlotOp::Trim { slot, len });
        }
    }

    /// Frees a slot that is out of the ledger, with whatever blocks it still holds.
    pub(crate) fn clear_slot(&mut self, slot: SlotId) {
        let empty = self.no_tokens();
        let place = &mut self.slots[slot];
        let holder = match place.usage {
            SlotUse::Live(_) => Holder::Live,
            SlotUse::Parked | SlotUse::Free => Holder::Parked,
        };
        for block in place.blocks.drain(..) {
            self.pool.release(block, holder);
        }
        place.usage = SlotUse::Free;
        place.tokens = empty;
        place.salt = None;
        self.ops.push(SlotOp::Clear { slot });
    }

    /// The slot that holds the longest prefix of these sequence hashes.
    pub(crate) fn cached_prefix(&self, hashes: &[u64]) -> Option<CachedPrefix> {
        let mut best: Option<CachedPrefix> = None;
        for (slot, place) in self.slots.iter().enumerate() {
            let (tokens, salt) = match place.usage {
                SlotUse::Free => continue,
                SlotUse::Parked => (&place.tokens, &place.salt),
                SlotUse::Live(owner) => match self.sequences.get(&owner) {
                    Some(owner) => (&owner.tokens, &owner.salt),
                    None => continue,
                },
            };
            let held = tokens.blocks()[..place.published].iter();
            let common = held
                .zip(hashes)
                .take_while(|(block, hash)| block.sequence_hash == **hash)
                .count();
            if common > best.as_ref().map_or(0, |best| best.blocks) {
                best = Some(CachedPrefix {
                    slot,
                    blocks: common,
                    tokens: tokens.tokens()[..common * self.block_size()].to_vec(),
                    salt: salt.clone(),
                });
            }
        }
        best
    }

    /// Room for a prefix from elsewhere: a parked slot with the blocks of `tokens` (whole blocks),
    /// not published yet. `None` if running sequences need the memory.
    pub(crate) fn reserve_import(
        &mut self,
        tokens: &[u32],
        salt: Option<Arc<str>>,
    ) -> Option<SlotId> {
        let blocks = tokens.len() / self.block_size();
        let room = self.pool.total() - self.pool.live_used();
        if blocks == 0 || blocks + self.running.len() > room {
            return None;
        }
        let slot = self.empty_slot(None)?;
        // The slot counts as free while it is filled, so that making room cannot evict it.
        for _ in 0..blocks {
            let Some(block) = self.allocate(Holder::Parked) else {
                self.clear_slot(slot);
                return None;
            };
            self.slots[slot].blocks.push(block);
        }
        let context = HashContext::of(None, salt.as_deref());
        let mut content = TokenBlocks::new(self.config.block_size, context);
        content.extend(tokens);
        let place = &mut self.slots[slot];
        place.usage = SlotUse::Parked;
        place.tokens = content;
        place.salt = salt;
        place.last_used = self.step;
        Some(slot)
    }

    /// The state of a reserved slot is there (or is not, and the slot is freed).
    pub(crate) fn finish_import(&mut self, slot: SlotId, filled: bool) {
        if !filled {
            self.clear_slot(slot);
            return;
        }
        let place = &mut self.slots[slot];
        self.ledger.store(place.tokens.blocks(), 0);
        place.published = place.tokens.blocks().len();
    }

    fn no_tokens(&self) -> TokenBlocks {
        TokenBlocks::new(self.config.block_size, HashContext::new())
    }
}
