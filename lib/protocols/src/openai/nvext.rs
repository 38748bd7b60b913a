//! The `nvext` object: extensions that clients of the published system know.

use super::fields::Unserved;
use crate::engine::TokenId;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

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
    /// A worker to use.
    pub backend_instance_id: Option<Unserved>,
    /// A prefill worker to use.
    pub prefill_worker_id: Option<Unserved>,
    /// A decode worker to use.
    pub decode_worker_id: Option<Unserved>,
    /// A data-parallel rank to use.
    pub dp_rank: Option<Unserved>,
    /// A data-parallel rank for prefill.
    pub prefill_dp_rank: Option<Unserved>,
    /// Tokens the model may think for.
    pub max_thinking_tokens: Option<Unserved>,
    /// Where to put the response's metadata.
    pub metadata_upload: Option<Unserved>,
    /// Which workers may serve the request.
    pub routing_constraints: Option<Unserved>,
    /// Latency targets of the request.
    pub router: Option<Unserved>,
}

/// Hints of an agent about one of its requests.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentHints {
    /// Higher goes first; 0 is normal.
    pub priority: Option<i32>,
    /// A priority class.
    pub strict_priority: Option<Unserved>,
    /// How long the client expects the answer to be, in tokens; informative.
    pub osl: Option<IgnoredAny>,
    /// Prepare the next turn while this one is generated.
    pub speculative_prefill: Option<Unserved>,
    /// How much the client minds waiting; informative.
    pub latency_sensitivity: Option<IgnoredAny>,
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
