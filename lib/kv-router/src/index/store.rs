//! Blocks come: known ones get a holder, unknown ones a place in a run.
//!
//! Unknown blocks go, in this order: back into a run that still has them as dead blocks, behind
//! the end of the run that their parent ends, into a new run.

use super::Index;
use super::holders::Holder;
use super::run::Run;
use super::table::{MAX_OFFSETS, Place};
use dynamo_protocols::kv::{Block, SequenceHash};
use dynamo_tokens::chain;
use std::ops::Range;

/// Blocks whose slots of the table are fetched together: more than memory answers at once.
pub(super) const TOUCHED: usize = 32;

/// Consecutive blocks that nobody holds.
#[derive(Clone, Copy)]
struct Unknown<'a> {
    blocks: &'a [Block],
    /// Sequence hash before the first.
    parent: Option<SequenceHash>,
    /// Where that is, if somebody holds it.
    previous: Option<Place>,
    /// Where the block after the last is, if somebody holds it.
    next: Option<Place>,
}

impl Index {
    pub(super) fn refuse_inconsistent(&mut self) {
        self.counters.inconsistent += 1;
    }

    /// Gives a holder blocks that [are a chain](is_chain).
    pub(super) fn store(&mut self, holder: Holder, parent: Option<SequenceHash>, blocks: &[Block]) {
        let room = usize::try_from(self.max_blocks - self.blocks).unwrap_or(usize::MAX);
        let (mut rest, refused) = blocks.split_at(room.min(blocks.len()));
        self.counters.refused += refused.len() as u64;
        let mut parent = parent;
        let mut previous = None;
        while let Some(first) = rest.first() {
            let (taken, last) = match self.locate(first.sequence_hash) {
                Some(place) => self.hold_known(holder, place, rest),
                None => {
                    if previous.is_none() {
                        previous = self.locate_parent(parent);
                    }
                    let (count, next) = self.unknown_stretch(rest);
                    let unknown = Unknown {
                        blocks: &rest[..count],
                        parent,
                        previous,
                        next,
                    };
                    (count, self.admit(holder, unknown))
                }
            };
            previous = last;
            parent = Some(rest[taken - 1].sequence_hash);
            rest = &rest[taken..];
        }
    }

    fn locate_parent(&mut self, parent: Option<SequenceHash>) -> Option<Place> {
        let place = self.locate(parent?);
        if place.is_none() {
            self.counters.orphan_stores += 1;
        }
        place
    }

    /// Blocks that stand in the run from `place` on: how many, and where the last is.
    fn hold_known(
        &mut self,
        holder: Holder,
        place: Place,
        blocks: &[Block],
    ) -> (usize, Option<Place>) {
        let run = self.runs.get(place.run);
        let matching = run.matching_blocks(place.offset, blocks);
        let count = run.live_stretch(place.offset, matching);
        self.hold(holder, place.run, place.offset..place.offset + count);
        let last = Place {
            offset: place.offset + count - 1,
            ..place
        };
        (usize::from(count), Some(last))
    }

    /// How many blocks nobody holds before the first that somebody does, and where that is.
    fn unknown_stretch(&self, blocks: &[Block]) -> (usize, Option<Place>) {
        let mut count = 0;
        for some in blocks.chunks(TOUCHED) {
            self.table
                .touch(some.iter().map(|block| block.sequence_hash));
            for block in some {
                if let Some(place) = self.locate(block.sequence_hash) {
                    return (count, Some(place));
                }
                count += 1;
            }
        }
        (count, None)
    }

    /// Gives places to blocks that have none; answers the last one's, if there was room for it.
    fn admit(&mut self, holder: Holder, unknown: Unknown<'_>) -> Option<Place> {
        let Unknown {
            mut blocks,
            mut parent,
            mut previous,
            next,
        } = unknown;
        if let Some(place) = previous {
            let run = self.runs.get(place.run);
            let dead = run.matching_blocks(place.offset + 1, blocks);
            if dead > 0 {
                let (revived, rest) = blocks.split_at(usize::from(dead));
                let last = self.revive(holder, place.run, place.offset + 1, revived);
                (blocks, previous, parent) = (rest, Some(last), revived.last().map(hash_of));
            }
        }
        let mut end = None;
        if let Some(place) = next.filter(|_| !blocks.is_empty()) {
            // What a run has before a block is what comes before it in every sequence.
            let before = usize::from(place.offset - self.runs.get(place.run).first());
            let dead = before.min(blocks.len());
            if dead > 0 {
                let (rest, revived) = blocks.split_at(blocks.len() - dead);
                end = Some(self.revive(holder, place.run, place.offset - dead as u16, revived));
                blocks = rest;
            }
        }
        if !blocks.is_empty() {
            previous = self.place(holder, parent, previous, blocks);
        }
        end.or(previous)
    }

    /// Gives blocks places at the end of the previous one's run or in new runs; answers the last
    /// one's.
    fn place(
        &mut self,
        holder: Holder,
        mut parent: Option<SequenceHash>,
        previous: Option<Place>,
        mut blocks: &[Block],
    ) -> Option<Place> {
        let mut last = None;
        if let Some(place) = previous {
            let room = self.runs.get(place.run).room_behind(place.offset);
            let (appended, rest) = blocks.split_at(room.min(blocks.len()));
            if !appended.is_empty() {
                self.runs.edit(place.run, |run| run.append(appended));
                last = Some(self.revive(holder, place.run, place.offset + 1, appended));
                parent = appended.last().map(hash_of);
            }
            blocks = rest;
        }
        for some in blocks.chunks(usize::from(MAX_OFFSETS)) {
            if self.runs.room() == 0 {
                self.counters.refused += some.len() as u64;
                last = None;
                continue;
            }
            let number = self.runs.add(Run::new(parent, some));
            last = Some(self.revive(holder, number, 0, some));
            parent = some.last().map(hash_of);
        }
        last
    }

    /// Gives dead blocks of a run a holder and puts them in the table; answers the last's place.
    fn revive(&mut self, holder: Holder, number: u32, start: u16, blocks: &[Block]) -> Place {
        let end = start + blocks.len() as u16;
        for (offset, block) in (start..end).zip(blocks) {
            let place = Place {
                run: number,
                offset,
            };
            self.table.insert(block.sequence_hash, place);
        }
        self.runs.edit(number, |run| run.live += end - start);
        self.hold(holder, number, start..end);
        Place {
            run: number,
            offset: end - 1,
        }
    }

    fn hold(&mut self, holder: Holder, number: u32, blocks: Range<u16>) {
        let count = u64::from(blocks.end - blocks.start);
        let added = self
            .runs
            .edit(number, |run| run.holders.add(holder, blocks));
        let added = u64::from(added);
        self.account_for_stored(holder.slot(), added);
        self.counters.stored += added;
        self.counters.duplicate += count - added;
    }
}

fn hash_of(block: &Block) -> SequenceHash {
    block.sequence_hash
}

/// Whether every block's sequence hash is chained from the one before.
pub(super) fn is_chain(parent: Option<SequenceHash>, blocks: &[Block]) -> bool {
    let follows = |parent, block: &Block| chain(parent, block.block_hash) == block.sequence_hash;
    let Some(first) = blocks.first() else {
        return true;
    };
    let starts = match parent {
        Some(parent) => follows(parent, first),
        None => first.block_hash == first.sequence_hash,
    };
    starts
        && blocks
            .windows(2)
            .all(|pair| follows(pair[0].sequence_hash, &pair[1]))
}
