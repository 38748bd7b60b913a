//! Blocks of KV memory: who needs them, which can be found again, which goes first.
//!
//! A block is *held* by one or more sequences, or *idle* (nobody holds it, but it can be found by
//! its sequence hash), or *blank*. Blank blocks are taken first, then the idle one that has been
//! so for longest.
//!
//! Invariants
//! - `held + idle + blank = total`.
//! - The table names each findable block once, and events mirror the table.
//! - The idle list holds exactly the findable blocks without holder.

use dynamo_protocols::kv::{Block, KvEvent, SequenceHash};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A block's number.
pub(crate) type BlockId = u32;

/// No block: the ends of the idle list.
const NONE: BlockId = BlockId::MAX;

/// The cache of one scheduler.
#[derive(Debug)]
pub(crate) struct KvCache {
    total: usize,
    /// Grows when a block is used for the first time, so that an idle engine is small.
    blocks: Vec<Entry>,
    blank: Vec<BlockId>,
    table: HashMap<SequenceHash, BlockId, BuildHasherDefault<Unhashed>>,
    idle: IdleList,
    pending: Vec<KvEvent>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The name under which it is found.
    hash: Option<SequenceHash>,
    holders: u32,
    older: BlockId,
    newer: BlockId,
}

#[derive(Debug)]
struct IdleList {
    oldest: BlockId,
    newest: BlockId,
    len: usize,
}

/// Sequence hashes are hashes already. Looked up only; never iterated.
#[derive(Debug, Default, Clone, Copy)]
struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        debug_assert!(false, "only u64 keys are hashed");
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl KvCache {
    pub(crate) fn new(total: usize) -> Self {
        Self {
            total: total.min(NONE as usize),
            blocks: Vec::new(),
            blank: Vec::new(),
            table: HashMap::default(),
            idle: IdleList {
                oldest: NONE,
                newest: NONE,
                len: 0,
            },
            pending: Vec::new(),
        }
    }

    /// Blocks that sequences hold.
    pub(crate) fn held(&self) -> usize {
        self.total - self.available()
    }

    /// Findable blocks that nobody holds.
    pub(crate) fn idle(&self) -> usize {
        self.idle.len
    }

    /// Blocks that can be taken.
    pub(crate) fn available(&self) -> usize {
        self.total - self.blocks.len() + self.blank.len() + self.idle.len
    }

    /// The block of this name.
    pub(crate) fn find(&self, hash: SequenceHash) -> Option<BlockId> {
        self.table.get(&hash).copied()
    }

    /// Whether holding the block takes one from those available.
    pub(crate) fn is_idle(&self, block: BlockId) -> bool {
        self.blocks[block as usize].holders == 0
    }

    /// Adds a holder to a block that was found.
    pub(crate) fn hold(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        entry.holders += 1;
        if entry.holders == 1 {
            self.unlink(block);
        }
    }

    /// Takes a block for one holder, evicting an idle one if need be.
    pub(crate) fn allocate(&mut self) -> Option<BlockId> {
        let block = if let Some(block) = self.blank.pop() {
            block
        } else if self.blocks.len() < self.total {
            self.blocks.push(Entry {
                hash: None,
                holders: 0,
                older: NONE,
                newer: NONE,
            });
            (self.blocks.len() - 1) as BlockId
        } else {
            self.evict()?
        };
        self.blocks[block as usize].holders = 1;
        Some(block)
    }

    /// A held block is computed and can be found from now on. If another one of the same name
    /// can already, the holder moves to that one. Answers the block that is held.
    pub(crate) fn publish(
        &mut self,
        block: BlockId,
        names: Block,
        parent: Option<SequenceHash>,
    ) -> BlockId {
        if let Some(other) = self.find(names.sequence_hash) {
            if other != block {
                self.hold(other);
                self.release(block);
            }
            return other;
        }
        self.blocks[block as usize].hash = Some(names.sequence_hash);
        self.table.insert(names.sequence_hash, block);
        self.tell_stored(names, parent);
        block
    }

    /// Takes a holder away.
    pub(crate) fn release(&mut self, block: BlockId) {
        let entry = &mut self.blocks[block as usize];
        entry.holders -= 1;
        if entry.holders > 0 {
            return;
        }
        if entry.hash.is_some() {
            self.link_newest(block);
        } else {
            self.blank.push(block);
        }
    }

    /// The events since the last call, in order.
    pub(crate) fn take_events(&mut self) -> Vec<KvEvent> {
        std::mem::take(&mut self.pending)
    }

    /// Blanks the block that has been idle for longest.
    fn evict(&mut self) -> Option<BlockId> {
        let block = self.idle.oldest;
        if block == NONE {
            return None;
        }
        self.unlink(block);
        if let Some(hash) = self.blocks[block as usize].hash.take() {
            self.table.remove(&hash);
            match self.pending.last_mut() {
                Some(KvEvent::Removed { blocks }) => blocks.push(hash),
                _ => self.pending.push(KvEvent::Removed { blocks: vec![hash] }),
            }
        }
        Some(block)
    }

    fn tell_stored(&mut self, names: Block, parent: Option<SequenceHash>) {
        if let Some(KvEvent::Stored { blocks, .. }) = self.pending.last_mut()
            && parent.is_some()
            && blocks.last().map(|last| last.sequence_hash) == parent
        {
            blocks.push(names);
            return;
        }
        self.pending.push(KvEvent::Stored {
            parent,
            blocks: vec![names],
        });
    }

    fn link_newest(&mut self, block: BlockId) {
        let older = self.idle.newest;
        let entry = &mut self.blocks[block as usize];
        entry.older = older;
        entry.newer = NONE;
        match older {
            NONE => self.idle.oldest = block,
            older => self.blocks[older as usize].newer = block,
        }
        self.idle.newest = block;
        self.idle.len += 1;
    }

    fn unlink(&mut self, block: BlockId) {
        let Entry { older, newer, .. } = self.blocks[block as usize];
        match older {
            NONE => self.idle.oldest = newer,
            older => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.idle.newest = older,
            newer => self.blocks[newer as usize].older = older,
        }
        self.idle.len -= 1;
    }
}

