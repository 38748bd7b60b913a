//! An engine whose prompts are computed by other workers than its answers: a prefill worker is asked
//! first, a decode worker goes on from the KV state that it hands over.
//!
//! How the state gets from one to the other is the engines' business. Either the prefill worker says
//! where it is, and the decode worker is asked with that (`kv_transfer_params`), or both are asked at
//! once with the place where they meet (`bootstrap`).
//!
//! Invariants
//! - The client gets each token from the decode worker; what the prefill worker generates is left
//!   out.
//! - A prefill worker that still has something to hand over is listened to until it has done so. If it
//!   fails before the answer has begun, so does the attempt, and the slip names it as the one to avoid.
//! - Cached tokens are those that the prefill worker found: the decode worker gets all of them.
//!
//! What it does not do: try again. That is [`crate::migration`]'s, with a prompt that then ends with
//! what was generated so far.

use crate::prefill_pools::Prefill;
use dynamo_protocols::deadline::Deadlines;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest, EngineStream, RequestContext,
    StopConditions,
};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::routing::{PrefillPlace, RouteHints, RouteSlip, Routed};
use dynamo_protocols::structured::StructuredSupport;
use dynamo_runtime::Environment;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::timeout;

/// Finds whoever computes prompts now, if anybody does.
pub(crate) type FindPrefill = Arc<dyn Fn() -> Option<Arc<dyn Prefill>> + Send + Sync>;

/// See the module's description.
pub(crate) struct Disaggregated {
    /// The decode workers.
    pub(crate) decode: Arc<dyn Engine>,
    /// The prefill workers.
    pub(crate) prefill: FindPrefill,
    /// Whether decode workers compute prompts where there is no prefill worker.
    pub(crate) works_alone: bool,
    /// Random numbers.
    pub(crate) environment: Environment,
}

/// A prompt that is computed, or being computed.
struct Handover {
    /// What the prefill worker still says.
    outputs: Option<EngineStream>,
    cached_tokens: Option<u32>,
    place: PrefillPlace,
}

/// An answer to it.
struct Handed {
    handover: Handover,
    answer: EngineStream,
    /// Whether it has given a token: then the state has arrived.
    has_begun: bool,
    /// Told whom to avoid.
    slip: Option<Arc<RouteSlip>>,
}

impl Disaggregated {
    async fn answer(
        &self,
        mut request: EngineRequest,
        context: RequestContext,
    ) -> Result<EngineStream, RequestError> {
        let is_handed_over = request.kv_transfer_params.is_some() || request.bootstrap.is_some();
        let prefill = match is_handed_over {
            true => None,
            false => (self.prefill)(),
        };
        let Some(prefill) = prefill else {
            if !is_handed_over && !self.works_alone {
                return Err(no_prefill_worker(&request.model));
            }
            return self.decode.generate(request, context).await;
        };
        let slip = context.route.clone();
        let own = Arc::new(RouteSlip::new(prefill_hints(slip.as_deref())));
        let asked = RequestContext {
            route: Some(Arc::clone(&own)),
            only: None,
            ..context.clone()
        };
        let prompt = prompt_alone(&request);
        let bits = self.environment.random.next_u64();
        let handover = hand_over(&*prefill, prompt, asked, bits, &mut request).await;
        let handover = handover.inspect_err(|_| {
            if let (Some(slip), Some(routed)) = (&slip, own.routed()) {
                slip.write(routed);
            }
        })?;
        let answer = self.decode.generate(request, context).await?;
        if let Some(slip) = &slip
            && let Some(routed) = slip.routed()
        {
            slip.write(Routed {
                prefill: Some(handover.place),
                ..routed
            });
        }
        Ok(Box::pin(Handed {
            handover,
            answer,
            has_begun: false,
            slip,
        }))
    }
}

/// Has the prompt computed, and writes into `request` how whoever generates gets its state.
async fn hand_over(
    prefill: &dyn Prefill,
    prompt: EngineRequest,
    context: RequestContext,
    bits: u64,
    request: &mut EngineRequest,
) -> Result<Handover, RequestError> {
    let Deadlines { first_token, .. } = context.deadlines;
    let prefilling = prefill.prefill(prompt, context, bits).await?;
    let mut handover = Handover {
        outputs: Some(prefilling.outputs),
        cached_tokens: None,
        place: prefilling.place,
    };
    if prefilling.bootstrap.is_some() {
        request.bootstrap = prefilling.bootstrap.map(Box::new);
        return Ok(handover);
    }
    let params = handover.params();
    let params = match first_token {
        None => params.await,
        Some(limit) => timeout(limit, params).await.unwrap_or_else(|_| {
            let message = format!(
                "the prompt was not computed within {}s; send a shorter one, or allow more with \
                 --first-token-timeout",
                limit.as_secs_f64()
            );
            Err(RequestError::new(ErrorCode::FirstTokenTimeout, message))
        }),
    };
    request.kv_transfer_params = Some(params?);
    Ok(handover)
}

