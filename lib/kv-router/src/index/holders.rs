//! Who holds which blocks of one run: an interval set for each holder.
//!
//! A holder is a slot's tier. Intervals are sorted by holder, then by offset; those of one holder
//! neither overlap nor touch.

use crate::worker::{Slot, Tier};
use smallvec::SmallVec;
use std::ops::Range;

/// A slot's tier in one number; the tiers of a slot are neighbours, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder(u32);

impl Holder {
    /// Slots above the largest that [`Slots`](crate::worker::Slots) gives share numbers.
    pub(super) fn new(slot: Slot, tier: Tier) -> Self {
        Self((slot.0 << Tier::BITS) | tier.index() as u32)
    }

    pub(super) fn slot(self) -> Slot {
        Slot(self.0 >> Tier::BITS)
    }

    pub(super) fn tier(self) -> Tier {
        Tier::from_index(self.0 & ((1 << Tier::BITS) - 1))
    }
}

/// Blocks from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) holder: Holder,
    pub(super) start: u16,
    pub(super) end: u16,
}

impl Interval {
    /// How many blocks from `offset` on it covers.
    pub(super) fn covers(&self, offset: u16) -> bool {
        self.start <= offset && offset < self.end
    }
}

/// Pieces of a run; there are rarely more than a few.
pub(super) type Pieces = SmallVec<[Range<u16>; 4]>;

/// The intervals of one run.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Most runs have one holder; two fit where a heap's pointer and length would stand.
    intervals: SmallVec<[Interval; 2]>,
}

impl Holders {
    /// All intervals in order.
    pub(super) fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// Adds blocks; answers how many of them the holder did not have.
    pub(super) fn add(&mut self, holder: Holder, blocks: Range<u16>) -> u16 {
        let Range { mut start, mut end } = blocks;
        let first = self
            .intervals
            .partition_point(|held| (held.holder, held.end) < (holder, start));
        let added = end - start;
        let mut known = 0;
        let mut past = first;
        while let Some(held) = self.intervals.get(past)
            && held.holder == holder
            && held.start <= end
        {
            known += held.end.min(end).saturating_sub(held.start.max(start));
            start = start.min(held.start);
            end = end.max(held.end);
            past += 1;
        }
        let merged = Interval { holder, start, end };
        if first == past {
            self.make_room();
            self.intervals.insert(first, merged);
        } else {
            self.intervals[first] = merged;
            self.intervals.drain(first + 1..past);
        }
        added - known
    }

    /// Grows by a quarter where doubling would waste memory on every popular run.
    fn make_room(&mut self) {
        let len = self.intervals.len();
        if len == self.intervals.capacity() {
            self.intervals.reserve_exact(2 + len / 4);
        }
    }

    /// Takes blocks from a holder; answers how many of them it had.
    pub(super) fn remove(&mut self, holder: Holder, blocks: Range<u16>) -> u16 {
        let first = self
            .intervals
            .partition_point(|held| (held.holder, held.end) <= (holder, blocks.start));
        let overlapping = self.intervals[first..]
            .iter()
            .take_while(|held| held.holder == holder && held.start < blocks.end);
        let past = first + overlapping.count();
        let Some(last) = past.checked_sub(1).filter(|last| *last >= first) else {
            return 0;
        };
        let removed = self.intervals[first..past]
            .iter()
            .map(|held| held.end.min(blocks.end) - held.start.max(blocks.start))
            .sum();
        let left = Interval {
            end: blocks.start,
            ..self.intervals[first]
        };
        let right = Interval {
            start: blocks.end,
            ..self.intervals[last]
        };
        let kept: SmallVec<[Interval; 2]> = [left, right]
            .into_iter()
            .filter(|piece| piece.start < piece.end)
            .collect();
        self.replace(first..past, &kept);
        removed
    }

    fn replace(&mut self, range: Range<usize>, kept: &[Interval]) {
        let common = range.len().min(kept.len());
        self.intervals[range.start..range.start + common].copy_from_slice(&kept[..common]);
        if let Some(more) = kept.get(common) {
            self.make_room();
            self.intervals.insert(range.start + common, *more);
        } else {
            self.intervals.drain(range.start + common..range.end);
            self.give_back();
        }
    }

    /// What of `blocks` a holder has.
    pub(super) fn held(&self, holder: Holder, blocks: Range<u16>) -> Pieces {
        let first = self
            .intervals
            .partition_point(|held| (held.holder, held.end) <= (holder, blocks.start));
        self.intervals[first..]
            .iter()
            .take_while(|held| held.holder == holder && held.start < blocks.end)
            .map(|held| held.start.max(blocks.start)..held.end.min(blocks.end))
            .collect()
    }

    /// The intervals of a slot, by tier.
    pub(super) fn of_slot(&self, slot: Slot) -> &[Interval] {
        let first = self
            .intervals
            .partition_point(|held| held.holder.slot() < slot);
        let theirs = &self.intervals[first..];
        &theirs[..theirs.partition_point(|held| held.holder.slot() == slot)]
    }

    /// Takes everything from a slot; answers what it had, by tier.
    pub(super) fn remove_slot(&mut self, slot: Slot) -> Pieces {
        let first = self
            .intervals
            .partition_point(|held| held.holder.slot() < slot);
        let theirs = self.intervals[first..]
            .iter()
            .take_while(|held| held.holder.slot() == slot);
        let pieces: Pieces = theirs.map(|held| held.start..held.end).collect();
        if !pieces.is_empty() {
            self.intervals.drain(first..first + pieces.len());
            self.give_back();
        }
        pieces
    }

