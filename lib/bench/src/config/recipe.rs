//! Loads with a name: what they set where the user has set nothing.
//!
//! Invariant: a recipe never wins over an option that is given.

use super::BenchServeOptions;
use crate::load::Length;
use dynamo_config::choices;
use std::time::Duration;

choices! {
    /// A load with a name.
    pub enum Recipe {
        /// 1,536 requests at once, 300 prompt and 32 answer tokens each; one that has not ended
        /// after a minute hangs. None may fail.
        FleetBurst = "fleet-burst",
        /// Ten minutes of 48 clients, 300 prompt and 32 answer tokens each. None may fail, and
        /// the process of `--watch-pid` may grow by a twentieth after the first fifth of the run.
        Soak = "soak",
    }
}

/// Prompt tokens where neither option nor recipe says how many.
const INPUT_TOKENS: Length = Length::Fixed(400);

/// Answer tokens where neither option nor recipe says how many.
const OUTPUT_TOKENS: Length = Length::Fixed(64);

/// Longest time for a request where neither option nor recipe sets it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(600);

/// What a recipe sets.
struct Settings {
    concurrency: usize,
    requests: Option<u64>,
    duration: Option<Duration>,
    request_timeout: Duration,
    max_rss_growth: Option<f64>,
}

impl Recipe {
    fn settings(self) -> Settings {
        match self {
            Self::FleetBurst => Settings {
                concurrency: 1_536,
                requests: Some(1_536),
                duration: None,
                request_timeout: Duration::from_secs(60),
                max_rss_growth: None,
            },
            Self::Soak => Settings {
                concurrency: 48,
                requests: None,
                duration: Some(Duration::from_secs(600)),
                request_timeout: Duration::from_secs(60),
                max_rss_growth: Some(1.05),
            },
        }
    }
}

impl BenchServeOptions {
    /// The options with what the recipe sets, and with the defaults that are the same for all.
    pub fn filled(&self) -> Self {
        let mut filled = self.clone();
        if let Some(recipe) = self.recipe {
            let settings = recipe.settings();
            let length = |tokens| Some(Length::Fixed(tokens));
            filled.concurrency = self.concurrency.or(Some(settings.concurrency));
            // Either end that is given makes the recipe's own pointless.
            if self.requests.is_none() && self.duration.is_none() {
                filled.requests = settings.requests;
                filled.duration = settings.duration;
            }
            filled.input_tokens = self.input_tokens.or(length(300));
            filled.output_tokens = self.output_tokens.or(length(32));
            filled.request_timeout = self.request_timeout.or(Some(settings.request_timeout));
            filled.max_failures = self.max_failures.or(Some(0));
            filled.max_rss_growth = self.max_rss_growth.or(settings.max_rss_growth);
        }
        filled.input_tokens = filled.input_tokens.or(Some(INPUT_TOKENS));
        filled.output_tokens = filled.output_tokens.or(Some(OUTPUT_TOKENS));
        filled.request_timeout = filled.request_timeout.or(Some(REQUEST_TIMEOUT));
        filled
    }

    /// Prompt tokens of a conversation's first turn.
    pub(super) fn input_length(&self) -> Length {
        self.input_tokens.unwrap_or(INPUT_TOKENS)
    }

    /// Answer tokens.
    pub(super) fn output_length(&self) -> Length {
        self.output_tokens.unwrap_or(OUTPUT_TOKENS)
    }

    /// Longest time for a request.
    pub fn longest_request(&self) -> Duration {
        self.request_timeout.unwrap_or(REQUEST_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Pace;

    fn options(recipe: Recipe) -> BenchServeOptions {
        BenchServeOptions {
            recipe: Some(recipe),
            ..BenchServeOptions::default()
        }
    }

    #[test]
    fn a_recipe_fills_what_is_unset_and_nothing_else() {
        let burst = options(Recipe::FleetBurst).filled();
        assert_eq!(
            (burst.requests, burst.concurrency),
            (Some(1_536), Some(1_536))
        );
        assert_eq!((burst.max_failures, burst.max_rss_growth), (Some(0), None));
        let load = burst.load().unwrap();
        assert_eq!((load.pace, load.total), (Pace::Closed(1_536), Some(1_536)));
        let given = BenchServeOptions {
            duration: Some(Duration::from_secs(180)),
            input_tokens: Some(Length::Fixed(400)),
            max_rss_growth: Some(2.0),
            max_failures: Some(7),
            ..options(Recipe::Soak)
        };
        let soak = given.filled();
        assert_eq!(soak.duration, given.duration);
        assert_eq!(soak.input_tokens, given.input_tokens);
        assert_eq!(
            (soak.max_rss_growth, soak.max_failures),
            (Some(2.0), Some(7))
        );
        assert_eq!(soak.output_tokens, Some(Length::Fixed(32)));
    }

    #[test]
    fn without_a_recipe_nothing_is_limited() {
        let plain = BenchServeOptions::default().filled();
        assert_eq!((plain.max_failures, plain.max_rss_growth), (None, None));
        assert_eq!((plain.concurrency, plain.requests), (None, None));
        assert_eq!(plain.input_tokens, Some(INPUT_TOKENS));
        assert_eq!(plain.longest_request(), REQUEST_TIMEOUT);
    }
}
