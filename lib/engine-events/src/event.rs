//! What an engine tells of its KV cache, in its own block ids.

/// One change of the blocks that an engine holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineEvent {
    /// Blocks can be reused from now on.
    Stored(StoredBlocks),
    /// Blocks are gone.
    Removed(RemovedBlocks),
    /// All blocks are gone.
    Cleared,
}

/// Blocks that can be reused, each one following the one before it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoredBlocks {
    /// The engine's ids of the blocks.
    pub block_hashes: Vec<u64>,
    /// The engine's id of the block before the first one; `None` at the start of a prompt.
    pub parent: Option<u64>,
    /// The tokens of all blocks, `block_size` for each; with [`StoredBlocks::eagle`] one more.
    /// Empty where an engine moves blocks to another medium and names them by their ids alone.
    pub token_ids: Vec<u32>,
    /// Tokens per block.
    pub block_size: u32,
    /// The LoRA adapter's name.
    pub lora_name: Option<String>,
    /// The tenant's cache salt. Engines tell it with the first block of a prompt; blocks that
    /// follow inherit it from their parent.
    pub salt: Option<String>,
    /// Hashes of the media that each block holds a part of; empty if no block holds any.
    pub media: Vec<Vec<u64>>,
    /// Where the blocks lie, in the engine's words; `None` is the device.
    pub medium: Option<String>,
    /// The engine speculates with Eagle: its blocks see one token ahead.
    pub eagle: bool,
}

/// Blocks that are gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovedBlocks {
    /// The engine's ids of the blocks.
    pub block_hashes: Vec<u64>,
    /// Where the blocks lay, in the engine's words; `None` is the device.
    pub medium: Option<String>,
}

/// The events of one message, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EventBatch {
    /// The message's number in the life of its publisher.
    pub sequence: u64,
    /// When the engine sent it, in seconds since the Unix epoch, by the engine's clock.
    pub timestamp: f64,
    /// The data-parallel rank, where the engine tells it.
    pub dp_rank: Option<u32>,
    /// The events that this router has a use for.
    pub events: Vec<EngineEvent>,
}

/// What comes from a publisher, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceItem {
    /// Events.
    Batch(EventBatch),
    /// Messages from `first` on, `count` of them, will never come: blocks that they stored are
    /// unknown, and blocks that they removed are still believed to be there.
    Lost {
        /// Number of the first message.
        first: u64,
        /// How many.
        count: u64,
    },
    /// The publisher started anew, or cannot be told from another: what was known of its blocks
    /// is void. What follows is numbered from 0.
    Reset,
}
