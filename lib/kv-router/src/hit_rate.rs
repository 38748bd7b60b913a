//! How much of the prompts was found in caches, beside how much could have been.
//!
//! Four rates, each a share of all prompt tokens
//! - *achieved*: what engines say they found in their caches
//! - *predicted*: what the router expected of the worker that it chose
//! - *reachable*: what the best placed worker had, busy or not: the union of all caches, as far as
//!   one worker can use it
//! - *infinite*: what a single cache that forgets nothing would have had
//!
//! The infinite cache is counted on a sample of blocks, chosen by their hashes. The sample is all
//! of them until there are too many, and halves whenever that happens: memory is bounded, and the
//! estimate stays unbiased.

use crate::choice::Choice;
use dynamo_protocols::kv::SequenceHash;
use serde::Serialize;
use std::collections::HashSet;

/// Blocks in the infinite cache's sample: at some 10 bytes each, a few megabytes, and enough to
/// estimate a rate within half a percent.
const MAX_SAMPLED_BLOCKS: usize = 262_144;

/// Requests in half of what counts as recent.
const RECENT_REQUESTS: u64 = 512;

/// Sums over requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Requests routed.
    pub requests: u64,
    /// Of those, with a prompt shorter than a block: no cache can serve them.
    pub short_prompts: u64,
    /// Their prompt tokens.
    pub prompt_tokens: u64,
    /// Tokens expected in the chosen worker's cache.
    pub predicted_tokens: u64,
    /// Tokens in the cache of the best placed worker.
    pub reachable_tokens: u64,
    /// Tokens that an infinite cache would have had.
    pub infinite_tokens: u64,
    /// Requests whose engine said what it had cached.
    pub served: u64,
    /// Their prompt tokens.
    pub served_prompt_tokens: u64,
    /// Of those, found in the cache.
    pub cached_tokens: u64,
    /// Found and not expected.
    pub unexpected_tokens: u64,
    /// Expected and not found.
    pub missing_tokens: u64,
}

/// Shares of all prompt tokens; `None` before there are any.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rates {
    /// What engines found.
    pub achieved: Option<f64>,
    /// What was expected.
    pub predicted: Option<f64>,
    /// What the best placed worker had.
    pub reachable: Option<f64>,
    /// What an infinite cache would have had.
    pub infinite: Option<f64>,
}

impl Totals {
    /// As shares of the prompt tokens.
    pub fn rates(&self) -> Rates {
        let share = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
        Rates {
            achieved: share(self.cached_tokens, self.served_prompt_tokens),
            predicted: share(self.predicted_tokens, self.prompt_tokens),
            reachable: share(self.reachable_tokens, self.prompt_tokens),
            infinite: share(self.infinite_tokens, self.prompt_tokens),
        }
    }

    fn plus(&self, other: &Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            short_prompts: self.short_prompts + other.short_prompts,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            predicted_tokens: self.predicted_tokens + other.predicted_tokens,
            reachable_tokens: self.reachable_tokens + other.reachable_tokens,
            infinite_tokens: self.infinite_tokens + other.infinite_tokens,
            served: self.served + other.served,
            served_prompt_tokens: self.served_prompt_tokens + other.served_prompt_tokens,
            cached_tokens: self.cached_tokens + other.cached_tokens,
            unexpected_tokens: self.unexpected_tokens + other.unexpected_tokens,
            missing_tokens: self.missing_tokens + other.missing_tokens,
        }
    }
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct HitRate {
    earlier: Totals,
    before: Totals,
    current: Totals,
    seen: SeenBlocks,
}

impl HitRate {
    /// A prompt was sent to a worker.
    pub fn routed(&mut self, prompt: &[SequenceHash], choice: &Choice) {
        if self.current.requests == RECENT_REQUESTS {
            self.earlier = self.earlier.plus(&self.before);
            self.before = std::mem::take(&mut self.current);
        }
        let basis = &choice.basis;
        let block_size = u64::from(basis.block_size.get());
        let seen = self.seen.observe(prompt) * block_size;
        let totals = &mut self.current;
        totals.requests += 1;
        totals.short_prompts += u64::from(prompt.is_empty());
        totals.prompt_tokens += basis.isl_tokens;
        totals.predicted_tokens += choice.cached_tokens;
        totals.reachable_tokens += u64::from(choice.reachable_blocks) * block_size;
        totals.infinite_tokens += seen;
    }

    /// An engine said how many of the prompt's tokens it had cached, where the router had
    /// expected `predicted`.
    pub fn served(&mut self, prompt_tokens: u64, predicted: u64, cached: u64) {
        let cached = cached.min(prompt_tokens);
        let totals = &mut self.current;
        totals.served += 1;
        totals.served_prompt_tokens += prompt_tokens;
        totals.cached_tokens += cached;
        totals.unexpected_tokens += cached.saturating_sub(predicted);
        totals.missing_tokens += predicted.saturating_sub(cached);
    }

