//! The engine itself: checks requests, hands them to the thread that owns llama.cpp, and streams
//! what comes back.
//!
//! One thread owns the context and does nothing but steps; it ends, and is joined, when the
//! engine is dropped. Everything between it and the rest of the process is bounded.
//!
//! Invariants
//! - A stream ends with a finish reason or with one error, also when the thread panics.
//! - Dropping a stream frees its sequence before the next step.

mod inbox;
mod request;
mod stream;
mod transfer;
mod worker;

use crate::config::{LlamacppOptions, Settings};
use crate::constraint::{Matching, Prepared, Workshop};
use crate::embedding::max_input_tokens;
use crate::error::LoadError;
use crate::model::ModelFacts;
use crate::scheduler::Layout;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest, EngineStream, FinishReason,
    KvEventStream, RequestContext, StopConditions, TokenId,
};
use dynamo_protocols::kv::{KvLayout, KvTransfer};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::structured::{StructuredOutput, StructuredSupport};
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use inbox::{Command, Shared, Submission};
use request::Admission;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use tokio::sync::{broadcast, mpsc, oneshot};
use worker::Startup;

/// Outputs that a sequence's consumer may lag behind before the sequence pauses.
const STREAM_CAPACITY: usize = 64;

/// Prompt of a canary: every vocabulary has this one, and what it means does not matter.
const CANARY_TOKEN: TokenId = 1;

/// Tokens that a canary asks for: more than one, so that both kinds of batches are computed, and
/// fewer than a block, so that nothing of it is cached.
const CANARY_TOKENS: u32 = 3;

/// Inputs of one embedding request.
const MAX_EMBED_INPUTS: usize = 2_048;

/// llama.cpp behind the engine trait.
pub struct LlamacppEngine {
    shared: Arc<Shared>,
    facts: ModelFacts,
    settings: Settings,
    layout: KvLayout,
    /// Compiles constraints; `None` if no answer of the model can end.
    workshop: Option<Workshop>,
    thread: Option<JoinHandle<()>>,
}

impl LlamacppEngine {
    /// Loads a model and starts the engine's thread. Blocks until the engine can serve, or says
    /// why it cannot.
    pub fn load(path: &Path, options: &LlamacppOptions) -> Result<Self, LoadError> {
        let shared = Arc::new(Shared::new());
        let (ready, outcome) = sync_channel(1);
        let thread = {
            let (shared, path, options) = (Arc::clone(&shared), path.to_owned(), options.clone());
            std::thread::Builder::new()
                .name("llamacpp".into())
                .spawn(move || worker::main(&shared, &path, &options, &ready))
                .map_err(|error| LoadError::Thread(error.to_string()))?
        };
        // A sender that is dropped without an answer is a thread that panicked.
        let started = outcome.recv();
        let Startup {
            facts,
            settings,
            vocabulary,
        } = match started {
            Ok(Ok(startup)) => startup,
            Ok(Err(error)) => {
                drop(thread.join());
                return Err(error);
            }
            Err(_) => {
                drop(thread.join());
                return Err(LoadError::Thread("llama.cpp panicked while loading".into()));
            }
        };
        let layout = transfer::layout(&facts, &settings);
        let mut engine = Self {
            shared,
            facts,
            settings,
            layout,
            workshop: None,
            thread: Some(thread),
        };
        if vocabulary.is_usable() {
            engine.workshop = Some(Workshop::start(vocabulary)?);
        }
        Ok(engine)
    }

    /// Most tokens of one sequence, prompt and output.
    pub fn context_length(&self) -> usize {
        self.settings.scheduler.context_length
    }

