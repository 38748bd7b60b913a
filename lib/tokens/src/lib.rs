//! Token blocks, block hashes and chained sequence hashes.
//!
//! A token sequence is cut into full blocks; the tail that fills no block has no hash.
//!
//! - [`hashing`]: the hash of one block alone, and the chain over a sequence's blocks
//! - [`media`]: how images and other media enter a block's hash
//! - [`blocks`]: a growing sequence and its blocks
//!
//! Invariant: the hashes are the published ones, so that this router understands the KV events of
//! published workers and the other way round. No I/O, no clock, no state beyond a sequence.

pub mod blocks;
pub mod hashing;
pub mod media;

pub use blocks::TokenBlocks;
/// What [`TokenBlocks`] is made of, as KV events name it.
pub use dynamo_protocols::kv::Block;
pub use hashing::{
    HashContext, block_hashes, block_hashes_with_media, chain, eagle_block_hashes, sequence_hashes,
};
pub use media::{media_hash, placeholder_token};
