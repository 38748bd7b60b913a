//! Which worker holds which KV block in which tier.
//!
//! A sequence hash determines everything before it, so a piece of a chain never changes. Blocks
//! are therefore kept in *runs*, arrays of consecutive blocks of one chain, beside the intervals
//! of them that each worker's tier holds; a *table* tells the run and the offset of every block
//! that somebody holds. Runs have no links: where a prompt leaves a run, the next block's hash is
//! chained and looked up. A prompt is compared with whole arrays, and an event of many neighbours
//! is one change to one interval.
//!
//! Invariants:
//! - a block is in the table exactly if somebody holds it, once, and its place names the run that
//!   has its holders; a block of a run that nobody holds is *dead*, and may live in another run
//! - right under any order of events, holes included: a query counts the blocks from the first
//!   one on that a worker holds without a gap, whatever else it holds
//! - memory is bounded by [`Index::new`]'s number of blocks, and by that of runs, and follows what is held, both ways:
//!   a run of which over a third is dead is compacted
//! - no answer depends on the order of a hash map
//!
//! The index trusts a worker in what it holds, not in its names: blocks whose sequence hashes are
//! not chained from their block hashes are refused, so that no worker can spoil another's prefix.

mod compact;
mod find;
mod holders;
mod remove;
mod run;
mod runs;
mod shared;
mod snapshot;
mod store;
mod table;

pub use find::Matches;
pub use shared::SharedIndex;

use crate::worker::{Slot, Tier};
use dynamo_protocols::kv::{KvEvent, SequenceHash};
use holders::Holder;
use runs::Runs;
use serde::{Deserialize, Serialize};
use store::is_chain;
use table::{Place, Table};

/// Blocks held, each counted once for every worker and tier, that fit by default. They cost 20
/// bytes where prompts are long and 150 where every block has a run of its own: a few gigabytes
/// at the worst, at 2,000 workers of 16,384 blocks.
pub const DEFAULT_MAX_BLOCKS: u64 = 32 * 1024 * 1024;

/// A change to what a worker holds in one tier.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TierEvent {
    /// Where the blocks lie. A clearing concerns every tier.
    pub tier: Tier,
    /// The change.
    pub event: KvEvent,
}

/// What came of events, in blocks unless it says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Stored that the worker's tier did not have.
    pub stored: u64,
    /// Stored that it had already.
    pub duplicate: u64,
    /// Removed that it had.
    pub removed: u64,
    /// Removed that it did not have.
    pub unknown_removed: u64,
    /// Gone because a worker cleared its cache or left.
    pub cleared: u64,
    /// Stored events whose parent nobody holds: kept, and of use once the parent is there.
    pub orphan_stores: u64,
    /// Stored that found no room.
    pub refused: u64,
    /// Stored events refused because their hashes do not form a chain.
    pub inconsistent: u64,
}

/// See the module's description.
#[derive(Debug)]
pub struct Index {
    table: Table,
    runs: Runs,
    /// By slot: the blocks it holds, over all tiers.
    held: Vec<u64>,
    blocks: u64,
    max_blocks: u64,
    counters: Counters,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(DEFAULT_MAX_BLOCKS)
    }
}

impl Index {
    /// An index that holds at most so many blocks, each counted once for every worker and tier.
    pub fn new(max_blocks: u64) -> Self {
        Self {
            table: Table::new(),
            runs: Runs::new(),
            held: Vec::new(),
            blocks: 0,
            max_blocks,
            counters: Counters::default(),
        }
    }

    /// Takes in what a worker says of its blocks in one tier. A clearing concerns every tier.
    pub fn apply(&mut self, slot: Slot, tier: Tier, event: &KvEvent) {
        match event {
            KvEvent::Stored { parent, blocks } if !is_chain(*parent, blocks) => {
                self.refuse_inconsistent();
            }
            KvEvent::Stored { parent, blocks } => {
                self.store(Holder::new(slot, tier), *parent, blocks);
            }
            KvEvent::Removed { blocks } => self.remove(Holder::new(slot, tier), blocks),
            KvEvent::Cleared => self.clear(slot),
        }
    }

    /// Forgets all that a worker holds. Nothing refers to its slot afterwards, so that a worker
    /// that left can be parted from it: see [`Slots::release`](crate::worker::Slots::release).
    pub fn clear(&mut self, slot: Slot) {
        self.sweep(slot, 0, usize::MAX);
    }

    /// Blocks that workers hold, each counted once for every worker and tier.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Blocks that somebody holds, each counted once.
    pub fn distinct_blocks(&self) -> usize {
        self.table.len()
    }

    /// Arrays that the blocks stand in: many for few blocks means that prompts are short or caches
    /// full of holes.
    pub fn runs(&self) -> usize {
        self.runs.len()
    }

    /// Blocks that one worker holds, over all tiers.
    pub fn blocks_of(&self, slot: Slot) -> u64 {
        self.held.get(slot.0 as usize).copied().unwrap_or_default()
    }

    /// What came of the events so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Bytes it has allocated.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
            + self.runs.memory_bytes()
            + self.held.capacity() * size_of::<u64>()
    }

    fn locate(&self, hash: SequenceHash) -> Option<Place> {
        let is_it = |place: Place| {
            let run = self.runs.get(place.run);
            run.sequence_hash(place.offset) == Some(hash)
        };
        self.table.find(hash, is_it)
    }

    fn account_for_stored(&mut self, slot: Slot, blocks: u64) {
        let at = slot.0 as usize;
        if at >= self.held.len() {
            self.held.resize(at + 1, 0);
        }
        self.held[at] += blocks;
        self.blocks += blocks;
    }

    fn account_for_removed(&mut self, slot: Slot, blocks: u64) {
        if let Some(held) = self.held.get_mut(slot.0 as usize) {
            *held -= blocks;
        }
        self.blocks -= blocks;
    }
}

#[cfg(test)]
mod tests;
