//! The engine trait, its request and its output: what every inference engine looks like to the
//! rest of the system, in this process or behind a worker.
//!
//! One [`EngineRequest`] is one sequence: a request for `n` choices becomes `n` engine requests
//! with the same prompt, which prefix reuse makes cheap, so that each choice can be cancelled,
//! retried and moved by itself.
//!
//! Invariants
//! - The prompt and what was generated so far stay apart. An engine that gets a request with
//!   `generated_ids` continues it: penalties, `max_tokens`, `min_tokens` and sampling count those
//!   tokens as generated, and its first output is the token after them.
//! - Sampling draws are a function of `(seed, choice, position)`, so that a continued request
//!   draws what the first attempt would have drawn.
//! - Dropping the output stream cancels the request: the engine frees its sequence before its
//!   next step. There is no other way to cancel and no need for one.
//! - A stream ends after the output that carries a finish reason, or after an error. A stream
//!   that ends without either is a lost worker.
//!
//! What it does not do: text. Stop strings, detokenisation and templates belong to `dynamo-llm`.

use crate::deadline::Deadlines;
use crate::error::{ErrorCode, RequestError};
use crate::kv::{KvEventBatch, KvTransfer};
use crate::load::LoadReport;
use crate::openai::stream::Api;
use crate::routing::{RouteHints, RouteSlip};
use crate::structured::{StructuredOutput, StructuredSupport};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

/// A token's id in the model's vocabulary.
pub type TokenId = u32;

/// The outputs of one sequence, in order.
pub type EngineStream = Pin<Box<dyn Stream<Item = Result<EngineOutput, RequestError>> + Send>>;

/// A stream of KV events; it ends when the engine does.
pub type KvEventStream = Pin<Box<dyn Stream<Item = KvEventBatch> + Send>>;

/// An inference engine: it turns token ids into token ids.
pub trait Engine: Send + Sync + fmt::Debug + 'static {
    /// Starts one sequence. The future resolves when the engine has taken the request (or
    /// refused it), not when the first token is there.
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>>;

    /// Embeds token sequences. Engines that cannot do so refuse with `unsupported_parameter`.
    fn embed(
        &self,
        request: EmbedRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        Box::pin(async move {
            Err(RequestError::new(
                ErrorCode::UnsupportedParameter,
                format!(
                    "model {} does not compute embeddings; use a model that lists them",
                    request.model
                ),
            ))
        })
    }

    /// How far the engine keeps to structured output. One that does not must never be sent any.
    fn structured_output(&self) -> StructuredSupport {
        StructuredSupport::No
    }

    /// What the engine is doing now. Cheap: called for every report.
    fn load(&self) -> LoadReport;

    /// Subscribes to what happens to the engine's KV blocks, or `None` if it reports nothing.
    fn kv_events(&self) -> Option<KvEventStream> {
        None
    }

    /// Data-parallel ranks: schedulers with caches of their own behind this one engine. What
    /// [`Engine::load`] tells is of all together.
    fn ranks(&self) -> u32 {
        1
    }

    /// What one rank, from 0, is doing now.
    fn rank_load(&self, _rank: u32) -> LoadReport {
        self.load()
    }

    /// Subscribes to what happens to one rank's KV blocks. Each rank counts its own events.
    fn rank_kv_events(&self, _rank: u32) -> Option<KvEventStream> {
        self.kv_events()
    }

    /// A small request that shows whether the engine works; none if it is not to be asked.
    fn canary(&self) -> Option<EngineRequest> {
        None
    }

    /// Grows with each step of an engine that works; whoever has a [`Engine::canary`] counts them.
    /// Cheap.
    fn steps(&self) -> u64 {
        0
    }

    /// Export and import of KV state, if the engine can do it.
    fn kv_transfer(&self) -> Option<&dyn KvTransfer> {
        None
    }

    /// Resolves when every sequence taken before the call has ended. The caller stops sending
    /// new requests first and bounds the wait.
    fn drain(&self) -> BoxFuture<'_, ()>;
}

/// What travels beside a request: who it is, its place in a trace, and how it is routed.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// The request's id, the same on every attempt.
    pub request_id: Arc<str>,
    /// Which attempt at the request this is, from 0. Output of an older attempt is stale.
    pub attempt: u32,
    /// W3C trace context, if the request is traced.
    pub traceparent: Option<Arc<str>>,
    /// W3C trace state that goes with `traceparent`.
    pub tracestate: Option<Arc<str>>,
    /// What the request asks of the choice of its worker; does not leave the process.
    pub route: Option<Arc<RouteSlip>>,
    /// Instances that have just failed it: others are asked, if there are any.
    pub avoid: Option<Arc<[u64]>>,
    /// The only instances that can serve it, where not all can.
    pub only: Option<Arc<[u64]>>,
    /// How long its parts may take; where not said, as long as the service allows.
    pub deadlines: Deadlines,
}

