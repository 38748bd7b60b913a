//! From a client's request to engine requests: check, render, tokenise, fill in defaults.
//!
//! Everything here is a pure function of the request, the model and a random seed, except that
//! texts that a tokenizer takes long for are rendered and tokenised on the environment's compute
//! pool. Nothing is queued and no engine is touched: a request that cannot be served is refused
//! here.
//!
//! One request becomes `prompts x n` engine requests, those of the first prompt first. They
//! share the prompt's tokens and the seed; the choice's number makes their draws differ.

mod chat;
mod completion;
mod embedding;
mod hints;
mod limits;
mod messages;
mod sampling;
mod stopping;
mod structured;

pub use embedding::{PreparedEmbedding, prepare_embedding, prepare_text_embedding};

use crate::card::ModelInput;
use crate::model::ServedModel;
use dynamo_protocols::engine::{EngineRequest, SamplingParams, StopConditions, TokenId};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::generation::{
    OutputFields, SamplingFields, ServiceFields, StopFields,
};
use dynamo_protocols::openai::structured::{GuidedFields, ResponseFormat};
use dynamo_protocols::openai::{ChatRequest, CompletionRequest};
use dynamo_protocols::routing::RouteHints;
use dynamo_runtime::environment::{ComputeError, Environment};
use std::sync::Arc;
use std::time::Duration;

/// When to try again after the compute pool was full: about the time its queue takes to empty.
const COMPUTE_RETRY: Duration = Duration::from_secs(2);

/// Bounds of the service on top of the model's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PreprocessLimits {
    /// Most tokens of one prompt; the model's context if `None`.
    pub max_prompt_tokens: Option<u32>,
}

/// A request that is ready for the engine.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The model it is for.
    pub model: Arc<ServedModel>,
    /// One per choice, those of the first prompt first.
    pub requests: Vec<EngineRequest>,
    /// How many choices each prompt has.
    pub choices_per_prompt: u32,
    /// Text to start each prompt's answers with: the prompt itself, if it is to be echoed.
    pub echoes: Vec<String>,
    /// How tokens become text.
    pub text: TextOptions,
    /// What the response looks like.
    pub output: OutputFields,
    /// Facts to add to the response.
    pub extra: ExtraFields,
    /// Time to render the template, if there was one to render.
    pub template: Option<Duration>,
    /// What the body asks of the choice of a worker.
    pub hints: RouteHints,
}

/// How generated tokens become text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextOptions {
    /// Texts that end a choice.
    pub stop_strings: Vec<String>,
    /// Show what ended the choice.
    pub include_stop: bool,
    /// Leave special tokens out.
    pub skip_special_tokens: bool,
    /// Write the tokens of log probabilities as `token_id:N`.
    pub tokens_as_ids: bool,
}

/// Facts that a client may ask to see in the response.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExtraFields {
    /// Token ids of the prompt.
    pub prompt_token_ids: bool,
    /// Generated token ids.
    pub completion_token_ids: bool,
    /// What ended the choice.
    pub stop_reason: bool,
    /// Who served it.
    pub worker_id: bool,
    /// Why that worker.
    pub routing: bool,
}

/// What the parts of a request that do not depend on the API say.
struct Common {
    sampling: SamplingParams,
    stop: StopConditions,
    /// What the client asked for; the rest of the context otherwise.
    max_tokens: Option<u32>,
    logprobs: Option<u32>,
    choices: u32,
    text: TextOptions,
    output: OutputFields,
    extra: ExtraFields,
    cache_salt: Option<Arc<str>>,
    priority: i32,
    hints: RouteHints,
}

/// The shared fields of both completion APIs, as the client sent them.
struct Fields {
    sampling: SamplingFields,
    response_format: Option<ResponseFormat>,
    guided: GuidedFields,
    stopping: StopFields,
    output: OutputFields,
    service: ServiceFields,
}

/// A prompt on its way to the engine.
struct PromptTokens {
    ids: Arc<[TokenId]>,
    echo: String,
    /// Time to render it.
    template: Option<Duration>,
}

/// Prepares a chat request.
pub async fn prepare_chat(
    request: ChatRequest,
    model: Arc<ServedModel>,
    limits: PreprocessLimits,
    environment: &Environment,
) -> Result<Prepared, RequestError> {
    takes_tokens(&model)?;
    chat::prepare(request, model, limits, environment).await
}

/// Prepares a completion request.
pub async fn prepare_completion(
    request: CompletionRequest,
    model: Arc<ServedModel>,
    limits: PreprocessLimits,
    environment: &Environment,
) -> Result<Prepared, RequestError> {
    takes_tokens(&model)?;
    completion::prepare(request, model, limits, environment).await
}

/// Whether the model's workers get tokens; otherwise there is nothing to prepare.
fn takes_tokens(model: &ServedModel) -> Result<(), RequestError> {
    match model.card.input {
        ModelInput::Tokens => Ok(()),
        ModelInput::Text => Err(unsupported(
            "model",
            "names a model whose workers take text as it is; ask it over http",
        )),
    }
}

// === impl Common ===

