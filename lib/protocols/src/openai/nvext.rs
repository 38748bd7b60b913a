//! The `nvext` object: extensions that clients of the published system know.

use super::fields::Unserved;
use crate::engine::TokenId;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Extensions of a request.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvExt {
    /// Take the messages' text as the prompt and apply no template.
    pub use_raw_prompt: Option<bool>,
    /// The prompt's token ids; messages and template are left aside.
    pub token_data: Option<Vec<TokenId>>,
    /// Draw greedily, whatever the sampling fields say.
    pub greed_sampling: Option<bool>,
    /// Facts to add to the response.
    pub extra_fields: Option<Vec<String>>,
    /// Keeps KV blocks of different tenants apart.
    pub cache_salt: Option<String>,
    /// Hints about the request's importance.
    pub agent_hints: Option<AgentHints>,
    /// When the client sent the request; informative.
    pub request_timestamp_ms: Option<IgnoredAny>,
    /// Side events to send.
    pub annotations: Option<Unserved>,
    /// The worker to use.
    pub backend_instance_id: Option<u64>,
    /// The worker that is to compute the prompt, where prefill is done elsewhere.
    pub prefill_worker_id: Option<u64>,
    /// The same, by the name that it has where prefill is done elsewhere.
    pub decode_worker_id: Option<u64>,
    /// The data-parallel rank to use.
    pub dp_rank: Option<u32>,
    /// A data-parallel rank for prefill.
    pub prefill_dp_rank: Option<Unserved>,
    /// Tokens the model may think for.
    pub max_thinking_tokens: Option<Unserved>,
    /// Where to put the response's metadata.
    pub metadata_upload: Option<Unserved>,
    /// Which workers may serve the request, and which should.
    pub routing_constraints: Option<RoutingConstraints>,
    /// Latency targets of the request.
    pub router: Option<Unserved>,
}

/// Hints of an agent about one of its requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentHints {
    /// Higher goes first; 0 is normal.
    pub priority: Option<i32>,
    /// Goes before all requests with less of it, where requests wait for a worker.
    pub strict_priority: Option<u32>,
    /// How long the client expects the answer to be, in tokens.
    pub osl: Option<u32>,
    /// Prepare the next turn while this one is generated.
    pub speculative_prefill: Option<Unserved>,
    /// How much the client minds waiting; informative.
    pub latency_sensitivity: Option<IgnoredAny>,
}

/// Which workers may serve a request, and which should.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingConstraints {
    /// Taints that the worker must have.
    pub required_taints: Option<Vec<String>>,
    /// Taints that make a worker better, by weight, or worse by a negative one.
    pub preferred_taints: Option<BTreeMap<String, f64>>,
}

/// Facts added to a response because the request asked for them.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct NvExtResponse {
    /// Token ids of the prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<TokenId>>,
    /// Generated token ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_token_ids: Option<Vec<TokenId>>,
    /// The stop string or stop token that ended the choice.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopReason>,
    /// Who served it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_id: Option<WorkerIds>,
    /// Why that worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<serde_json::Value>,
}

/// The worker that served a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WorkerIds {
    /// Its instance.
    pub decode_worker_id: u64,
    /// Its data-parallel rank.
    pub decode_dp_rank: u32,
    /// The instance that has computed the prompt, if it was another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_worker_id: Option<u64>,
    /// Its data-parallel rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_dp_rank: Option<u32>,
}

/// What ended a choice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(TokenId),
}
