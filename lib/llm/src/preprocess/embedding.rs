//! Embeddings: inputs in any of their four forms.

use super::{PreprocessLimits, completion, compute, limits, unsupported};
use crate::model::ServedModel;
use dynamo_protocols::engine::EmbedRequest;
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::EmbeddingRequest;
use dynamo_protocols::openai::embeddings::EncodingFormat;
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
    if !model.card.model_types.embeddings {
        return Err(unsupported("model", "names a model without embeddings"));
    }
    limits::at_most("input", "inputs", request.input.len(), MAX_INPUTS)?;
    limits::within("dimensions", request.options.dimensions, 1, u32::MAX)?;
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
        request: EmbedRequest {
            model: Arc::from(model.card.name.as_str()),
            inputs,
        },
        format: request.options.encoding_format.unwrap_or_default(),
        dimensions: request.options.dimensions,
        model,
    })
}

impl PreparedEmbedding {
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