/// One sequence to generate.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineRequest {
    /// The model's served name.
    pub model: Arc<str>,
    /// Token ids of the prompt.
    pub prompt_ids: Arc<[TokenId]>,
    /// Token ids that earlier attempts generated; empty on the first one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub generated_ids: Vec<TokenId>,
    /// Which of the client's choices this sequence is, from 0.
    #[serde(default)]
    pub choice: u32,
    /// How to draw tokens.
    #[serde(default)]
    pub sampling: SamplingParams,
    /// When to stop.
    #[serde(default)]
    pub stop: StopConditions,
    /// Number of most likely alternatives to report per generated token; `Some(0)` reports the
    /// drawn token's log probability alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// LoRA adapter to apply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora_name: Option<Arc<str>>,
    /// Keeps KV blocks of different tenants apart: blocks are shared only within one salt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_salt: Option<Arc<str>>,
    /// Higher goes first; 0 is normal.
    #[serde(default)]
    pub priority: i32,
    /// Data-parallel rank to run it on; the engine chooses if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dp_rank: Option<u32>,
    /// Transfer parameters in the engine's own form, carried through unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<serde_json::Value>,
    /// Where the worker that computes the prompt and the one that generates meet, if they are two and
    /// their engines arrange it among themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Box<Bootstrap>>,
    /// What the request asks of the choice of its worker, if whoever gets it is a router and no
    /// engine yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hints: Option<Box<RouteHints>>,
    /// The client's request as it came, in place of all of the above, for an engine that takes text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Arc<TextRequest>>,
}

/// Where the engines of a prefill and a decode worker find each other to hand over KV state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// The prefill worker.
    pub address: BootstrapAddress,
    /// The request's own number there, below 2^63.
    pub room: u64,
}

/// Where a prefill worker's engine is found by those that fetch KV state from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapAddress {
    /// Host name or address.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

impl BootstrapAddress {
    /// Key of an instance's metadata under which its address is announced.
    pub const METADATA_KEY: &str = "bootstrap";
}

/// A client's request for an engine that makes something of text itself: its answer is the chunks
/// that the client gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRequest {
    /// What kind of request it is.
    pub api: Api,
    /// Its JSON.
    pub body: Box<str>,
}

/// Bytes of a request of text that stand for a token where none are counted: what English has.
const BYTES_PER_TOKEN: usize = 4;

impl EngineRequest {
    /// Length of the sequence that the engine starts from, in tokens.
    pub fn input_len(&self) -> usize {
        self.prompt_ids.len() + self.generated_ids.len()
    }

    /// The same as a measure of work: estimated where only the text is known.
    pub fn load_tokens(&self) -> usize {
        let text = self.text.as_ref();
        self.input_len() + text.map_or(0, |text| text.body.len().div_ceil(BYTES_PER_TOKEN))
    }
}

/// How tokens are drawn. The defaults are greedy and leave the distribution as it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingParams {
    /// Softmax temperature; 0 is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// The number of most likely tokens to keep; 0 keeps all.
    pub top_k: u32,
    /// Drop tokens less likely than this fraction of the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Subtracted per occurrence among the generated tokens.
    pub frequency_penalty: f32,
    /// Subtracted once for tokens that were generated.
    pub presence_penalty: f32,
    /// Divides (or multiplies, if negative) logits of tokens seen in prompt or output; 1 is off.
    pub repetition_penalty: f32,
    /// Seed of the counter-based draws.
    pub seed: u64,
    /// Added to the logits of single tokens, sorted by token id.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// What the answer must look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub structured: Option<Arc<StructuredOutput>>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            seed: 0,
            logit_bias: Vec::new(),
            structured: None,
        }
    }
}

/// When a sequence ends. Stop strings are not here: the frontend matches them on text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopConditions {
    /// Most tokens to generate, those of earlier attempts included.
    pub max_tokens: u32,
    /// No stop token ends the sequence before this many generated tokens.
    #[serde(default)]
    pub min_tokens: u32,
    /// The model's end-of-sequence tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub eos_ids: Vec<TokenId>,
    /// Tokens the client asked to stop at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop_ids: Vec<TokenId>,
    /// Generate through end-of-sequence tokens.
    #[serde(default)]
    pub ignore_eos: bool,
}

