//! A run: consecutive blocks of one chain and who holds them.
//!
//! Blocks are kept by block hash, in groups that each start with the sequence hash of their first
//! block; any other sequence hash is chained from there. So a run costs half a byte more than 8
//! bytes a block, a query compares block hashes without chaining them, and what the chain says can
//! still be verified.
//!
//! Offsets are logical: they stay the same when dead blocks at the start are cut off.

use super::holders::Holders;
use super::table::MAX_OFFSETS;
use dynamo_protocols::kv::{Block, BlockHash, SequenceHash};
use dynamo_tokens::chain;
use std::ops::Range;

/// Blocks of a group: a sequence hash is at most this many chained hashes away.
pub(super) const GROUP: usize = 16;

/// Words of a group: the sequence hash of its first block, then its block hashes.
const WORDS: usize = GROUP + 1;

/// Consecutive blocks of one chain.
#[derive(Debug, Default)]
pub(super) struct Run {
    words: Vec<u64>,
    /// Who holds what of it.
    pub(super) holders: Holders,
    /// Sequence hash before the first block; means nothing where `rooted`.
    parent: SequenceHash,
    /// Offset of the first block, a multiple of [`GROUP`].
    first: u16,
    len: u16,
    /// Blocks that somebody holds: those the table knows.
    pub(super) live: u16,
    /// Whether the first block starts a sequence.
    rooted: bool,
}

impl Run {
    /// A run of these blocks, which nobody holds yet.
    pub(super) fn new(parent: Option<SequenceHash>, blocks: &[Block]) -> Self {
        let mut run = Self {
            parent: parent.unwrap_or_default(),
            rooted: parent.is_none(),
            ..Self::default()
        };
        run.append(blocks);
        run
    }

    /// Its first offset.
    pub(super) fn first(&self) -> u16 {
        self.first
    }

    /// The offset past its last block.
    pub(super) fn end(&self) -> u16 {
        self.first + self.len
    }

    /// Its blocks, dead ones included.
    pub(super) fn len(&self) -> u16 {
        self.len
    }

    /// Blocks that can be appended behind this one: none if it is not the last.
    pub(super) fn room_behind(&self, offset: u16) -> usize {
        if offset + 1 == self.end() {
            usize::from(MAX_OFFSETS - self.end())
        } else {
            0
        }
    }

    /// Sequence hash of the block before `offset`, which is in the run or its end; `None` where
    /// the sequence starts.
    pub(super) fn parent_of(&self, offset: u16) -> Option<SequenceHash> {
        if offset > self.first {
            return self.sequence_hash(offset - 1);
        }
        (!self.rooted).then_some(self.parent)
    }

    /// Sequence hash of a block; `None` outside of the run.
    pub(super) fn sequence_hash(&self, offset: u16) -> Option<SequenceHash> {
        let index = self.index(offset)?;
        let group = &self.words[index / GROUP * WORDS..];
        let chained = &group[2..=1 + index % GROUP];
        Some(
            chained
                .iter()
                .fold(group[0], |parent, &block| chain(parent, block)),
        )
    }

    /// Block hash; `None` outside of the run.
    pub(super) fn block_hash(&self, offset: u16) -> Option<BlockHash> {
        let index = self.index(offset)?;
        Some(self.words[word(index)])
    }

