//! The hash of one block alone, and the chain over a sequence's blocks.
//!
//! - block hash = xxh3-64 of the block's tokens as little-endian `u32`, then of its media hashes
//!   in ascending order as little-endian `u64`; the seed is the context's
//! - sequence hash: `s[0] = b[0]`, `s[i] = xxh3-64(LE(s[i-1]) || LE(b[i]))`, always with the base
//!   seed, because the blocks carry the context already
//!
//! Hashing a block allocates nothing, but for media hashes that come unsorted.

use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_64_with_seed};

/// Seed of block hashes without an adapter or a salt, and of every chain.
const BASE_SEED: u64 = 1337;

/// Seed of the salt's own hash: it keeps a salt apart from an adapter of the same name.
const SALT_SEED: u64 = 1;

/// Bytes hashed in one call from the stack: 256 tokens, which covers every usual block size.
/// Longer blocks are fed to a streaming hasher piece by piece.
const STACK_BYTES: usize = 1024;

const TOKEN_BYTES: usize = size_of::<u32>();

/// What, besides the tokens, decides whether two blocks hold the same KV state.
///
/// Equal tokens under another adapter or in another tenant's salt have other block hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HashContext {
    seed: u64,
}

impl Default for HashContext {
    fn default() -> Self {
        Self { seed: BASE_SEED }
    }
}

impl HashContext {
    /// The context of a plain request: no adapter, no salt.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the LoRA adapter's name. An empty name counts as absent.
    #[must_use]
    pub fn with_lora(self, name: &str) -> Self {
        if name.is_empty() {
            return self;
        }
        Self {
            seed: self.seed.wrapping_add(xxh3_64(name.as_bytes())),
        }
    }

    /// Adds the cache salt (or namespace) that keeps tenants apart. An empty one counts as absent.
    #[must_use]
    pub fn with_salt(self, salt: &str) -> Self {
        if salt.is_empty() {
            return self;
        }
        Self {
            seed: self
                .seed
                .wrapping_add(xxh3_64_with_seed(salt.as_bytes(), SALT_SEED)),
        }
    }

    /// The context of a request's optional adapter and salt.
    pub fn of(lora: Option<&str>, salt: Option<&str>) -> Self {
        Self::new()
            .with_lora(lora.unwrap_or_default())
            .with_salt(salt.unwrap_or_default())
    }
}

/// Hashes of the full blocks of `tokens`; a tail that fills no block is left out.
///
/// # Panics
/// If `block_size` is 0.
pub fn block_hashes(tokens: &[u32], block_size: usize, context: &HashContext) -> Vec<u64> {
    tokens
        .chunks_exact(block_size)
        .map(|block| block_hash(block, context))
        .collect()
}

/// Like [`block_hashes`], where `media[i]` are the hashes of the media that block `i` holds a part
/// of, in any order. Blocks past the end of `media` hold none.
///
/// # Panics
/// If `block_size` is 0.
pub fn block_hashes_with_media<M: AsRef<[u64]>>(
    tokens: &[u32],
    block_size: usize,
    media: &[M],
    context: &HashContext,
) -> Vec<u64> {
    tokens
        .chunks_exact(block_size)
        .enumerate()
        .map(|(index, block)| {
            let media = media.get(index).map(AsRef::as_ref).unwrap_or_default();
            block_hash_with_media(block, media, context)
        })
        .collect()
}

/// Hashes of the blocks of an engine that speculates with Eagle: its blocks see one token ahead,
/// so each covers `block_size + 1` tokens and starts `block_size` after the one before.
///
/// # Panics
/// If `block_size` is 0.
pub fn eagle_block_hashes(tokens: &[u32], block_size: usize, context: &HashContext) -> Vec<u64> {
    tokens
        .windows(block_size + 1)
        .step_by(block_size)
        .map(|window| block_hash(window, context))
        .collect()
}

/// Chained hashes of a sequence that starts with the first of `block_hashes`.
pub fn sequence_hashes(block_hashes: &[u64]) -> Vec<u64> {
    let mut parent = None;
    block_hashes
        .iter()
        .map(|&block| {
            let hash = chain_from(parent, block);
            parent = Some(hash);
            hash
        })
        .collect()
}

/// Sequence hash of the block `block` that follows the sequence hash `parent`.
pub fn chain(parent: u64, block: u64) -> u64 {
    let mut pair = [0_u8; 2 * size_of::<u64>()];
    pair[..size_of::<u64>()].copy_from_slice(&parent.to_le_bytes());
    pair[size_of::<u64>()..].copy_from_slice(&block.to_le_bytes());
    xxh3_64_with_seed(&pair, BASE_SEED)
}

/// [`chain`] where a sequence may start: its first block is its own sequence hash.
pub(crate) fn chain_from(parent: Option<u64>, block: u64) -> u64 {
    parent.map_or(block, |parent| chain(parent, block))
}

/// Hash of one block of plain tokens.
pub(crate) fn block_hash(block: &[u32], context: &HashContext) -> u64 {
    let bytes = block.len() * TOKEN_BYTES;
    if bytes > STACK_BYTES {
        return streamed_hash(block, &[], context);
    }
    let mut buffer = [0_u8; STACK_BYTES];
    fill(&mut buffer, block);
    xxh3_64_with_seed(&buffer[..bytes], context.seed)
}

fn block_hash_with_media(block: &[u32], media: &[u64], context: &HashContext) -> u64 {
    if media.is_empty() {
        return block_hash(block, context);
    }
    if media.is_sorted() {
        return streamed_hash(block, media, context);
    }
    let mut sorted = media.to_vec();
    sorted.sort_unstable();
    streamed_hash(block, &sorted, context)
}

fn streamed_hash(block: &[u32], sorted_media: &[u64], context: &HashContext) -> u64 {
    let mut hasher = Xxh3::with_seed(context.seed);
    let mut buffer = [0_u8; STACK_BYTES];
    for piece in block.chunks(STACK_BYTES / TOKEN_BYTES) {
        fill(&mut buffer, piece);
        hasher.update(&buffer[..piece.len() * TOKEN_BYTES]);
    }
    for media in sorted_media {
        hasher.update(&media.to_le_bytes());
    }
    hasher.digest()
}

fn fill(buffer: &mut [u8; STACK_BYTES], tokens: &[u32]) {
    for (bytes, token) in buffer.chunks_exact_mut(TOKEN_BYTES).zip(tokens) {
        bytes.copy_from_slice(&token.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