impl StopConditions {
    /// Why a sequence ends at its `generated`-th token `token` (1-based, earlier attempts
    /// included), or `None` if it goes on.
    pub fn finish_at(&self, token: TokenId, generated: u32) -> Option<FinishReason> {
        let may_stop = generated > self.min_tokens;
        if may_stop && self.stop_ids.contains(&token) {
            return Some(FinishReason::StopToken(token));
        }
        if may_stop && !self.ignore_eos && self.eos_ids.contains(&token) {
            return Some(FinishReason::EndOfSequence);
        }
        (generated >= self.max_tokens).then_some(FinishReason::Length)
    }
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// The model produced an end-of-sequence token.
    EndOfSequence,
    /// The model produced a token the client asked to stop at.
    StopToken(TokenId),
    /// `max_tokens` or the end of the context is reached.
    Length,
}

/// What one step of the engine added to a sequence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineOutput {
    /// New token ids, in order. The token that ended the sequence is among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub token_ids: Vec<TokenId>,
    /// Log probabilities, one entry per new token, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<TokenLogprobs>>,
    /// Set on the last output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finish_reason: Option<FinishReason>,
    /// Set on the first output: how many prompt tokens came from the KV cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    /// Transfer parameters that the engine gives to whoever continues the request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<serde_json::Value>,
    /// The next chunk of the answer to a request of text, as the client gets it: one JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunk: Option<Box<str>>,
}

impl EngineOutput {
    /// How much of the answer it is: its tokens, or its chunk.
    pub fn amount(&self) -> u32 {
        let tokens = u32::try_from(self.token_ids.len()).unwrap_or(u32::MAX);
        tokens.saturating_add(u32::from(self.chunk.is_some()))
    }
}

/// Log probability of a drawn token and of its most likely alternatives, natural logarithm,
/// of the distribution before temperature and filters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprobs {
    /// Log probability of the drawn token.
    pub logprob: f32,
    /// Most likely tokens first.
    pub top: Vec<(TokenId, f32)>,
}

/// Token sequences to embed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EmbedRequest {
    /// The model's served name.
    pub model: Arc<str>,
    /// One token sequence per embedding.
    pub inputs: Vec<Vec<TokenId>>,
    /// Length of the embeddings that the client asks for, for engines that make several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// The client's request as it came, in place of the inputs, for an engine that takes text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<Box<str>>,
}

/// One embedding per input, in order, each of unit length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct EmbedResponse {
    /// The embeddings.
    pub embeddings: Vec<Vec<f32>>,
    /// Tokens of all inputs, where the engine counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_of_one_token_is_small_on_the_wire_and_unknown_fields_are_ignored() {
        let output = EngineOutput {
            token_ids: vec![262_143],
            ..EngineOutput::default()
        };
        let text = serde_json::to_string(&output).unwrap();
        assert_eq!(text, "{\"token_ids\":[262143]}");
        let newer = "{\"token_ids\":[262143],\"a_field_of_the_future\":1}";
        let read: EngineOutput = serde_json::from_str(newer).unwrap();
        assert_eq!(read, output);
    }

    #[test]
    fn a_request_with_only_what_it_must_have_is_greedy() {
        let request: EngineRequest = serde_json::from_str(
            "{\"model\":\"m\",\"prompt_ids\":[1,2],\"stop\":{\"max_tokens\":1}}",
        )
        .unwrap();
        assert_eq!(request.sampling, SamplingParams::default());
        assert_eq!(request.input_len(), 2);
    }

    fn stop() -> StopConditions {
        StopConditions {
            max_tokens: 4,
            min_tokens: 2,
            eos_ids: vec![1],
            stop_ids: vec![9],
            ignore_eos: false,
        }
    }

    #[test]
    fn stop_tokens_wait_for_min_tokens() {
        assert_eq!(stop().finish_at(1, 2), None);
        assert_eq!(stop().finish_at(1, 3), Some(FinishReason::EndOfSequence));
        assert_eq!(stop().finish_at(9, 2), None);
        assert_eq!(stop().finish_at(9, 3), Some(FinishReason::StopToken(9)));
    }

    #[test]
    fn ignoring_eos_keeps_the_clients_stop_tokens() {
        let stop = StopConditions {
            ignore_eos: true,
            ..stop()
        };
        assert_eq!(stop.finish_at(1, 3), None);
        assert_eq!(stop.finish_at(9, 3), Some(FinishReason::StopToken(9)));
    }

    #[test]
    fn the_last_token_reports_length_unless_it_is_a_stop_token() {
        assert_eq!(stop().finish_at(5, 4), Some(FinishReason::Length));
        assert_eq!(stop().finish_at(1, 4), Some(FinishReason::EndOfSequence));
    }
}