    fn give_back(&mut self) {
        if self.intervals.spilled() && self.intervals.len() * 2 < self.intervals.capacity() {
            self.intervals.shrink_to_fit();
        }
    }

    /// How far from `offset` on every block is known to have a holder; `None` if it has none.
    pub(super) fn live_until(&self, offset: u16) -> Option<u16> {
        let covering = self.intervals.iter().filter(|held| held.covers(offset));
        covering.map(|held| held.end).max()
    }

    /// The first held block from `offset` on.
    pub(super) fn next_live(&self, offset: u16) -> Option<u16> {
        let later = self.intervals.iter().filter(|held| held.end > offset);
        later.map(|held| held.start.max(offset)).min()
    }

    /// From the first held block to past the last one.
    pub(super) fn extent(&self) -> Option<Range<u16>> {
        let start = self.intervals.iter().map(|held| held.start).min()?;
        let end = self.intervals.iter().map(|held| held.end).max()?;
        Some(start..end)
    }

    /// The pieces of `blocks` that nobody holds, in order.
    pub(super) fn unheld(&self, blocks: Range<u16>) -> Pieces {
        let mut unheld = Pieces::new();
        let mut start = blocks.start;
        while start < blocks.end {
            match self.live_until(start) {
                Some(end) => start = end,
                None => {
                    let end = self.next_live(start).unwrap_or(blocks.end).min(blocks.end);
                    unheld.push(start..end);
                    start = end;
                }
            }
        }
        unheld
    }

    /// Who holds what of some blocks, the first of which becomes number 0.
    pub(super) fn within(&self, blocks: Range<u16>) -> Self {
        let overlapping = self
            .intervals
            .iter()
            .filter(|held| held.start < blocks.end && blocks.start < held.end);
        let clipped = overlapping.map(|held| Interval {
            holder: held.holder,
            start: held.start.max(blocks.start) - blocks.start,
            end: held.end.min(blocks.end) - blocks.start,
        });
        let mut intervals: SmallVec<_> = clipped.collect();
        intervals.shrink_to_fit();
        Self { intervals }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        if self.intervals.spilled() {
            self.intervals.capacity() * size_of::<Interval>()
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    const BLOCKS: u16 = 24;

    fn intervals_of(model: &BTreeMap<(u32, usize), BTreeSet<u16>>) -> Vec<Interval> {
        let mut intervals: Vec<Interval> = Vec::new();
        for ((slot, tier), blocks) in model {
            let holder = Holder::new(Slot(*slot), Tier::ALL[*tier]);
            for &block in blocks {
                match intervals.last_mut() {
                    Some(last) if last.holder == holder && last.end == block => last.end += 1,
                    _ => intervals.push(Interval {
                        holder,
                        start: block,
                        end: block + 1,
                    }),
                }
            }
        }
        intervals
    }

    proptest! {
        #[test]
        fn behaves_like_sets_of_blocks(
            steps in prop::collection::vec((0_u8..8, 0_u32..5, 0_usize..4, 0..BLOCKS, 1..9_u16), 0..60),
        ) {
            let mut holders = Holders::default();
            let mut model: BTreeMap<(u32, usize), BTreeSet<u16>> = BTreeMap::new();
            for (kind, slot, tier, start, len) in steps {
                let range = start..(start + len).min(BLOCKS);
                let holder = Holder::new(Slot(slot), Tier::ALL[tier]);
                prop_assert_eq!((holder.slot(), holder.tier()), (Slot(slot), Tier::ALL[tier]));
                let set = model.entry((slot, tier)).or_default();
                match kind {
                    0..4 => {
                        let added = range.clone().filter(|block| set.insert(*block)).count();
                        prop_assert_eq!(usize::from(holders.add(holder, range)), added);
                    }
                    4..7 => {
                        let removed = range.clone().filter(|block| set.remove(block)).count();
                        prop_assert_eq!(usize::from(holders.remove(holder, range)), removed);
                    }
                    _ => {
                        let held: usize = holders.remove_slot(Slot(slot)).iter().map(Range::len).sum();
                        let mut expected = 0;
                        for (_, set) in model.range_mut((slot, 0)..(slot + 1, 0)) {
                            expected += std::mem::take(set).len();
                        }
                        prop_assert_eq!(held, expected);
                    }
                }
                prop_assert_eq!(holders.intervals(), &intervals_of(&model)[..]);
            }
            let live: BTreeSet<u16> = model.values().flatten().copied().collect();
            let unheld: Vec<u16> = holders.unheld(0..BLOCKS).into_iter().flatten().collect();
            let expected: Vec<u16> = (0..BLOCKS).filter(|block| !live.contains(block)).collect();
            prop_assert_eq!(unheld, expected);
            let extent = live.first().map(|first| *first..live.last().unwrap() + 1);
            prop_assert_eq!(holders.extent(), extent);
            for block in 0..BLOCKS {
                prop_assert_eq!(holders.live_until(block).is_some(), live.contains(&block));
                prop_assert_eq!(holders.next_live(block), live.range(block..).next().copied());
            }
        }
    }
}
