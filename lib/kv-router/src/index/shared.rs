//! The index between threads: many readers, one writer at a time in short turns.

use super::holders::Holder;
use super::store::is_chain;
use super::{Counters, Index, Matches, TierEvent};
use crate::worker::{Slot, Tier};
use dynamo_protocols::kv::{BlockHash, KvEvent, SequenceHash};
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::hint::spin_loop;

/// Blocks that a writer changes before readers get their turn: some microseconds.
const TURN_BLOCKS: usize = 64;

/// Runs that a sweep looks at before readers get their turn, or one or two that it changes.
const TURN_RUNS: usize = 512;

/// Times that a thread looks whether the index is free before it sleeps: longer than most reads and
/// turns take, because to yield or to be woken costs more than they do.
const SPINS: u32 = 512;

/// An [`Index`] that threads share. Readers never wait for each other, and for a writer only some
/// microseconds, however large its event: they may see part of it.
#[derive(Debug, Default)]
pub struct SharedIndex {
    index: RwLock<Index>,
    /// Held over a whole event, so that nobody stores for a slot that is being swept.
    writer: Mutex<()>,
}

impl SharedIndex {
    /// An index that holds at most so many blocks.
    pub fn new(max_blocks: u64) -> Self {
        Self {
            index: RwLock::new(Index::new(max_blocks)),
            writer: Mutex::new(()),
        }
    }

    /// See [`Index::find`].
    pub fn find(&self, hashes: &[SequenceHash], matches: &mut Matches) {
        self.read().find(hashes, matches);
    }

    /// See [`Index::find_blocks`].
    pub fn find_blocks(&self, hashes: &[BlockHash], matches: &mut Matches) {
        self.read().find_blocks(hashes, matches);
    }

    /// See [`Index::apply`].
    pub fn apply(&self, slot: Slot, tier: Tier, event: &KvEvent) {
        let _turn = self.writer.lock();
        self.write(slot, tier, event);
    }

    /// See [`Index::clear`].
    pub fn clear(&self, slot: Slot) {
        let _turn = self.writer.lock();
        self.sweep(slot);
    }

    /// Puts `events` in place of what the worker held: see [`Index::restore`].
    pub fn replace(&self, slot: Slot, events: &[TierEvent]) {
        let _turn = self.writer.lock();
        self.sweep(slot);
        for TierEvent { tier, event } in events {
            self.write(slot, *tier, event);
        }
    }

    /// See [`Index::snapshot`]. Writers wait for it.
    pub fn snapshot(&self, slot: Slot) -> Vec<TierEvent> {
        self.read().snapshot(slot)
    }

    /// See [`Index::counters`].
    pub fn counters(&self) -> Counters {
        self.read().counters()
    }

    /// See [`Index::blocks`].
    pub fn blocks(&self) -> u64 {
        self.read().blocks()
    }

    /// See [`Index::distinct_blocks`].
    pub fn distinct_blocks(&self) -> usize {
        self.read().distinct_blocks()
    }

    /// See [`Index::blocks_of`].
    pub fn blocks_of(&self, slot: Slot) -> u64 {
        self.read().blocks_of(slot)
    }

    /// See [`Index::memory_bytes`].
    pub fn memory_bytes(&self) -> usize {
        self.read().memory_bytes()
    }

    fn write(&self, slot: Slot, tier: Tier, event: &KvEvent) {
        let holder = Holder::new(slot, tier);
        match event {
            KvEvent::Stored { parent, blocks } if !is_chain(*parent, blocks) => {
                self.lock().refuse_inconsistent();
            }
            KvEvent::Stored { parent, blocks } => {
                let mut parent = *parent;
                self.in_turns(blocks, |index, some| {
                    index.store(holder, parent, some);
                    parent = some.last().map(|block| block.sequence_hash);
                });
            }
            KvEvent::Removed { blocks } => {
                self.in_turns(blocks, |index, some| index.remove(holder, some));
            }
            KvEvent::Cleared => self.sweep(slot),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        spin(|| self.index.try_read()).unwrap_or_else(|| self.index.read())
    }

    fn lock(&self) -> RwLockWriteGuard<'_, Index> {
        spin(|| self.index.try_write()).unwrap_or_else(|| self.index.write())
    }

    fn in_turns<T>(&self, blocks: &[T], mut change: impl FnMut(&mut Index, &[T])) {
        let mut index = self.lock();
        for some in blocks.chunks(TURN_BLOCKS) {
            change(&mut index, some);
            RwLockWriteGuard::bump(&mut index);
        }
    }

    fn sweep(&self, slot: Slot) {
        let mut index = self.lock();
        let mut next = Some(0);
        while let Some(start) = next {
            next = index.sweep(slot, start, TURN_RUNS);
            RwLockWriteGuard::bump(&mut index);
        }
    }
}

fn spin<T>(attempt: impl Fn() -> Option<T>) -> Option<T> {
    for _ in 0..SPINS {
        if let Some(guard) = attempt() {
            return Some(guard);
        }
        spin_loop();
    }
    None
}
