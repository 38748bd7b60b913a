//! Blocks go: by name, or all of one worker.

use super::Index;
use super::holders::{Holder, Pieces};
use super::store::TOUCHED;
use super::table::Place;
use crate::worker::Slot;
use dynamo_protocols::kv::SequenceHash;

/// What sweeping a run costs, compared with looking whether a worker has anything of it.
const SWEPT_EFFORT: usize = 256;

impl Index {
    pub(super) fn remove(&mut self, holder: Holder, hashes: &[SequenceHash]) {
        let mut rest = hashes;
        while let Some(first) = rest.first() {
            let count = match self.locate(*first) {
                Some(place) => {
                    let run = self.runs.get(place.run);
                    let following = run.following(place.offset, rest);
                    let count = run.live_stretch(place.offset, following);
                    self.release(holder, place, &rest[..usize::from(count)]);
                    usize::from(count)
                }
                None => {
                    self.counters.unknown_removed += 1;
                    1
                }
            };
            rest = &rest[count..];
        }
    }

    /// Takes live neighbours from a holder, as far as it has them.
    fn release(&mut self, holder: Holder, place: Place, hashes: &[SequenceHash]) {
        let number = place.run;
        let range = place.offset..place.offset + hashes.len() as u16;
        let held = self.runs.get(number).holders.held(holder, range.clone());
        let removed = self
            .runs
            .edit(number, |run| run.holders.remove(holder, range.clone()));
        let removed = u64::from(removed);
        self.account_for_removed(holder.slot(), removed);
        self.counters.removed += removed;
        self.counters.unknown_removed += hashes.len() as u64 - removed;
        for piece in held {
            for dead in self.runs.get(number).holders.unheld(piece) {
                let first = usize::from(dead.start - range.start);
                self.forget(number, dead.start, &hashes[first..first + dead.len()]);
            }
        }
        self.settle(number);
    }

    /// Takes blocks that lost their last holder out of the table.
    fn forget(&mut self, number: u32, start: u16, hashes: &[SequenceHash]) {
        let mut offset = start;
        for some in hashes.chunks(TOUCHED) {
            self.table.touch(some.iter().copied());
            for hash in some {
                let place = Place {
                    run: number,
                    offset,
                };
                self.table.remove(*hash, place);
                offset += 1;
            }
        }
        let dead = hashes.len() as u16;
        self.runs.edit(number, |run| run.live -= dead);
    }

    /// Takes everything from a worker, beginning with the run `start`; answers where to go on
    /// once `effort` is used up, counted in runs that are looked at.
    pub(super) fn sweep(&mut self, slot: Slot, start: u32, effort: usize) -> Option<u32> {
        if self.blocks_of(slot) == 0 {
            return None;
        }
        let mut left = effort;
        for number in start..self.runs.end() {
            if left == 0 {
                return Some(number);
            }
            left -= 1;
            if !self.runs.get(number).holders.of_slot(slot).is_empty() {
                self.sweep_run(slot, number);
                left = left.saturating_sub(SWEPT_EFFORT);
            }
        }
        None
    }

    fn sweep_run(&mut self, slot: Slot, number: u32) {
        let held = self.runs.edit(number, |run| run.holders.remove_slot(slot));
        let count: u64 = held.iter().map(|piece| piece.len() as u64).sum();
        self.account_for_removed(slot, count);
        self.counters.cleared += count;
        for piece in union(held) {
            for dead in self.runs.get(number).holders.unheld(piece) {
                let start = dead.start;
                let blocks = self.runs.get(number).blocks(dead);
                let hashes: Vec<_> = blocks.map(|block| block.sequence_hash).collect();
                self.forget(number, start, &hashes);
            }
        }
        self.settle(number);
    }
}

/// Pieces of several tiers as pieces that do not overlap.
fn union(mut pieces: Pieces) -> Pieces {
    pieces.sort_by_key(|piece| piece.start);
    let mut disjoint = Pieces::new();
    for piece in pieces {
        match disjoint.last_mut() {
            Some(last) if piece.start <= last.end => last.end = last.end.max(piece.end),
            _ => disjoint.push(piece),
        }
    }
    disjoint
}
