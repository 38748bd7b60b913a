//! What happens to KV blocks, and how their state leaves and enters an engine.
//!
//! Events name blocks by sequence hash (chained over the prefix, see `dynamo-tokens`), so that a
//! hash means the same tokens on every worker. Event ids are consecutive per engine: a
//! subscriber that sees a gap has lost something and asks for a snapshot.

use crate::error::RequestError;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};

/// Chained hash of a block and everything before it.
pub type SequenceHash = u64;

/// Hash of the tokens of one block alone.
pub type BlockHash = u64;

/// Events of one engine step, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvEventBatch {
    /// Id of the first event of the batch; the rest follow consecutively.
    pub first_event_id: u64,
    /// The events.
    pub events: Vec<KvEvent>,
}

/// One change to the set of blocks an engine holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvEvent {
    /// Blocks became reusable, each one following the one before it.
    Stored {
        /// The block before the first one, or `None` at the start of a sequence.
        parent: Option<SequenceHash>,
        /// The new blocks, in the order of the sequence.
        blocks: Vec<Block>,
    },
    /// Blocks are gone.
    Removed {
        /// Their sequence hashes.
        blocks: Vec<SequenceHash>,
    },
    /// Every block is gone.
    Cleared,
}

/// A full block by both of its names. Written as the pair of them: events carry thousands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(BlockHash, SequenceHash)", into = "(BlockHash, SequenceHash)")]
pub struct Block {
    /// Hash of its tokens alone.
    pub block_hash: BlockHash,
    /// Hash chained over everything before it.
    pub sequence_hash: SequenceHash,
}

impl From<(BlockHash, SequenceHash)> for Block {
    fn from((block_hash, sequence_hash): (BlockHash, SequenceHash)) -> Self {
        Self {
            block_hash,
            sequence_hash,
        }
    }
}

impl From<Block> for (BlockHash, SequenceHash) {
    fn from(block: Block) -> Self {
        (block.block_hash, block.sequence_hash)
    }
}

/// Export and import of KV state by whole blocks.
///
/// Invariant: state enters an engine only if its layout is the engine's own and its hashes name
/// the tokens it was computed from; anything else is refused, never approximated.
pub trait KvTransfer: Send + Sync {
    /// The form in which this engine's state leaves and enters.
    fn layout(&self) -> KvLayout;

    /// Copies out the state of the longest cached prefix of `blocks`. An engine that holds none
    /// of them answers with an empty range.
    fn export(&self, blocks: Vec<Block>) -> BoxFuture<'_, Result<KvBlockRange, RequestError>>;

    /// Takes a range in as cached prefix; answers how many blocks it now holds of it.
    fn import(&self, range: KvBlockRange) -> BoxFuture<'_, Result<usize, RequestError>>;
}

/// What two engines must have in common for state to move between them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvLayout {
    /// Name and version of the serialised form, such as `llama.cpp/seq-state/2`.
    pub format: String,
    /// Identifies weights, quantisation and cache types: state of another model never matches.
    pub model: String,
    /// Tokens per block.
    pub block_size: u32,
}

/// KV state of consecutive blocks from the start of a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KvBlockRange {
    /// The form of `state`.
    pub layout: KvLayout,
    /// The blocks, from the first of the sequence on.
    pub blocks: Vec<Block>,
    /// Token ids of those blocks: `blocks.len() * block_size` of them.
    pub token_ids: Vec<u32>,
    /// The serialised state.
    pub state: Vec<u8>,
}
