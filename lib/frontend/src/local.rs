//! Requests that this process asks itself: the console and the batch runner.
//!
//! They go through the same parsing, preparation and generation as requests over HTTP, without a
//! socket. What differs is who asks and what is done with the answer.

use dynamo_llm::model::ServedModel;
use dynamo_llm::postprocess::Generation;
use dynamo_llm::preprocess::{
    PreprocessLimits, prepare_chat, prepare_completion, prepare_embedding,
};
use dynamo_llm::registry::ModelRegistry;
use dynamo_protocols::engine::{EmbedResponse, RequestContext};
use dynamo_protocols::openai::parse::parse;
use dynamo_protocols::openai::{ChatRequest, CompletionRequest, EmbeddingRequest};
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::Environment;
use std::sync::Arc;
use std::time::Duration;

/// Asks the models of this process's registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalClient {
    registry: ModelRegistry,
    environment: Environment,
    limits: PreprocessLimits,
}

/// An answer that is under way, and the model that gives it.
#[derive(Debug)]
pub struct Asked {
    /// The model's name.
    pub model: String,
    /// The answer.
    pub generation: Generation,
}

impl LocalClient {
    /// Asks what is in `registry`.
    pub fn new(
        registry: ModelRegistry,
        environment: Environment,
        limits: PreprocessLimits,
    ) -> Self {
        Self {
            registry,
            environment,
            limits,
        }
    }

    /// The model of this name, or the only one there is.
    pub fn model(&self, name: Option<&str>) -> Result<(Arc<str>, Arc<ServedModel>), RequestError> {
        if let Some(name) = name {
            return Ok((name.into(), self.registry.find(name)?));
        }
        let mut models = self.registry.list();
        match (models.pop(), models.len()) {
            (Some(only), 0) => Ok(only),
            (None, _) => Err(RequestError::new(
                ErrorCode::ModelNotReady,
                "no model is served; start a worker first, or give a model",
            )),
            (Some(_), _) => Err(RequestError::invalid(
                "model",
                "several models are served; say which with --model-name",
            )),
        }
    }

    /// Sends a body of `/v1/chat/completions`.
    pub async fn chat(&self, body: &[u8], id: Arc<str>) -> Result<Asked, RequestError> {
        let request: ChatRequest = parse(body)?;
        let (model, served) = self.model(Some(&request.model))?;
        let prepared = prepare_chat(request, served, self.limits, &self.environment).await?;
        let generation = Generation::start(prepared, context(id)).await?;
        Ok(Asked {
            model: model.as_ref().to_owned(),
            generation,
        })
    }

    /// Sends a body of `/v1/completions`.
    pub async fn completion(&self, body: &[u8], id: Arc<str>) -> Result<Asked, RequestError> {
        let request: CompletionRequest = parse(body)?;
        let (model, served) = self.model(Some(&request.model))?;
        let prepared = prepare_completion(request, served, self.limits, &self.environment).await?;
        let generation = Generation::start(prepared, context(id)).await?;
        Ok(Asked {
            model: model.as_ref().to_owned(),
            generation,
        })
    }

    /// Sends a body of `/v1/embeddings`; gives back the embeddings and the prompt's tokens.
    pub async fn embedding(
        &self,
        body: &[u8],
        id: Arc<str>,
    ) -> Result<(EmbedResponse, u64), RequestError> {
        let request: EmbeddingRequest = parse(body)?;
        let (_, served) = self.model(Some(&request.model))?;
        let prepared =
            prepare_embedding(request, Arc::clone(&served), self.limits, &self.environment).await?;
        let tokens = prepared
            .request
            .inputs
            .iter()
            .map(|input| input.len() as u64)
            .sum();
        let response = served.engine.embed(prepared.request, context(id)).await?;
        Ok((response, tokens))
    }

    /// Time since the Unix epoch.
    pub fn unix_time(&self) -> Duration {
        self.environment.clock.unix_time()
    }
}

fn context(request_id: Arc<str>) -> RequestContext {
    RequestContext {
        request_id,
        ..RequestContext::default()
    }
}
