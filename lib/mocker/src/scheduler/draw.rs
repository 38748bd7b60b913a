//! Which token a sequence gets next. Pure.

use dynamo_protocols::draw::uniform;
use dynamo_protocols::engine::{StopConditions, TokenId};

/// First drawn token of a usual vocabulary: behind the control tokens and single bytes.
const FIRST_TOKEN: TokenId = 1_000;

/// Tokens to draw from, as the published mock engine does.
const TOKENS: u32 = 1_000;

/// The tokens that are drawn: consecutive ids, each as likely as any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vocabulary {
    first: TokenId,
    count: u32,
    seed: u64,
}

impl Vocabulary {
    /// Tokens within a vocabulary of `size` tokens, if it is known. The seed is mixed with each
    /// request's own.
    pub fn new(size: Option<u32>, seed: u64) -> Self {
        let size = size.unwrap_or(FIRST_TOKEN + TOKENS).max(1);
        let first = if size >= FIRST_TOKEN + TOKENS {
            FIRST_TOKEN
        } else {
            size / 2
        };
        Self {
            first,
            count: TOKENS.min(size - first),
            seed,
        }
    }

    /// The token at a position of the output. Tokens that would end the sequence are passed over,
    /// unless there is no other.
    pub(crate) fn draw(
        &self,
        seed: u64,
        choice: u32,
        position: u32,
        stop: &StopConditions,
    ) -> TokenId {
        let share = uniform(self.seed ^ seed, choice, u64::from(position));
        let drawn = (share * f64::from(self.count)) as u32;
        let after = |steps: u32| self.first + (drawn + steps) % self.count;
        let ends = |token: &TokenId| stop.eos_ids.contains(token) || stop.stop_ids.contains(token);
        // Only stop tokens can be passed over, and each is one token.
        let passes = u32::try_from(stop.eos_ids.len() + stop.stop_ids.len()).unwrap_or(u32::MAX);
        (0..=passes.min(self.count - 1))
            .map(after)
            .find(|token| !ends(token))
            .unwrap_or(after(0))
    }

    /// Natural logarithm of each token's probability.
    pub(crate) fn logprob(&self) -> f32 {
        -(self.count as f32).ln()
    }

    /// Some tokens that are as likely as `token`, itself first.
    pub(crate) fn alternatives(&self, token: TokenId, count: u32) -> Vec<TokenId> {
        let offset = token.saturating_sub(self.first);
        (0..count.min(self.count))
            .map(|step| self.first + (offset + step) % self.count)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn draws_are_a_function_of_seeds_choice_and_position() {
        let draw = |engine: u64, seed, choice, position| {
            Vocabulary::new(None, engine).draw(seed, choice, position, &StopConditions::default())
        };
        let base = (0..50).map(|p| draw(1, 2, 3, p)).collect::<Vec<_>>();
        assert_eq!(base, (0..50).map(|p| draw(1, 2, 3, p)).collect::<Vec<_>>());
        for other in [(0, 2, 3), (1, 0, 3), (1, 2, 0)] {
            let other: Vec<_> = (0..50)
                .map(|p| draw(other.0, other.1, other.2, p))
                .collect();
            assert_ne!(base, other);
        }
        assert!(base.iter().all(|token| (1_000..2_000).contains(token)));
    }

    proptest! {
        #[test]
        fn drawn_tokens_are_in_the_vocabulary_and_end_nothing_if_any_other_is_there(
            size in 1_u32..3_000, seed: u64, position: u32,
            stops in prop::collection::vec(0_u32..3_000, 0..4),
        ) {
            let stop = StopConditions { stop_ids: stops, max_tokens: 9, ..StopConditions::default() };
            let vocabulary = Vocabulary::new(Some(size), seed);
            let token = vocabulary.draw(seed, 0, position, &stop);
            prop_assert!(token < size);
            prop_assert!(size < 10 || !stop.stop_ids.contains(&token));
            prop_assert!(vocabulary.alternatives(token, 5).iter().all(|it| *it < size));
        }
    }
}
