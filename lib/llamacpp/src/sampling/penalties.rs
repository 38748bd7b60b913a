//! Penalties on tokens that were seen before.
//!
//! Frequency and presence count generated tokens only; repetition counts the prompt too.

use dynamo_protocols::engine::{SamplingParams, TokenId};
use std::collections::HashMap;

/// The tokens of a sequence, counted.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    // Each entry changes its own logit only, so the order of iteration does not matter.
    counts: HashMap<TokenId, u32>,
}

impl Seen {
    /// Counts nothing if no penalty asks for it.
    pub fn new(params: &SamplingParams, prompt: &[TokenId], generated: &[TokenId]) -> Self {
        let mut seen = Self::default();
        if !is_active(params) {
            return seen;
        }
        if params.repetition_penalty != 1.0 {
            for &id in prompt {
                seen.counts.entry(id).or_default();
            }
        }
        for &id in generated {
            seen.count(params, id);
        }
        seen
    }

    /// Counts a generated token.
    pub fn count(&mut self, params: &SamplingParams, id: TokenId) {
        if is_active(params) {
            *self.counts.entry(id).or_default() += 1;
        }
    }

    pub(super) fn matters(&self, params: &SamplingParams) -> bool {
        is_active(params) && !self.counts.is_empty()
    }

    pub(super) fn penalise(&self, logits: &mut [f32], params: &SamplingParams) {
        for (&id, &count) in &self.counts {
            let Some(logit) = logits.get_mut(id as usize) else {
                continue;
            };
            if *logit > 0.0 {
                *logit /= params.repetition_penalty;
            } else {
                *logit *= params.repetition_penalty;
            }
            if count > 0 {
                *logit -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
    }
}

fn is_active(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0
        || params.presence_penalty != 0.0
        || params.frequency_penalty != 0.0
}