    /// Since the start.
    pub fn all(&self) -> Totals {
        self.earlier.plus(&self.recent())
    }

    /// Of the last requests, 512 at least and twice as many at most.
    pub fn recent(&self) -> Totals {
        self.before.plus(&self.current)
    }
}

/// The infinite cache.
#[derive(Debug, Default)]
struct SeenBlocks {
    sampled: HashSet<u64>,
    /// One block in `2^halvings` is in the sample.
    halvings: u32,
}

impl SeenBlocks {
    /// Takes blocks in; answers how many of them were there, by estimate.
    fn observe(&mut self, hashes: &[u64]) -> u64 {
        let mut seen = 0;
        for hash in hashes {
            if is_sampled(*hash, self.halvings) && !self.sampled.insert(*hash) {
                seen += 1;
            }
        }
        let estimate = seen << self.halvings;
        while self.sampled.len() > MAX_SAMPLED_BLOCKS {
            self.halvings += 1;
            let halvings = self.halvings;
            self.sampled.retain(|hash| is_sampled(*hash, halvings));
        }
        estimate
    }
}

fn is_sampled(hash: u64, halvings: u32) -> bool {
    // An odd factor spreads the bits upward: also hashes that someone counted out are sampled
    // evenly.
    let spread = hash.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    spread.leading_zeros() >= halvings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Book;
    use crate::choice::{Chooser, Policy, Situation};
    use crate::cost::WorkerOverlap;
    use crate::fleet::{Fleet, WorkerState};
    use crate::mode::RouterMode;
    use crate::request::RouteRequest;
    use crate::worker::{Slot, WorkerKey};
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn choose(request: &RouteRequest<'_>, device: u32) -> Choice {
        let key = WorkerKey {
            instance: 1,
            dp_rank: 0,
        };
        let mut fleet = Fleet::default();
        fleet.put(WorkerState::new(key, Slot(0)));
        let overlaps = [WorkerOverlap {
            device,
            ..WorkerOverlap::none(Slot(0))
        }];
        let situation = Situation {
            fleet: &fleet,
            overlaps: &overlaps,
            now: Duration::ZERO,
        };
        let policy = Policy::new(RouterMode::Kv, NonZeroU32::new(16).unwrap());
        let mut chooser = Chooser::new(policy);
        let chosen = chooser.pick_and_book(&mut Book::new(0), &situation, request, &mut || 0);
        chosen.unwrap()
    }

    #[test]
    fn rates_are_shares_of_prompt_tokens() {
        let mut rate = HitRate::default();
        assert_eq!(rate.all().rates().achieved, None);
        let request = RouteRequest {
            isl_tokens: 64,
            hashes: &[1, 2, 3, 4],
            ..RouteRequest::default()
        };
        rate.routed(request.hashes, &choose(&request, 0));
        rate.routed(request.hashes, &choose(&request, 2));
        rate.served(64, 0, 0);
        rate.served(64, 32, 16);
        let rates = rate.all().rates();
        assert_eq!(rates.achieved, Some(16.0 / 128.0));
        assert_eq!((rates.predicted, rates.reachable), (Some(0.25), Some(0.25)));
        assert_eq!(rates.infinite, Some(0.5));
        assert_eq!(rate.all().missing_tokens, 16);
    }

    #[test]
    fn recent_forgets_and_all_does_not() {
        let mut rate = HitRate::default();
        let request = RouteRequest::default();
        let choice = choose(&request, 0);
        for _ in 0..5 * RECENT_REQUESTS {
            rate.routed(&[], &choice);
        }
        assert_eq!(rate.all().requests, 5 * RECENT_REQUESTS);
        assert_eq!(rate.recent().requests, 2 * RECENT_REQUESTS);
        assert_eq!(rate.all().short_prompts, 5 * RECENT_REQUESTS);
    }

    #[test]
    fn the_infinite_cache_is_bounded_and_its_estimate_near() {
        let mut seen = SeenBlocks::default();
        let mut again = 0;
        let rounds = 12 * MAX_SAMPLED_BLOCKS as u64 / 100;
        for round in 0..rounds {
            // Half of each prompt was there in the round before.
            let prompt: Vec<u64> = (0..100).map(|nth| round * 50 + nth).collect();
            again += seen.observe(&prompt);
            assert!(seen.sampled.len() <= MAX_SAMPLED_BLOCKS);
        }
        let share = again as f64 / (rounds * 100) as f64;
        assert!((share - 0.5).abs() < 0.01, "{share}");
    }
}
