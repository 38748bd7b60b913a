//! A request as the router is asked about it, kept for as long as it may be asked again.

use dynamo_kv_router::request::{RouteRequest, Standing, Taints, Target};
use dynamo_kv_router::router::Placed;
use dynamo_protocols::engine::EngineRequest;
use dynamo_protocols::kv::SequenceHash;
use dynamo_protocols::routing::{RouteSlip, Routed};
use dynamo_tokens::{HashContext, block_hashes, sequence_hashes};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// A prompt for a worker that is no engine of ours.
#[derive(Debug, Clone, Copy, Default)]
pub struct Prompt<'a> {
    /// Its tokens; empty where they are not known.
    pub tokens: &'a [u32],
    /// Hashes of its full blocks, in place of its tokens.
    pub blocks: Option<&'a [u64]>,
    /// How many it has, estimated where the tokens are not known.
    pub isl_tokens: u64,
    /// The LoRA adapter that blocks are hashed with.
    pub lora: Option<&'a str>,
    /// The cache salt that blocks are hashed with.
    pub salt: Option<&'a str>,
    /// Higher goes earlier within its tenant.
    pub priority: i32,
    /// Instances to choose from; `None` is all.
    pub allowed: Option<&'a [u64]>,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) hashes: Vec<SequenceHash>,
    slip: Option<Arc<RouteSlip>>,
    isl_tokens: u64,
    priority: i32,
    allowed: Option<Vec<u64>>,
}

impl Question {
    /// Of a request that only some instances can serve, if `only` says so.
    pub(crate) fn new(
        request: &EngineRequest,
        slip: Option<Arc<RouteSlip>>,
        only: Option<&[u64]>,
        block_size: NonZeroU32,
    ) -> Self {
        Self {
            hashes: hashes(request, block_size.get() as usize),
            isl_tokens: request.load_tokens() as u64,
            priority: request.priority,
            allowed: slip
                .as_ref()
                .and_then(|slip| slip.hints.instance)
                .map(|instance| vec![instance])
                .or_else(|| only.map(<[u64]>::to_vec)),
            slip,
        }
    }

    /// Of a prompt that no engine of ours gets. An instance that its slip names is the only one
    /// allowed.
    pub(crate) fn of_prompt(
        prompt: &Prompt<'_>,
        slip: Option<Arc<RouteSlip>>,
        block_size: NonZeroU32,
    ) -> Self {
        let named = slip.as_ref().and_then(|slip| slip.hints.instance);
        let context = HashContext::of(prompt.lora, prompt.salt);
        let hashes = match prompt.blocks {
            Some(blocks) => sequence_hashes(blocks),
            None => {
                let size = block_size.get() as usize;
                sequence_hashes(&block_hashes(prompt.tokens, size, &context))
            }
        };
        Self {
            hashes,
            isl_tokens: prompt.isl_tokens,
            priority: prompt.priority,
            allowed: named
                .map(|instance| vec![instance])
                .or_else(|| prompt.allowed.map(<[u64]>::to_vec)),
            slip,
        }
    }

    /// The request, `excluded` being the instances that it must not go to.
    pub(crate) fn as_request<'a>(&'a self, excluded: &'a [u64]) -> RouteRequest<'a> {
        let hints = self.slip.as_ref().map(|slip| &slip.hints);
        RouteRequest {
            isl_tokens: self.isl_tokens,
            hashes: &self.hashes,
            expected_output_tokens: hints.and_then(|it| it.expected_output_tokens),
            session: hints.and_then(|it| it.session.as_deref()),
            target: Target {
                allowed: self.allowed.as_deref(),
                excluded,
                dp_rank: hints.and_then(|it| it.dp_rank),
            },
            taints: Taints {
                required: hints.map_or(&[], |it| &it.required_taints),
                preferred: hints.map_or(&[], |it| &it.preferred_taints),
            },
            standing: Standing {
                tenant: hints.and_then(|it| it.tenant.as_deref()),
                strict_priority: hints.map_or(0, |it| it.strict_priority),
                priority: self.priority,
            },
            ..RouteRequest::default()
        }
    }

    /// Tells whoever holds the request's context where it goes.
    pub(crate) fn write_slip(
        &self,
        placed: &Placed,
        waited: Duration,
        explanation: Option<serde_json::Value>,
    ) {
        if let Some(slip) = &self.slip {
            slip.write(Routed {
                instance: placed.worker.instance,
                dp_rank: placed.worker.dp_rank,
                prefill: None,
                mode: placed.mode.as_str(),
                cached_tokens: placed.ticket.predicted_tokens,
                waited,
                explanation,
            });
        }
    }

    pub(crate) fn wants_explanation(&self) -> bool {
        self.slip.as_ref().is_some_and(|slip| slip.hints.explain)
    }
}

/// Sequence hashes of the full blocks that the engine starts from.
fn hashes(request: &EngineRequest, block_size: usize) -> Vec<SequenceHash> {
    let context = HashContext::of(request.lora_name.as_deref(), request.cache_salt.as_deref());
    if request.generated_ids.is_empty() {
        return sequence_hashes(&block_hashes(&request.prompt_ids, block_size, &context));
    }
    let tokens = [&*request.prompt_ids, &*request.generated_ids].concat();
    sequence_hashes(&block_hashes(&tokens, block_size, &context))
}