    /// The blocks of a range within the run.
    pub(super) fn blocks(&self, range: Range<u16>) -> impl Iterator<Item = Block> + '_ {
        let mut parent = self.parent_of(range.start);
        range.map_while(move |offset| {
            let block_hash = self.block_hash(offset)?;
            let sequence_hash = parent.map_or(block_hash, |parent| chain(parent, block_hash));
            parent = Some(sequence_hash);
            Some(Block {
                block_hash,
                sequence_hash,
            })
        })
    }

    /// How many blocks from `offset` on are those of `wanted`.
    pub(super) fn matching(&self, offset: u16, wanted: &[BlockHash]) -> u16 {
        let Some(mut index) = self.index(offset) else {
            return 0;
        };
        let len = usize::from(self.len).min(index + wanted.len());
        let mut wanted = &wanted[..len - index];
        while !wanted.is_empty() {
            let in_group = (GROUP - index % GROUP).min(wanted.len());
            let (now, later) = wanted.split_at(in_group);
            let held = &self.words[word(index)..word(index) + in_group];
            if held != now {
                let equal = held.iter().zip(now).take_while(|(a, b)| a == b).count();
                return (index + equal) as u16 + self.first - offset;
            }
            index += in_group;
            wanted = later;
        }
        (index as u16) + self.first - offset
    }

    /// [`matching`](Self::matching) for blocks as events name them.
    pub(super) fn matching_blocks(&self, offset: u16, wanted: &[Block]) -> u16 {
        let Some(index) = self.index(offset) else {
            return 0;
        };
        let len = usize::from(self.len);
        let equal = (index..len).zip(wanted);
        equal
            .take_while(|(index, block)| self.words[word(*index)] == block.block_hash)
            .count() as u16
    }

    /// [`matching`](Self::matching) by sequence hashes. One that matches vouches for all before
    /// it, so that few are looked at.
    pub(super) fn matching_hashes(&self, offset: u16, wanted: &[SequenceHash]) -> u16 {
        let Some(index) = self.index(offset) else {
            return 0;
        };
        let len = usize::from(self.len).min(index + wanted.len());
        let heads = index.div_ceil(GROUP)..len.div_ceil(GROUP);
        let differs = |group: &usize| self.words[group * WORDS] != wanted[group * GROUP - index];
        let mut equal = index;
        let (mut from, mut to) = (heads.start, heads.end);
        while from < to {
            // Most prompts follow a run to its end or leave it early: the far end first.
            let middle = if to == heads.end {
                to - 1
            } else {
                from.midpoint(to)
            };
            if differs(&middle) {
                to = middle;
            } else {
                equal = middle * GROUP + 1;
                from = middle + 1;
            }
        }
        while equal < len {
            let known = match equal.checked_sub(index + 1) {
                Some(before) => chain(wanted[before], self.words[word(equal)]),
                None => self.sequence_hash(offset).unwrap_or_default(),
            };
            if known != wanted[equal - index] {
                break;
            }
            equal += 1;
        }
        (equal - index) as u16
    }

    /// How many of `hashes` are consecutive blocks from `offset` on, the first being known to be.
    pub(super) fn following(&self, offset: u16, hashes: &[SequenceHash]) -> u16 {
        let Some(index) = self.index(offset) else {
            return 0;
        };
        let pairs = (index + 1..usize::from(self.len)).zip(hashes.windows(2));
        let follows = pairs.take_while(|(index, pair)| {
            // From what the event claims, not from the hash before: these do not wait for another.
            chain(pair[0], self.words[word(*index)]) == pair[1]
        });
        1 + follows.count() as u16
    }

    /// How many of the `limit` blocks from `offset` on have a holder before the first that has
    /// none.
    pub(super) fn live_stretch(&self, offset: u16, limit: u16) -> u16 {
        if self.live == self.len {
            return limit;
        }
        let end = offset + limit;
        let mut reached = offset;
        while reached < end
            && let Some(next) = self.holders.live_until(reached)
        {
            reached = next;
        }
        reached.min(end) - offset
    }

    /// Adds blocks at the end; there is [room](Self::room_behind) for them.
    pub(super) fn append(&mut self, blocks: &[Block]) {
        let len = usize::from(self.len) + blocks.len();
        self.reserve(len + len.div_ceil(GROUP));
        for block in blocks {
            if usize::from(self.len).is_multiple_of(GROUP) {
                self.words.push(block.sequence_hash);
            }
            self.words.push(block.block_hash);
            self.len += 1;
        }
    }

    /// Makes room for so many words in all: exactly so many, unless a run that grows by single
    /// blocks would then be copied for each of them.
    fn reserve(&mut self, words: usize) {
        if words > self.words.capacity() {
            let held = self.words.len();
            self.words.reserve_exact(words.max(held + held / 8) - held);
        }
    }

    /// Cuts off what lies outside of `live`: whole groups at the start, single blocks at the end.
    pub(super) fn trim(&mut self, live: &Range<u16>) {
        let groups = usize::from(live.start - self.first) / GROUP;
        let cut = (groups * GROUP) as u16;
        if groups > 0 {
            self.parent = self.parent_of(self.first + cut).unwrap_or_default();
            self.rooted = false;
        }
        let len = usize::from(live.end - self.first - cut);
        self.words
            .truncate((groups * WORDS) + len + len.div_ceil(GROUP));
        self.words.drain(..groups * WORDS);
        self.words.shrink_to_fit();
        self.first += cut;
        self.len = len as u16;
    }

    /// Bytes beyond the run's own.
    pub(super) fn heap_bytes(&self) -> usize {
        self.words.capacity() * size_of::<u64>() + self.holders.heap_bytes()
    }

    fn index(&self, offset: u16) -> Option<usize> {
        (self.first..self.end())
            .contains(&offset)
            .then(|| usize::from(offset - self.first))
    }
}

