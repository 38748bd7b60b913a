//! `/v1/completions`: request and unary response.

use super::fields::Unserved;
use super::generation::{
    MetadataFields, OutputFields, SamplingFields, ServiceFields, StopFields, UnservedFields,
};
use super::logprobs::{CompletionLogprobs, TokenLogprob};
use super::nvext::NvExtResponse;
use super::prompt::Prompt;
use super::structured::{GuidedFields, ResponseFormat};
use super::usage::Usage;
use serde::{Serialize, Serializer};

request! {
    /// A request to continue a text.
    pub struct CompletionRequest {
        /// The model's served name.
        model: String,
        /// What to continue.
        prompt: Prompt,
        ..
        /// Fields that only plain completions have.
        completion: CompletionFields,
        /// How tokens are drawn.
        sampling: SamplingFields,
        /// What the answer must look like.
        guided: GuidedFields,
        /// When a choice ends.
        stopping: StopFields,
        /// What the response looks like.
        output: OutputFields,
        /// How the service treats the request.
        service: ServiceFields,
        /// Metadata.
        metadata: MetadataFields,
        /// Known and not served.
        unserved: UnservedFields,
    }
}

fields! {
    /// Fields that only plain completions have.
    pub struct CompletionFields {
        /// Start the answer with the prompt.
        echo: bool,
        /// Report log probabilities, with this many alternatives.
        logprobs: u32,
        /// Generate this many and show the `n` best.
        best_of: u32,
        /// Add the model's own prefix (BOS) to the prompt.
        add_special_tokens: bool,
        /// The text after the gap.
        suffix: Unserved,
        /// The form of the answer.
        response_format: ResponseFormat,
    }
}

/// The answer to a completion request that is not streamed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Completion {
    /// The answer's id.
    pub id: String,
    /// Always `text_completion`.
    pub object: &'static str,
    /// When the request came, in seconds since 1970.
    pub created: u64,
    /// The model's served name.
    pub model: String,
    /// The choices, in order: those of the first prompt first.
    pub choices: Vec<CompletionChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Facts that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvext: Option<NvExtResponse>,
}

/// One choice of a completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CompletionChoice {
    /// Which choice it is.
    pub index: u32,
    /// Its text.
    pub text: String,
    /// Log probabilities, if asked for.
    #[serde(serialize_with = "columns")]
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Why it ended.
    pub finish_reason: &'static str,
}

#[expect(clippy::ref_option, reason = "the signature is serde's")]
fn columns<S: Serializer>(
    logprobs: &Option<Vec<TokenLogprob>>,
    output: S,
) -> Result<S::Ok, S::Error> {
    logprobs
        .as_deref()
        .map(CompletionLogprobs)
        .serialize(output)
}
