//! Token counts of a response.

use serde::Serialize;

/// How many tokens a request took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Tokens of the prompts, each counted once however many choices it has.
    pub prompt_tokens: u64,
    /// Generated tokens of all choices, those of stop strings included.
    pub completion_tokens: u64,
    /// Both together.
    pub total_tokens: u64,
    /// What the prompt tokens consist of.
    pub prompt_tokens_details: PromptTokensDetails,
}

/// What the prompt tokens consist of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct PromptTokensDetails {
    /// Tokens whose KV state came from the cache.
    pub cached_tokens: u64,
}

impl Usage {
    /// The counts of a generation.
    pub fn new(prompt_tokens: u64, completion_tokens: u64, cached_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            prompt_tokens_details: PromptTokensDetails { cached_tokens },
        }
    }
}
