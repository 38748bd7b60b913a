//! What came of a replay, in numbers.

use dynamo_kv_router::hit_rate::{Rates, Totals};
use dynamo_kv_router::mode::RouterMode;
use serde::Serialize;
use std::time::Duration;

/// What one request met.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Met {
    pub(crate) arrived: Duration,
    pub(crate) first_token: Option<Duration>,
    pub(crate) last_token: Option<Duration>,
    pub(crate) tokens: u32,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    /// Tokens of the prompt that some worker had when it came, whichever.
    pub(crate) union_tokens: u64,
    pub(crate) refused: bool,
    pub(crate) finished: bool,
}

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// How workers were picked.
    pub mode: RouterMode,
    /// Requests answered in whole.
    pub finished: u64,
    /// Requests refused.
    pub refused: u64,
    /// From the first request to the last token, in seconds.
    pub seconds: f64,
    /// Output tokens per second.
    pub output_tokens_per_second: f64,
    /// Share of their time in which workers had something to do, their mean.
    pub busy: f64,
    /// The busiest worker's share of the output and prompt tokens, as a multiple of an even one.
    pub imbalance: f64,
    /// From arrival to first token, in milliseconds.
    pub ttft_ms: Percentiles,
    /// Mean time between the tokens of a request, in milliseconds.
    pub itl_ms: Percentiles,
    /// From arrival to last token, in milliseconds.
    pub latency_ms: Percentiles,
    /// Requests per second that met the targets.
    pub goodput: f64,
    /// Share of the prompt tokens that workers found in their caches.
    pub hit_rate: f64,
    /// Share that the union of all caches had.
    pub union_rate: f64,
    /// The same by the router's own counters; an infinite cache among them.
    pub rates: Rates,
    /// Those counters.
    pub totals: Totals,
}

/// Where values lie.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Mean.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// What a good answer is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// Longest time to the first token.
    pub ttft: Duration,
    /// Longest mean time between tokens.
    pub itl: Duration,
}

impl Default for Targets {
    fn default() -> Self {
        Self {
            ttft: Duration::from_secs(2),
            itl: Duration::from_millis(50),
        }
    }
}

impl Percentiles {
    /// Of any values, which are sorted.
    pub fn of(mut values: Vec<f64>) -> Self {
        if values.is_empty() {
            return Self::default();
        }
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values[rank.clamp(1, values.len()) - 1]
        };
        Self {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
        }
    }
}

impl Met {
    pub(crate) fn ttft(&self) -> Option<Duration> {
        self.first_token.map(|at| at - self.arrived)
    }

    /// Mean time between its tokens; none where there is one token.
    pub(crate) fn itl(&self) -> Option<Duration> {
        let gaps = self.tokens.checked_sub(1).filter(|gaps| *gaps > 0)?;
        Some((self.last_token? - self.first_token?) / gaps)
    }

    pub(crate) fn is_good(&self, targets: &Targets) -> bool {
        self.finished
            && self.ttft().is_some_and(|ttft| ttft <= targets.ttft)
            && self.itl().is_none_or(|itl| itl <= targets.itl)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let hundred = Percentiles::of((1..=100).rev().map(f64::from).collect());
        assert_eq!((hundred.p50, hundred.p90, hundred.p99), (50.0, 90.0, 99.0));
        assert_eq!(hundred.mean, 50.5);
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
        assert_eq!(Percentiles::of(vec![3.0]).p99, 3.0);
    }

    #[test]
    fn a_good_answer_meets_both_targets_and_is_whole() {
        let ms = Duration::from_millis;
        let met = Met {
            arrived: ms(10),
            first_token: Some(ms(110)),
            last_token: Some(ms(310)),
            tokens: 11,
            finished: true,
            ..Met::default()
        };
        let targets = |ttft, itl| Targets {
            ttft: ms(ttft),
            itl: ms(itl),
        };
        assert!(met.is_good(&targets(100, 20)));
        assert!(!met.is_good(&targets(99, 20)));
        assert!(!met.is_good(&targets(100, 19)));
        let cut_off = Met {
            finished: false,
            ..met
        };
        assert!(!cut_off.is_good(&targets(100, 20)));
    }
}
