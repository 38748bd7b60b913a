//! What outside users are answered.

use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::explain::Explanation;
use dynamo_protocols::load::LoadReport;
use serde::Serialize;
use std::sync::Arc;

/// A chosen worker.
#[derive(Debug, Serialize)]
pub(crate) struct Selected {
    pub(crate) model: Arc<str>,
    /// To be named again until the request has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reservation_id: Option<String>,
    pub(crate) worker_id: u64,
    pub(crate) dp_rank: u32,
    /// How workers are picked.
    pub(crate) mode: &'static str,
    pub(crate) block_size: u32,
    pub(crate) prompt_tokens: u64,
    /// Prompt tokens that the worker should find in its cache.
    pub(crate) cached_tokens: u64,
    /// The same in blocks.
    pub(crate) overlap_blocks: u64,
    /// Every candidate and its cost, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) explanation: Option<serde_json::Value>,
}

/// A rank of a worker.
#[derive(Debug, Serialize)]
pub(crate) struct Worker {
    pub(crate) model: Arc<str>,
    pub(crate) worker_id: u64,
    pub(crate) dp_rank: u32,
    /// Blocks that it holds, by its events.
    pub(crate) cached_blocks: u64,
    pub(crate) total_blocks: u64,
    pub(crate) block_size: u32,
}

/// What a rank of a worker has to do.
#[derive(Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) model: Arc<str>,
    pub(crate) worker_id: u64,
    pub(crate) dp_rank: u32,
    /// By what was booked.
    pub(crate) active_requests: u32,
    pub(crate) active_prefill_tokens: u64,
    pub(crate) active_blocks: u64,
    /// By what it says itself.
    pub(crate) reported: LoadReport,
}

#[derive(Debug, Serialize)]
pub(crate) struct Done {
    pub(crate) status: &'static str,
}

#[derive(Debug, Serialize)]
pub(crate) struct Health {
    pub(crate) status: &'static str,
    pub(crate) models: Vec<Arc<str>>,
    pub(crate) reservations: usize,
}

/// What the winner of an explained choice has cached of the prompt, in tokens.
pub(crate) fn cached_tokens(explained: &Explanation, winner: WorkerKey, block_size: u32) -> u64 {
    let winner = explained.candidates.iter().find(|it| it.worker == winner);
    let blocks = winner.map_or(0, |it| it.facts.overlap.total());
    u64::from(blocks) * u64::from(block_size)
}
