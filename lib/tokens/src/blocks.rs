//! A growing token sequence and its blocks, hashed as they fill.
//!
//! Invariant: `blocks()` is what hashing `tokens()` from the start would give, however the tokens
//! came in and whatever was cut off in between.

use crate::hashing::{HashContext, block_hash, chain_from};
use dynamo_protocols::kv::Block;
use std::num::NonZeroUsize;

/// A token sequence that grows at its end and can be cut back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBlocks {
    block_size: NonZeroUsize,
    context: HashContext,
    tokens: Vec<u32>,
    blocks: Vec<Block>,
}

impl TokenBlocks {
    /// An empty sequence.
    pub fn new(block_size: NonZeroUsize, context: HashContext) -> Self {
        Self {
            block_size,
            context,
            tokens: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Appends one token; answers the block that it filled.
    pub fn push(&mut self, token: u32) -> Option<Block> {
        self.tokens.push(token);
        if !self.tokens.len().is_multiple_of(self.block_size.get()) {
            return None;
        }
        self.fill_blocks();
        self.blocks.last().copied()
    }

    /// Appends tokens; answers the blocks that they filled, in order.
    pub fn extend(&mut self, tokens: &[u32]) -> &[Block] {
        let held = self.blocks.len();
        self.tokens.extend_from_slice(tokens);
        self.fill_blocks();
        &self.blocks[held..]
    }

    /// Every token, those of the unfinished block included.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The full blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Tokens per block.
    pub fn block_size(&self) -> NonZeroUsize {
        self.block_size
    }

    /// Cuts the sequence back to its first `len` tokens; a longer `len` changes nothing.
    pub fn truncate(&mut self, len: usize) {
        self.tokens.truncate(len);
        self.blocks.truncate(len / self.block_size);
    }

    /// Hashes the blocks that are full and not yet hashed.
    fn fill_blocks(&mut self) {
        let hashed = self.blocks.len() * self.block_size.get();
        let full = self.tokens[hashed..].chunks_exact(self.block_size.get());
        let mut parent = self.blocks.last().map(|block| block.sequence_hash);
        self.blocks.extend(full.map(|tokens| {
            let block_hash = block_hash(tokens, &self.context);
            let sequence_hash = chain_from(parent, block_hash);
            parent = Some(sequence_hash);
            Block {
                block_hash,
                sequence_hash,
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hashing::{block_hashes, sequence_hashes};
    use proptest::prelude::*;

    fn empty(block_size: usize) -> TokenBlocks {
        TokenBlocks::new(
            NonZeroUsize::new(block_size).unwrap(),
            HashContext::of(Some("adapter"), None),
        )
    }

    fn batch(tokens: &[u32], block_size: usize) -> Vec<Block> {
        let block_hashes = block_hashes(tokens, block_size, &empty(block_size).context);
        let sequence_hashes = sequence_hashes(&block_hashes);
        block_hashes
            .into_iter()
            .zip(sequence_hashes)
            .map(|(block_hash, sequence_hash)| Block {
                block_hash,
                sequence_hash,
            })
            .collect()
    }

    #[test]
    fn a_push_answers_the_block_it_fills_and_nothing_in_between() {
        let mut blocks = empty(2);
        assert_eq!(blocks.push(1), None);
        assert_eq!(blocks.push(2), Some(batch(&[1, 2], 2)[0]));
        assert_eq!(blocks.push(3), None);
        assert_eq!(blocks.push(4), Some(batch(&[1, 2, 3, 4], 2)[1]));
    }

    proptest! {
        #[test]
        fn growing_in_any_pieces_equals_hashing_at_once(
            pieces in prop::collection::vec(prop::collection::vec(any::<u32>(), 0..9), 0..12),
            block_size in 1_usize..6,
        ) {
            let mut pushed = empty(block_size);
            let mut extended = empty(block_size);
            let (mut from_push, mut from_extend) = (Vec::new(), Vec::new());
            for piece in &pieces {
                from_push.extend(piece.iter().filter_map(|token| pushed.push(*token)));
                from_extend.extend_from_slice(extended.extend(piece));
            }
            let tokens = pieces.concat();
            let expected = batch(&tokens, block_size);
            prop_assert_eq!(&from_push, &expected);
            prop_assert_eq!(&from_extend, &expected);
            prop_assert_eq!(pushed.blocks(), &expected[..]);
            prop_assert_eq!(pushed.tokens(), &tokens[..]);
            prop_assert_eq!(pushed, extended);
        }

        #[test]
        fn cutting_back_equals_building_the_prefix(
            tokens in prop::collection::vec(any::<u32>(), 0..40),
            more in prop::collection::vec(any::<u32>(), 0..20),
            len in 0_usize..50,
            block_size in 1_usize..6,
        ) {
            let mut cut = empty(block_size);
            cut.extend(&tokens);
            cut.truncate(len);
            cut.extend(&more);

            let mut rebuilt = empty(block_size);
            rebuilt.extend(&tokens[..len.min(tokens.len())]);
            rebuilt.extend(&more);
            prop_assert_eq!(cut, rebuilt);
        }
    }
}