#[cfg(test)]
impl KvCache {
    /// The names under which blocks are found.
    pub(crate) fn names(&self) -> std::collections::BTreeSet<SequenceHash> {
        self.table.keys().copied().collect()
    }

    /// Checks the book against itself and against who holds what: pairs of block and holders.
    pub(crate) fn check(&self, held: &std::collections::BTreeMap<BlockId, u32>) {
        for (block, entry) in self.blocks.iter().enumerate() {
            let block = block as BlockId;
            assert_eq!(entry.holders, held.get(&block).copied().unwrap_or(0));
            if let Some(hash) = entry.hash {
                assert_eq!(self.table.get(&hash), Some(&block));
            }
        }
        assert_eq!(self.held(), held.len());
        let (mut walked, mut at, mut before) = (0, self.idle.oldest, NONE);
        while at != NONE {
            let entry = self.blocks[at as usize];
            assert!(entry.holders == 0 && entry.hash.is_some() && entry.older == before);
            (walked, before, at) = (walked + 1, at, entry.newer);
        }
        assert_eq!((walked, before), (self.idle.len, self.idle.newest));
        let named = self.blocks.iter().filter(|entry| entry.hash.is_some());
        assert_eq!(named.count(), self.table.len());
        assert_eq!(
            self.blank.len() + self.held() + self.idle.len,
            self.blocks.len()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(hash: u64) -> Block {
        Block {
            block_hash: hash,
            sequence_hash: hash,
        }
    }

    #[test]
    fn the_block_idle_for_longest_goes_first_and_blank_ones_before_it() {
        let mut cache = KvCache::new(3);
        let blocks = [1, 2].map(|hash| {
            let block = cache.allocate().unwrap();
            cache.publish(block, name(hash), hash.checked_sub(2).map(|_| 1))
        });
        // The end first, as sequences give them back.
        cache.release(blocks[1]);
        cache.release(blocks[0]);
        assert_eq!((cache.held(), cache.idle(), cache.available()), (0, 2, 3));
        assert!(![blocks[0], blocks[1]].contains(&cache.allocate().unwrap()));
        assert_eq!(cache.allocate(), Some(blocks[1]));
        assert_eq!((cache.find(1), cache.find(2)), (Some(blocks[0]), None));
        assert_eq!(cache.allocate(), Some(blocks[0]));
        assert_eq!(cache.allocate(), None);
        assert_eq!(
            cache.take_events(),
            [
                KvEvent::Stored {
                    parent: None,
                    blocks: [1, 2].map(name).to_vec()
                },
                KvEvent::Removed { blocks: vec![2, 1] },
            ]
        );
    }

    #[test]
    fn a_second_copy_gives_way_to_the_first() {
        let mut cache = KvCache::new(4);
        let first = cache.allocate().unwrap();
        let second = cache.allocate().unwrap();
        assert_eq!(cache.publish(first, name(7), None), first);
        assert_eq!(cache.publish(second, name(7), None), first);
        assert_eq!((cache.held(), cache.take_events().len()), (1, 1));
        cache.release(first);
        assert!(!cache.is_idle(first));
        cache.release(first);
        assert!(cache.is_idle(first));
    }
}
