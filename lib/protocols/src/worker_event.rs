//! What a worker tells whoever routes to it.

use crate::kv::KvEventBatch;
use crate::load::LoadReport;
use serde::{Deserialize, Serialize};

/// News of one of a worker's schedulers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerEvent {
    /// Which of the worker's data-parallel ranks it is of; 0 where there is one.
    #[serde(default)]
    pub dp_rank: u32,
    /// When it was sent, in milliseconds since the Unix epoch by the worker's clock.
    pub sent_at_ms: u64,
    /// The news.
    pub news: WorkerNews,
}

/// What the news is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerNews {
    /// Its KV cache changed.
    Kv(KvEventBatch),
    /// What it is doing now, in place of what it said before.
    Load(LoadReport),
}