impl Common {
    /// Checks the shared fields and fills in the model's defaults.
    fn new(
        fields: Fields,
        model: &ServedModel,
        environment: &Environment,
    ) -> Result<Self, RequestError> {
        let Fields {
            sampling,
            response_format,
            guided,
            stopping,
            output,
            service,
        } = fields;
        limits::check_sampling(&sampling)?;
        limits::check_stopping(&stopping)?;
        limits::check_output(&output)?;
        let nvext = service.nvext.unwrap_or_default();
        let hints = hints::route_hints(&nvext)?;
        let greedy = nvext.greed_sampling == Some(true);
        let vocabulary = model.tokenizer.vocab_size();
        let structured = structured::wanted(response_format, guided)?;
        if let Some(structured) = &structured {
            structured::check(structured, model, &stopping)?;
        }
        let max_tokens = stopping.max_tokens;
        let salt = service.cache_salt.or(nvext.cache_salt);
        limits::check_salt(salt.as_deref())?;
        let agent = nvext.agent_hints.unwrap_or_default();
        let choices = output.n.unwrap_or(1);
        Ok(Self {
            sampling: SamplingParams {
                structured: structured.map(Arc::new),
                ..sampling::params(
                    &sampling,
                    &model.card.generation,
                    greedy,
                    vocabulary,
                    || environment.random.next_u64(),
                )?
            },
            text: stopping::text_options(&stopping, &output),
            stop: stopping::conditions(&stopping, &model.card, vocabulary)?,
            max_tokens,
            logprobs: None,
            choices,
            extra: extra_fields(nvext.extra_fields.as_deref().unwrap_or_default(), choices)?,
            output,
            cache_salt: salt.map(Arc::from),
            priority: service.priority.or(agent.priority).unwrap_or(0),
            hints,
        })
    }

    /// Puts prompts and settings together: checks lengths and makes one request per choice.
    fn into_prepared(
        self,
        model: Arc<ServedModel>,
        prompts: Vec<PromptTokens>,
        limits: PreprocessLimits,
    ) -> Result<Prepared, RequestError> {
        let name: Arc<str> = Arc::from(model.card.name.as_str());
        let lora: Option<Arc<str>> = model.card.lora.as_deref().map(Arc::from);
        let mut requests = Vec::with_capacity(prompts.len() * self.choices as usize);
        let mut echoes = Vec::with_capacity(prompts.len());
        let template = prompts.iter().find_map(|prompt| prompt.template);
        for prompt in prompts {
            let room = limits::check_context(
                prompt.ids.len(),
                self.max_tokens,
                model.card.context_length,
                limits,
            )?;
            let mut stop = self.stop.clone();
            stop.max_tokens = self.max_tokens.unwrap_or(room);
            stop.min_tokens = stop.min_tokens.min(stop.max_tokens);
            for choice in 0..self.choices {
                requests.push(EngineRequest {
                    model: Arc::clone(&name),
                    prompt_ids: Arc::clone(&prompt.ids),
                    generated_ids: Vec::new(),
                    choice,
                    sampling: self.sampling.clone(),
                    stop: stop.clone(),
                    logprobs: self.logprobs,
                    lora_name: lora.clone(),
                    cache_salt: self.cache_salt.clone(),
                    priority: self.priority,
                    dp_rank: None,
                    kv_transfer_params: None,
                    bootstrap: None,
                    hints: None,
                    text: None,
                });
            }
            echoes.push(prompt.echo);
        }
        Ok(Prepared {
            model,
            requests,
            choices_per_prompt: self.choices,
            echoes,
            text: self.text,
            output: self.output,
            extra: self.extra,
            template,
            hints: self.hints,
        })
    }
}

// === impl Prepared ===

impl Prepared {
    /// Tokens of all prompts, each counted once.
    pub fn prompt_tokens(&self) -> u64 {
        self.requests
            .iter()
            .step_by(self.choices_per_prompt.max(1) as usize)
            .map(|request| request.prompt_ids.len() as u64)
            .sum()
    }
}

/// Which facts to add to the response.
fn extra_fields(names: &[String], choices: u32) -> Result<ExtraFields, RequestError> {
    let mut extra = ExtraFields::default();
    for name in names {
        match name.as_str() {
            "prompt_token_ids" => extra.prompt_token_ids = true,
            "completion_token_ids" => extra.completion_token_ids = true,
            "stop_reason" => extra.stop_reason = true,
            "worker_id" => extra.worker_id = true,
            "routing" => extra.routing = true,
            _ => {
                return Err(unsupported(
                    "nvext.extra_fields",
                    "serves prompt_token_ids, completion_token_ids, stop_reason, worker_id and \
                     routing only",
                ));
            }
        }
    }
    if choices > 1 && extra != ExtraFields::default() {
        return Err(RequestError::invalid(
            "nvext.extra_fields",
            "`nvext.extra_fields` goes with one choice; leave it out or set `n` to 1",
        ));
    }
    Ok(extra)
}

/// Runs `work` where it disturbs nobody: here if it is quick, else on the pool. The way there and
/// back costs as much as the work on a prompt of 8,000 tokens.
async fn compute<T, F>(environment: &Environment, quick: bool, work: F) -> Result<T, RequestError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, RequestError> + Send + 'static,
{
    if quick {
        return work();
    }
    match environment.compute(work).await {
        Ok(done) => done,
        Err(ComputeError::Full) => Err(RequestError::new(
            ErrorCode::NoCapacity,
            "too many long prompts wait to be tokenised; try again shortly",
        )
        .with_retry_after(COMPUTE_RETRY)),
        Err(_) => Err(RequestError::new(
            ErrorCode::Internal,
            "the prompt could not be processed",
        )),
    }
}

/// An [`ErrorCode::UnsupportedParameter`] about one field; `what` follows its name.
fn unsupported(param: &str, what: &str) -> RequestError {
    RequestError::new(ErrorCode::UnsupportedParameter, format!("`{param}` {what}"))
        .with_param(param)
}

#[cfg(test)]
mod tests;
