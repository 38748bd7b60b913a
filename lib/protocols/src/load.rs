//! What a worker is doing now: the one report that router, metrics and planner read.
//!
//! The scheduled and queued halves carry the fields of the published forward-pass metrics, so
//! that one report can be translated from and to them without loss.

use serde::{Deserialize, Serialize};

/// A snapshot of an engine's work and memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// What the last step worked on.
    pub scheduled: WorkLoad,
    /// What waits for a place in a step.
    pub queued: WorkLoad,
    /// KV blocks that hold state of running or cached sequences.
    pub used_blocks: u64,
    /// Of `used_blocks`, those that no running sequence needs: they can be evicted at once.
    pub cached_blocks: u64,
    /// KV blocks in all.
    pub total_blocks: u64,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Sequences that may run at once.
    pub max_sequences: u32,
    /// Tokens that one step may work on.
    pub max_batched_tokens: u32,
    /// Prompt tokens of sequences that got their place, since the engine started; a sequence that
    /// gives its place up and gets it back counts once.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Of `prompt_tokens`, those whose KV state was cached.
    #[serde(default)]
    pub cached_prompt_tokens: u64,
}

/// Work in numbers: sequences, tokens, and the spread of their lengths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkLoad {
    /// Sequences in prefill.
    pub num_prefill_requests: u32,
    /// Prompt tokens still to be computed.
    pub sum_prefill_tokens: u64,
    /// Variance of the prompt lengths, in tokens squared.
    pub var_prefill_length: f64,
    /// Tokens of KV state that prefills already have (cached or computed).
    pub sum_prefill_kv_tokens: u64,
    /// Sequences in decode.
    pub num_decode_requests: u32,
    /// Tokens of KV state that decodes read.
    pub sum_decode_kv_tokens: u64,
    /// Variance of the decodes' KV lengths, in tokens squared.
    pub var_decode_kv_tokens: f64,
}
