//! The fields that chat and plain completions share, by what they are about.

use super::fields::Unserved;
use super::nvext::NvExt;
use super::prompt::Strings;
use crate::engine::TokenId;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

fields! {
    /// How tokens are drawn.
    pub struct SamplingFields {
        /// Softmax temperature.
        temperature: f64,
        /// Nucleus.
        top_p: f64,
        /// Number of most likely tokens to keep; -1 and 0 keep all.
        top_k: i64,
        /// Least probability, as a fraction of the most likely token's.
        min_p: f64,
        /// Per occurrence among the generated tokens.
        frequency_penalty: f64,
        /// Once for tokens that were generated.
        presence_penalty: f64,
        /// For tokens of prompt or output; 1 is off.
        repetition_penalty: f64,
        /// Makes the draws repeatable.
        seed: i64,
        /// Added to single tokens' logits; keys are token ids.
        logit_bias: BTreeMap<String, f64>,
    }
}

fields! {
    /// When a choice ends, and what of its text is shown.
    pub struct StopFields {
        /// Most tokens to generate.
        max_tokens: u32,
        /// Nothing ends the choice before this many tokens.
        min_tokens: u32,
        /// Texts that end the choice.
        stop: Strings,
        /// Tokens that end the choice.
        stop_token_ids: Vec<TokenId>,
        /// Go on at end-of-sequence tokens.
        ignore_eos: bool,
        /// Show the stop string that ended the choice.
        include_stop_str_in_output: bool,
        /// Leave special tokens out of the text.
        skip_special_tokens: bool,
    }
}

fields! {
    /// What the response looks like.
    pub struct OutputFields {
        /// Number of choices.
        n: u32,
        /// Send the answer as it is made.
        stream: bool,
        /// What a stream carries.
        stream_options: StreamOptions,
        /// Write tokens of log probabilities as `token_id:N`.
        return_tokens_as_token_ids: bool,
    }
}

fields! {
    /// How the service treats the request.
    pub struct ServiceFields {
        /// Higher goes first; 0 is normal.
        priority: i32,
        /// Keeps KV blocks of different tenants apart.
        cache_salt: String,
        /// Extensions.
        nvext: NvExt,
    }
}

fields! {
    /// Metadata that changes nothing about the answer.
    pub struct MetadataFields {
        /// Who asks.
        user: IgnoredAny,
        /// Whether to keep the answer.
        store: IgnoredAny,
        /// The client's own notes.
        metadata: IgnoredAny,
        /// The class of service.
        service_tier: IgnoredAny,
        /// Groups requests with a common prefix; prefixes are found by themselves here.
        prompt_cache_key: IgnoredAny,
        /// How long to keep a prefix.
        prompt_cache_retention: IgnoredAny,
        /// Who asks, hashed.
        safety_identifier: IgnoredAny,
    }
}

fields! {
    /// Fields of engines that are known and not served.
    pub struct UnservedFields {
        /// Code that changes logits.
        logits_processors: Unserved,
        /// Log probabilities of the prompt.
        prompt_logprobs: Unserved,
        /// The prompt as embeddings.
        prompt_embeds: Unserved,
        /// The only tokens to draw.
        allowed_token_ids: Unserved,
        /// Token sequences never to draw.
        bad_words_token_ids: Unserved,
        /// Tokens to report log probabilities of.
        logprob_token_ids: Unserved,
        /// Leaves out the text.
        detokenize: Unserved,
        /// Cuts the prompt.
        truncate_prompt_tokens: Unserved,
        /// Searches instead of drawing.
        use_beam_search: Unserved,
        /// Weighs lengths in a beam search.
        length_penalty: Unserved,
        /// Ends a beam search early.
        early_stopping: Unserved,
        /// How to read media.
        media_io_kwargs: Unserved,
        /// How to process media.
        mm_processor_kwargs: Unserved,
        /// Whether the model thinks.
        thinking: Unserved,
        /// Tokens the model may think for.
        thinking_token_budget: Unserved,
        /// Transfer parameters.
        kv_transfer_params: Unserved,
    }
}

/// What a stream carries beside text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamOptions {
    /// Send a last chunk with token counts.
    pub include_usage: Option<bool>,
    /// Padding against observers of packet sizes; not sent, which the API allows.
    pub include_obfuscation: Option<bool>,
    /// Token counts in every chunk.
    pub continuous_usage_stats: Option<Unserved>,
}

impl OutputFields {
    /// Whether the answer is a stream.
    pub fn is_stream(&self) -> bool {
        self.stream == Some(true)
    }

    /// Whether a last chunk with token counts is asked for.
    pub fn include_usage(&self) -> bool {
        self.stream_options
            .is_some_and(|options| options.include_usage == Some(true))
    }
}
