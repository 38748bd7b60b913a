//! `/v1/embeddings`: request and response.

use super::prompt::Prompt;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

request! {
    /// A request for embeddings.
    pub struct EmbeddingRequest {
        /// The model's served name.
        model: String,
        /// What to embed.
        input: Prompt,
        ..
        /// The fields that may be left out.
        options: EmbeddingOptions,
    }
}

fields! {
    /// The fields of an embedding request that may be left out.
    pub struct EmbeddingOptions {
        /// How to write the numbers.
        encoding_format: EncodingFormat,
        /// Length of the embeddings.
        dimensions: u32,
        /// Who asks; informative.
        user: IgnoredAny,
    }
}

/// How to write an embedding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// A list of numbers.
    #[default]
    Float,
    /// The little-endian bytes of 32-bit floats, in base64.
    Base64,
}

/// The embeddings.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EmbeddingResponse {
    /// Always `list`.
    pub object: &'static str,
    /// One per input, in order.
    pub data: Vec<Embedding>,
    /// The model's served name.
    pub model: String,
    /// Token counts.
    pub usage: EmbeddingUsage,
}

/// One embedding.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Embedding {
    /// Always `embedding`.
    pub object: &'static str,
    /// Which input it belongs to.
    pub index: usize,
    /// The numbers.
    pub embedding: EmbeddingValue,
}

/// The numbers in the form that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum EmbeddingValue {
    /// A list of numbers.
    Float(Vec<f32>),
    /// Base64 of their bytes.
    Base64(String),
}

/// Token counts of an embedding request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct EmbeddingUsage {
    /// Tokens of all inputs.
    pub prompt_tokens: u64,
    /// The same: nothing is generated.
    pub total_tokens: u64,
}
