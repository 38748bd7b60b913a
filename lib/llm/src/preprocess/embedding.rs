//! Embeddings: inputs in any of their four forms.

use super::{PreprocessLimits, completion, compute, limits, unsupported};
use crate::model::ServedModel;
use dynamo_protocols::engine::EmbedRequest;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::EmbeddingRequest;
use dynamo_protocols::openai::embeddings::EncodingFormat;
use dynamo_protocols::openai::gist::EmbeddingGist;
use dynamo_runtime::environment::Environment;
use std::sync::Arc;

/// Most inputs of one request, as the API documents it.
const MAX_INPUTS: usize = 2_048;

/// An embedding request that is ready for the engine.
#[derive(Debug, Clone)]
pub struct PreparedEmbedding {
    /// The model it is for.
    pub model: Arc<ServedModel>,
    /// What to embed.
    pub request: EmbedRequest,
    /// How many embeddings that makes.
    pub expected: usize,
    /// How to write the numbers.
    pub format: EncodingFormat,
    /// The length that the client expects; an engine that makes others is not asked to cut.
    pub dimensions: Option<u32>,
    /// Tokens of all inputs.
    pub prompt_tokens: u64,
}

/// Prepares an embedding request.
pub async fn prepare_embedding(
    request: EmbeddingRequest,
    model: Arc<ServedModel>,
    limits: PreprocessLimits,
    environment: &Environment,
) -> Result<PreparedEmbedding, RequestError> {
    super::takes_tokens(&model)?;
    check(&model, request.input.len(), request.options.dimensions)?;
    let tokenizer = Arc::clone(&model.tokenizer);
    let input = request.input;
    let quick = completion::bytes(&input) <= tokenizer.quick_bytes();
    let inputs = compute(environment, quick, move || {
        completion::tokenise(&*tokenizer, "input", input, true)
    })
    .await?;
    let inputs: Vec<_> = inputs.into_iter().map(|(ids, _)| ids).collect();
    for ids in &inputs {
        limits::check_input(ids.len(), model.card.context_length, limits)?;
    }
    Ok(PreparedEmbedding {
        prompt_tokens: inputs.iter().map(|ids| ids.len() as u64).sum(),
        expected: inputs.len(),
        request: EmbedRequest {
            model: Arc::from(model.card.name.as_str()),
            inputs,
            dimensions: request.options.dimensions,
            text: None,
        },
        format: request.options.encoding_format.unwrap_or_default(),
        dimensions: request.options.dimensions,
        model,
    })
}

/// Prepares an embedding request for a model whose workers take it as it is.
pub fn prepare_text_embedding(
    gist: &EmbeddingGist,
    body: String,
    model: Arc<ServedModel>,
) -> Result<PreparedEmbedding, RequestError> {
    check(&model, gist.input.len(), gist.dimensions)?;
    Ok(PreparedEmbedding {
        prompt_tokens: 0,
        expected: gist.input.len(),
        request: EmbedRequest {
            model: Arc::from(model.card.name.as_str()),
            inputs: Vec::new(),
            dimensions: gist.dimensions,
            text: Some(body.into()),
        },
        format: gist.encoding_format.unwrap_or_default(),
        dimensions: gist.dimensions,
        model,
    })
}

fn check(model: &ServedModel, inputs: usize, dimensions: Option<u32>) -> Result<(), RequestError> {
    if !model.card.model_types.embeddings {
        return Err(unsupported("model", "names a model without embeddings"));
    }
    limits::at_most("input", "inputs", inputs, MAX_INPUTS)?;
    limits::within("dimensions", dimensions, 1, u32::MAX)
}

impl PreparedEmbedding {
    /// Checks that the engine made one embedding of each input.
    pub fn check_count(&self, count: usize) -> Result<(), RequestError> {
        match count == self.expected {
            true => Ok(()),
            false => Err(RequestError::new(
                ErrorCode::EngineFailed,
                format!(
                    "the engine made {count} embeddings of {} inputs",
                    self.expected
                ),
            )),
        }
    }

    /// Checks the length of what the engine made against what the client expects.
    pub fn check_dimensions(&self, length: usize) -> Result<(), RequestError> {
        match self.dimensions {
            Some(asked) if asked as usize != length => Err(unsupported(
                "dimensions",
                &format!("is served as {length} only by this model"),
            )),
            _ => Ok(()),
        }
    }
}
