//! When requests arrive in an open loop, as offsets from the start: a function of rate and seed.

use crate::random::{Stream, uniform};
use std::time::Duration;

/// How arrivals are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Spacing {
    /// Independent of each other: exponential gaps.
    Poisson,
    /// At even distances.
    Constant,
    /// So many at once, then a pause.
    Burst(u64),
}

/// Arrivals without end, in order.
#[derive(Debug, Clone)]
pub struct Arrivals {
    spacing: Spacing,
    per_second: f64,
    seed: u64,
    count: u64,
    at: f64,
}

impl Arrivals {
    /// Arrivals at this mean rate, which is to be positive.
    pub fn new(spacing: Spacing, per_second: f64, seed: u64) -> Self {
        Self {
            spacing,
            per_second,
            seed,
            count: 0,
            at: 0.0,
        }
    }
}

impl Iterator for Arrivals {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let count = self.count;
        self.count += 1;
        // Each from its count and not from the one before, where possible: no error adds up.
        self.at = match self.spacing {
            Spacing::Constant => count as f64 / self.per_second,
            Spacing::Burst(size) => (count / size.max(1) * size.max(1)) as f64 / self.per_second,
            Spacing::Poisson => {
                let drawn = uniform(self.seed, Stream::Arrivals, count, 0);
                self.at - (1.0 - drawn).ln() / self.per_second
            }
        };
        // A rate so low that the time has no representation is a request that never comes.
        Some(Duration::try_from_secs_f64(self.at).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bursts_come_together_and_constants_evenly() {
        let at = |spacing| -> Vec<u128> {
            let arrivals = Arrivals::new(spacing, 10.0, 0).take(7);
            arrivals.map(|at| at.as_millis()).collect()
        };
        assert_eq!(at(Spacing::Constant), [0, 100, 200, 300, 400, 500, 600]);
        assert_eq!(at(Spacing::Burst(3)), [0, 0, 0, 300, 300, 300, 600]);
    }

    #[test]
    fn poisson_gaps_have_the_mean_and_the_spread_of_an_exponential() {
        let arrivals: Vec<f64> = Arrivals::new(Spacing::Poisson, 50.0, 9)
            .take(20_000)
            .map(|at| at.as_secs_f64())
            .collect();
        let gaps: Vec<f64> = arrivals.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 50.0 - 1.0).abs() < 0.03, "{mean}");
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.05);
    }

    proptest! {
        #[test]
        fn arrivals_never_go_back_and_repeat_with_the_seed(
            rate in 0.001..1e6_f64, seed: u64, kind in 0..3_usize, size in 1..50_u64,
        ) {
            let spacing = [Spacing::Poisson, Spacing::Constant, Spacing::Burst(size)][kind];
            let arrivals = || Arrivals::new(spacing, rate, seed).take(200).collect::<Vec<_>>();
            prop_assert!(arrivals().is_sorted());
            prop_assert_eq!(arrivals(), arrivals());
        }
    }
}