    /// Threads that compute.
    pub fn threads(&self) -> usize {
        usize::try_from(self.settings.threads).unwrap_or(1)
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> u32 {
        self.layout.block_size
    }

    /// The model's architecture, as its file names it.
    pub fn architecture(&self) -> &str {
        &self.facts.architecture
    }

    async fn start(&self, request: EngineRequest) -> Result<EngineStream, RequestError> {
        if self.facts.pooling {
            let message = format!(
                "model {} computes embeddings and generates no text",
                request.model
            );
            let error = RequestError::new(ErrorCode::UnsupportedParameter, message);
            return Err(error.with_param("model"));
        }
        let limits = request::Limits {
            vocab_size: self.facts.vocab_size,
            context_length: self.context_length(),
        };
        if let Admission::AlreadyFinished(output) = request::admit(&request, &limits)? {
            return Ok(stream::finished(output));
        }
        let matching = match &request.sampling.structured {
            None => None,
            Some(structured) => match self.prepare(structured, &request.generated_ids).await? {
                Prepared::Begun(matching) => Some(matching),
                Prepared::Complete => {
                    return Ok(stream::finished(request::finished(
                        FinishReason::EndOfSequence,
                    )));
                }
            },
        };
        self.submit(request, matching)
    }

    async fn prepare(
        &self,
        structured: &Arc<StructuredOutput>,
        generated: &[TokenId],
    ) -> Result<Prepared, RequestError> {
        match &self.workshop {
            Some(workshop) => workshop.prepare(structured, generated).await,
            None => Err(structured.unsupported("a model without a token that ends an answer")),
        }
    }

    fn submit(
        &self,
        request: EngineRequest,
        matching: Option<Box<Matching>>,
    ) -> Result<EngineStream, RequestError> {
        let (sender, receiver) = mpsc::channel::<EngineOutput>(STREAM_CAPACITY);
        let (link, stream) = stream::pair(sender, receiver, &self.shared);
        let submission = Submission {
            request,
            matching,
            link,
            open: self.shared.open(),
        };
        self.shared
            .submit(submission, self.settings.scheduler.max_waiting)?;
        Ok(stream)
    }

    fn check_inputs(&self, request: &EmbedRequest) -> Result<(), RequestError> {
        if request.inputs.len() > MAX_EMBED_INPUTS {
            return Err(RequestError::invalid(
                "input",
                format!(
                    "{} inputs are more than {MAX_EMBED_INPUTS}; send fewer at once",
                    request.inputs.len()
                ),
            ));
        }
        let longest = max_input_tokens(&self.facts);
        for input in &request.inputs {
            if input.is_empty() {
                return Err(RequestError::invalid("input", "an input is empty"));
            }
            request::check_tokens(input, self.facts.vocab_size, "input")?;
            if input.len() > longest {
                let message = format!(
                    "an input of {} tokens is longer than {longest}; split it",
                    input.len()
                );
                let error = RequestError::new(ErrorCode::ContextLengthExceeded, message);
                return Err(error.with_param("input"));
            }
        }
        Ok(())
    }
}

impl Engine for LlamacppEngine {
    fn generate(
        &self,
        request: EngineRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(self.start(request))
    }

    fn embed(
        &self,
        request: EmbedRequest,
        _context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        Box::pin(async move {
            self.check_inputs(&request)?;
            let (reply, answer) = oneshot::channel();
            self.shared.send(Command::Embed {
                inputs: request.inputs,
                reply,
            })?;
            let embeddings = answer.await.map_err(|_| self.shared.gone())??;
            Ok(EmbedResponse {
                embeddings,
                prompt_tokens: None,
            })
        })
    }

    fn structured_output(&self) -> StructuredSupport {
        match self.workshop {
            Some(_) => StructuredSupport::Replayed,
            None => StructuredSupport::No,
        }
    }

    fn load(&self) -> LoadReport {
        self.shared.load()
    }

    fn canary(&self) -> Option<EngineRequest> {
        Some(EngineRequest {
            model: Arc::from("canary"),
            prompt_ids: Arc::from([CANARY_TOKEN]),
            stop: StopConditions {
                max_tokens: CANARY_TOKENS,
                ignore_eos: true,
                ..StopConditions::default()
            },
            ..EngineRequest::default()
        })
    }

    fn steps(&self) -> u64 {
        self.shared.steps()
    }

    fn kv_events(&self) -> Option<KvEventStream> {
        if !self.settings.scheduler.reuse {
            return None;
        }
        let receiver = self.shared.subscribe();
        let events = futures_util::stream::unfold(receiver, |mut receiver| async move {
            loop {
                match receiver.recv().await {
                    Ok(batch) => return Some((batch, receiver)),
                    // What was lost shows as a gap in the ids.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        });
        Some(Box::pin(events))
    }

    fn kv_transfer(&self) -> Option<&dyn KvTransfer> {
        let scheduler = &self.settings.scheduler;
        // Deterministic engines reuse only what they computed in their own chunks.
        (scheduler.reuse && scheduler.layout == Layout::Shared).then_some(self)
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shared.all_closed())
    }
}

impl fmt::Debug for LlamacppEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamacppEngine")
            .field("facts", &self.facts)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Drop for LlamacppEngine {
    fn drop(&mut self) {
        self.shared.stop();
        if let Some(thread) = self.thread.take() {
            // It ends after the step it is in; a panic was reported where it happened.
            drop(thread.join());
        }
    }
}