/// The request as a prefill worker gets it: for one token, which nobody sees.
fn prompt_alone(request: &EngineRequest) -> EngineRequest {
    let mut prompt = request.clone();
    let generated = u32::try_from(request.generated_ids.len()).unwrap_or(u32::MAX);
    prompt.stop = StopConditions {
        max_tokens: generated.saturating_add(1),
        ignore_eos: true,
        ..StopConditions::default()
    };
    prompt.logprobs = None;
    // Its constraint begins with the first token that is seen.
    prompt.sampling.structured = None;
    prompt.dp_rank = None;
    prompt.hints = None;
    prompt
}

/// What a request asks of the choice of its prefill worker. It is the decode worker that it names, and
/// whose choice is to be explained.
fn prefill_hints(slip: Option<&RouteSlip>) -> RouteHints {
    let Some(RouteSlip { hints, .. }) = slip else {
        return RouteHints::default();
    };
    RouteHints {
        session: hints.session.clone(),
        tenant: hints.tenant.clone(),
        instance: hints.prefill_instance,
        strict_priority: hints.strict_priority,
        required_taints: hints.required_taints.clone(),
        preferred_taints: hints.preferred_taints.clone(),
        ..RouteHints::default()
    }
}

fn no_prefill_worker(model: &str) -> RequestError {
    RequestError::new(
        ErrorCode::ModelNotReady,
        format!(
            "the workers of model `{model}` answer prompts that a prefill worker has computed, and \
             there is none; start one in the same namespace with --disaggregation-mode prefill"
        ),
    )
}

fn lost() -> RequestError {
    RequestError::new(
        ErrorCode::WorkerLost,
        "the prefill worker went away before it had handed the prompt over; send the request again",
    )
}

// === impl Handover ===

impl Handover {
    /// Resolves with what the decode worker needs to know.
    async fn params(&mut self) -> Result<serde_json::Value, RequestError> {
        loop {
            let Some(outputs) = &mut self.outputs else {
                return Err(RequestError::new(
                    ErrorCode::Internal,
                    format!(
                        "prefill worker {:x} has computed a prompt and says nothing of where its KV \
                         state is; start it with its engine's KV connector (for vLLM \
                         --kv-transfer-config)",
                        self.place.instance
                    ),
                ));
            };
            let output = outputs.next().await.unwrap_or_else(|| Err(lost()))?;
            if let Some(params) = self.heard(output) {
                return Ok(params);
            }
        }
    }

    /// Takes over what the prefill worker says; answers what it gives to the decode worker.
    fn heard(&mut self, output: EngineOutput) -> Option<serde_json::Value> {
        if output.cached_tokens.is_some() {
            self.cached_tokens = output.cached_tokens;
        }
        if output.finish_reason.is_some() {
            self.outputs = None;
        }
        output.kv_transfer_params
    }

    /// Listens on. Fails if what is to be handed over will not come.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Result<(), RequestError> {
        while let Some(outputs) = &mut self.outputs {
            match outputs.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(output))) => drop(self.heard(output)),
                Poll::Ready(last) => {
                    self.outputs = None;
                    return Err(last.and_then(Result::err).unwrap_or_else(lost));
                }
            }
        }
        Ok(())
    }
}

// === impl Handed ===

impl Stream for Handed {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let handed = &mut *self;
        if let Err(error) = handed.handover.poll_rest(cx) {
            if !handed.has_begun {
                if let Some(slip) = &handed.slip {
                    slip.write(Routed {
                        instance: handed.handover.place.instance,
                        dp_rank: handed.handover.place.dp_rank,
                        ..slip.routed().unwrap_or_default()
                    });
                }
                return Poll::Ready(Some(Err(error)));
            }
            tracing::debug!(%error, "a prefill worker failed after its prompt was handed over");
        }
        handed.answer.poll_next_unpin(cx).map_ok(|mut output| {
            handed.has_begun |= !output.token_ids.is_empty();
            output.cached_tokens = handed.handover.cached_tokens.take();
            output
        })
    }
}

// === impl Disaggregated ===

impl fmt::Debug for Disaggregated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disaggregated")
            .field("decode", &self.decode)
            .field("works_alone", &self.works_alone)
            .finish_non_exhaustive()
    }
}

impl Engine for Disaggregated {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(self.answer(request, context))
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        self.decode.embed(request, context)
    }

    fn structured_output(&self) -> StructuredSupport {
        self.decode.structured_output()
    }

    fn load(&self) -> LoadReport {
        self.decode.load()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.decode.drain()
    }
}

#[cfg(test)]
mod tests;