/// Where the block hash of a run's block stands.
fn word(index: usize) -> usize {
    index / GROUP * WORDS + 1 + index % GROUP
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_tokens::sequence_hashes;
    use proptest::prelude::*;

    fn chain_of(parent: Option<u64>, hashes: &[u64]) -> Vec<Block> {
        let mut parent = parent;
        hashes
            .iter()
            .map(|&block_hash| {
                let sequence_hash = parent.map_or(block_hash, |parent| chain(parent, block_hash));
                parent = Some(sequence_hash);
                Block {
                    block_hash,
                    sequence_hash,
                }
            })
            .collect()
    }

    #[test]
    fn a_chain_without_parent_is_the_sequence_of_its_blocks() {
        let hashes = [3, 1, 4];
        let sequence = sequence_hashes(&hashes);
        let run = Run::new(None, &chain_of(None, &hashes));
        for (offset, hash) in (0..3).zip(sequence) {
            assert_eq!(run.sequence_hash(offset), Some(hash));
        }
        assert_eq!(run.sequence_hash(3), None);
        assert_eq!(run.parent_of(0), None);
    }

    proptest! {
        #[test]
        fn whatever_is_appended_and_cut_off_the_rest_keeps_its_names(
            pieces in prop::collection::vec(1_usize..40, 1..6),
            cut in (0.0..1.0, 0.0..1.0),
            parent in prop::option::of(any::<u64>()),
        ) {
            let hashes: Vec<u64> = (0..pieces.iter().sum::<usize>() as u64).collect();
            let all = chain_of(parent, &hashes);
            let mut run = Run::new(parent, &[]);
            let mut rest = &all[..];
            for piece in pieces {
                run.append(&rest[..piece]);
                rest = &rest[piece..];
            }
            let len = f64::from(run.len());
            let (a, b) = ((cut.0 * len) as u16, (cut.1 * len) as u16);
            let live = a.min(b)..a.max(b) + 1;
            run.trim(&live);
            prop_assert!(run.first() <= live.start && run.end() == live.end);
            for offset in run.first()..run.end() {
                let at = usize::from(offset);
                prop_assert_eq!(run.block_hash(offset), Some(all[at].block_hash));
                prop_assert_eq!(run.sequence_hash(offset), Some(all[at].sequence_hash));
                let before = at.checked_sub(1).map(|before| all[before].sequence_hash);
                prop_assert_eq!(run.parent_of(offset), before.or(parent));
                prop_assert_eq!(run.matching(offset, &hashes[at..]), run.end() - offset);
                prop_assert_eq!(run.matching_blocks(offset, &all[at..]), run.end() - offset);
                let mut other = hashes[at..].to_vec();
                let differs = other.len() / 2;
                other[differs] ^= 1 << 40;
                let expected = (differs as u16).min(run.end() - offset);
                prop_assert_eq!(run.matching(offset, &other), expected);
            }
            let kept: Vec<Block> = run.blocks(live.clone()).collect();
            prop_assert_eq!(&kept[..], &all[usize::from(live.start)..usize::from(live.end)]);
        }
    }
}
