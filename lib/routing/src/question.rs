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

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) hashes: Vec<SequenceHash>,
    slip: Option<Arc<RouteSlip>>,
    isl_tokens: u64,
    lora: Option<Arc<str>>,
    priority: i32,
    allowed: Option<[u64; 1]>,
}

impl Question {
    pub(crate) fn new(
        request: &EngineRequest,
        slip: Option<Arc<RouteSlip>>,
        block_size: NonZeroU32,
    ) -> Self {
        Self {
            hashes: hashes(request, block_size.get() as usize),
            isl_tokens: request.input_len() as u64,
            lora: request.lora_name.clone(),
            priority: request.priority,
            allowed: slip
                .as_ref()
                .and_then(|slip| slip.hints.instance)
                .map(|instance| [instance]),
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
            lora: self.lora.as_deref(),
            session: hints.and_then(|it| it.session.as_deref()),
            target: Target {
                allowed: self.allowed.as_ref().map(<[u64; 1]>::as_slice),
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
