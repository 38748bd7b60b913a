//! How much of a prompt each worker holds.

use super::Index;
use super::holders::Interval;
use super::run::Run;
use crate::cost::WorkerOverlap;
use crate::worker::{Slot, Tier};
use dynamo_protocols::kv::{BlockHash, SequenceHash};
use dynamo_tokens::chain;

/// What a query found: for each worker that holds the first block, how many blocks it holds from
/// there on without a gap, each counted in the nearest tier that has it. Kept between queries, so
/// that they allocate nothing.
#[derive(Debug, Clone, Default)]
pub struct Matches {
    overlaps: Vec<WorkerOverlap>,
    /// Those of `overlaps` that hold everything so far.
    reaching: Vec<u32>,
}

impl Matches {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Workers that hold anything, by slot.
    pub fn overlaps(&self) -> &[WorkerOverlap] {
        &self.overlaps
    }

    /// The most blocks that one worker holds.
    pub fn longest(&self) -> u32 {
        let totals = self.overlaps.iter().map(WorkerOverlap::total);
        totals.max().unwrap_or_default()
    }

    /// The overlaps alone.
    pub fn into_overlaps(self) -> Vec<WorkerOverlap> {
        self.overlaps
    }
}

/// The two ways to name a prompt's blocks.
trait Prompt: Copy {
    fn len(&self) -> usize;

    /// Sequence hash of a block, given that of the one before.
    fn sequence_hash(
        &self,
        at: usize,
        parent: impl FnOnce() -> Option<SequenceHash>,
    ) -> SequenceHash;

    /// How many blocks of a run from `offset` on are those of the prompt from `at` on. The first
    /// is known to be.
    fn matching(&self, at: usize, run: &Run, offset: u16) -> u16;
}

#[derive(Clone, Copy)]
struct Chained<'a>(&'a [SequenceHash]);

impl Prompt for Chained<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn sequence_hash(
        &self,
        at: usize,
        _parent: impl FnOnce() -> Option<SequenceHash>,
    ) -> SequenceHash {
        self.0[at]
    }

    fn matching(&self, at: usize, run: &Run, offset: u16) -> u16 {
        run.matching_hashes(offset, &self.0[at..])
    }
}

#[derive(Clone, Copy)]
struct Unchained<'a>(&'a [BlockHash]);

impl Prompt for Unchained<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn sequence_hash(
        &self,
        at: usize,
        parent: impl FnOnce() -> Option<SequenceHash>,
    ) -> SequenceHash {
        let block = self.0[at];
        parent().map_or(block, |parent| chain(parent, block))
    }

    fn matching(&self, at: usize, run: &Run, offset: u16) -> u16 {
        run.matching(offset, &self.0[at..])
    }
}

impl Index {
    /// Finds who holds the leading blocks of a prompt, given by its sequence hashes.
    pub fn find(&self, hashes: &[SequenceHash], matches: &mut Matches) {
        self.walk(Chained(hashes), matches);
    }

    /// How many leading blocks of a prompt somebody holds, whoever: what the union of all caches
    /// has of it.
    pub fn held_by_anybody(&self, hashes: &[SequenceHash]) -> usize {
        let held = hashes
            .iter()
            .take_while(|hash| self.locate(**hash).is_some());
        held.count()
    }

    /// [`find`](Self::find) by the hashes of the blocks alone: for who has no use for the chain,
    /// which costs more than the query.
    pub fn find_blocks(&self, hashes: &[BlockHash], matches: &mut Matches) {
        self.walk(Unchained(hashes), matches);
    }

    fn walk(&self, prompt: impl Prompt, matches: &mut Matches) {
        matches.overlaps.clear();
        matches.reaching.clear();
        let mut at = 0;
        let mut parent = None;
        while at < prompt.len() {
            let parent_hash = || {
                let (run, offset): (&Run, u16) = parent?;
                run.sequence_hash(offset)
            };
            let hash = prompt.sequence_hash(at, parent_hash);
            let Some(place) = self.locate(hash) else {
                return;
            };
            let run = self.runs.get(place.run);
            let matching = prompt.matching(at, run, place.offset);
            let count = run.live_stretch(place.offset, matching);
            let piece = Piece {
                intervals: run.holders.intervals(),
                start: place.offset,
                end: place.offset + count,
            };
            if at == 0 {
                piece.begin(matches);
            } else {
                piece.go_on(matches);
            }
            if matches.reaching.is_empty() {
                return;
            }
            at += usize::from(count);
            parent = Some((run, place.offset + count - 1));
        }
    }
}

/// Blocks of a run that a prompt has.
struct Piece<'a> {
    intervals: &'a [Interval],
    start: u16,
    end: u16,
}

impl Piece<'_> {
    /// The prompt's first piece: whoever holds its first block is counted.
    fn begin(&self, matches: &mut Matches) {
        for theirs in self.intervals.chunk_by(same_slot) {
            let mut overlap = WorkerOverlap::none(theirs[0].holder.slot());
            let reached = self.count(theirs, &mut overlap);
            if reached == self.start {
                continue;
            }
            if reached == self.end {
                matches.reaching.push(matches.overlaps.len() as u32);
            }
            matches.overlaps.push(overlap);
        }
    }

    /// A later piece: who came so far is counted on.
    fn go_on(&self, matches: &mut Matches) {
        let Matches { overlaps, reaching } = matches;
        let mut rest = self.intervals;
        reaching.retain(|place| {
            let overlap = &mut overlaps[*place as usize];
            let theirs = of_slot(&mut rest, overlap.slot);
            self.count(theirs, overlap) == self.end
        });
    }

    /// Counts the blocks that a worker holds from the start on, and answers where it stops.
    fn count(&self, theirs: &[Interval], overlap: &mut WorkerOverlap) -> u16 {
        let mut at = self.start;
        while at < self.end {
            // Nearest tiers come first.
            let Some(best) = theirs.iter().position(|held| held.covers(at)) else {
                break;
            };
            let nearer = theirs[..best].iter().filter(|held| held.start > at);
            let until = nearer.map(|held| held.start).min().unwrap_or(self.end);
            let end = theirs[best].end.min(until).min(self.end);
            *tier_of(overlap, theirs[best].holder.tier()) += u32::from(end - at);
            at = end;
        }
        at
    }
}

/// The intervals of a slot; `rest`, which is sorted, keeps those of later slots.
fn of_slot<'a>(rest: &mut &'a [Interval], slot: Slot) -> &'a [Interval] {
    let intervals = *rest;
    // Popular prefixes have few gaps between the slots of their holders.
    let before = |held: &&Interval| held.holder.slot() < slot;
    let first = intervals.iter().take_while(before).count();
    let theirs = &intervals[first..];
    let count = theirs.iter().take_while(|held| held.holder.slot() == slot);
    let (theirs, later) = theirs.split_at(count.count());
    *rest = later;
    theirs
}

fn same_slot(a: &Interval, b: &Interval) -> bool {
    a.holder.slot() == b.holder.slot()
}

fn tier_of(overlap: &mut WorkerOverlap, tier: Tier) -> &mut u32 {
    match tier {
        Tier::Device => &mut overlap.device,
        Tier::Host => &mut overlap.host,
        Tier::Disk => &mut overlap.disk,
        Tier::External => &mut overlap.external,
    }
}
