//! Counts of durations in buckets of equal relative width: bounded memory for any number of
//! values, percentiles within a known error, exact mean, least and greatest.
//!
//! A value of `n` significant bits beyond the precision falls into one of `2^precision` buckets of
//! its power of two, so that a bucket's middle is at most `2^-(precision+1)` away from any value
//! in it: 0.2 percent with `FINE`.

use std::time::Duration;

/// Precision of the figures that are reported.
pub(crate) const FINE: u32 = 8;

/// Precision of what is drawn: 3 percent, in a sixteenth of the memory.
pub(crate) const COARSE: u32 = 4;

/// A distribution of durations.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    precision: u32,
    /// As long as its greatest value asks for.
    counts: Vec<u64>,
    count: u64,
    sum_nanos: u128,
    least: u64,
    most: u64,
}

/// What a distribution comes to, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct Summary {
    /// How many values.
    pub count: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Least value.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Greatest value.
    pub max: f64,
}

impl Histogram {
    /// An empty distribution.
    pub fn new(precision: u32) -> Self {
        Self {
            precision,
            counts: Vec::new(),
            count: 0,
            sum_nanos: 0,
            least: u64::MAX,
            most: 0,
        }
    }

    /// Adds a value.
    pub fn add(&mut self, value: Duration) {
        let nanos = u64::try_from(value.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanos, self.precision);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.sum_nanos += u128::from(nanos);
        self.least = self.least.min(nanos);
        self.most = self.most.max(nanos);
    }

    /// Adds every value of another distribution of the same precision.
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(self.precision, other.precision, "buckets are the same");
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, more) in self.counts.iter_mut().zip(&other.counts) {
            *own += more;
        }
        self.count += other.count;
        self.sum_nanos += other.sum_nanos;
        self.least = self.least.min(other.least);
        self.most = self.most.max(other.most);
    }

    /// How many values it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The mean, if there is a value.
    pub fn mean(&self) -> Option<Duration> {
        let mean = self.sum_nanos.checked_div(u128::from(self.count))?;
        Some(Duration::from_nanos(
            u64::try_from(mean).unwrap_or(u64::MAX),
        ))
    }

    /// The greatest value, if there is one.
    pub fn max(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_nanos(self.most))
    }

    /// The value that a share of all values do not exceed (nearest rank), if there is a value.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((share * self.count as f64).ceil() as u64).clamp(1, self.count);
        if rank == self.count {
            return self.max();
        }
        let mut passed = 0;
        let bucket = self.counts.iter().position(|count| {
            passed += count;
            passed >= rank
        })?;
        Some(Duration::from_nanos(
            middle_of(bucket, self.precision).clamp(self.least, self.most),
        ))
    }

    /// What it comes to, if there is a value.
    pub fn summary(&self) -> Option<Summary> {
        let quantile = |share| self.quantile(share).map(milliseconds);
        Some(Summary {
            count: self.count,
            mean: milliseconds(self.mean()?),
            min: milliseconds(Duration::from_nanos(self.least)),
            p50: quantile(0.5)?,
            p90: quantile(0.9)?,
            p95: quantile(0.95)?,
            p99: quantile(0.99)?,
            max: milliseconds(self.max()?),
        })
    }

    /// Points of the cumulative distribution: values with the share of all values up to them.
    pub fn cumulative(&self) -> Vec<(Duration, f64)> {
        let mut passed = 0;
        let filled = self
            .counts
            .iter()
            .enumerate()
            .filter(|(_, count)| **count > 0);
        filled
            .map(|(bucket, count)| {
                passed += count;
                let value = middle_of(bucket, self.precision).clamp(self.least, self.most);
                (
                    Duration::from_nanos(value),
                    passed as f64 / self.count as f64,
                )
            })
            .collect()
    }
}

/// A duration in milliseconds, to the nanosecond.
pub fn milliseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64 / 1e6
}

fn bucket_of(value: u64, precision: u32) -> usize {
    let bits = u64::BITS - value.leading_zeros();
    let shift = bits.saturating_sub(precision + 1);
    // Below 2^(precision+1) each value has its own bucket; above, each power of two has
    // 2^precision of them, and `value >> shift` counts from there.
    ((u64::from(shift) << precision) + (value >> shift)) as usize
}

fn middle_of(bucket: usize, precision: u32) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> precision).saturating_sub(1);
    let start = bucket - (shift << precision);
    let start = u128::from(start) << shift;
    u64::try_from(start + (1_u128 << shift) / 2).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64], precision: u32) -> Histogram {
        let mut histogram = Histogram::new(precision);
        for value in values {
            histogram.add(Duration::from_nanos(*value));
        }
        histogram
    }

    #[test]
    fn an_empty_distribution_has_no_figures() {
        let empty = Histogram::new(FINE);
        assert_eq!(empty.summary(), None);
        assert_eq!(empty.cumulative(), []);
    }

    #[test]
    fn small_values_are_exact() {
        let histogram = of(&[5, 1, 400, 2, 3], FINE);
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_nanos(3)));
        assert_eq!(histogram.quantile(0.0), Some(Duration::from_nanos(1)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_nanos(400)));
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_values_within_the_error(
            mut values in proptest::collection::vec((0..50_u32, any::<u64>()).prop_map(|(shift, it)| it >> shift), 1..400),
            share in 0.0..=1.0_f64,
            precision in prop_oneof![Just(FINE), Just(COARSE)],
        ) {
            let histogram = of(&values, precision);
            values.sort_unstable();
            let rank = ((share * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let found = histogram.quantile(share).unwrap().as_nanos() as u64;
            let error = exact >> (precision + 1);
            prop_assert!(found.abs_diff(exact) <= error + 1, "{found} is not {exact}");
            let cumulative = histogram.cumulative();
            prop_assert!(cumulative.is_sorted_by(|a, b| a.0 <= b.0 && a.1 < b.1));
            prop_assert_eq!(cumulative.last().unwrap().1, 1.0);
        }

        #[test]
        fn merged_distributions_are_the_distribution_of_both(
            one in proptest::collection::vec(any::<u64>(), 0..50),
            two in proptest::collection::vec(any::<u64>(), 0..50),
        ) {
            let mut merged = of(&one, COARSE);
            merged.merge(&of(&two, COARSE));
            prop_assert_eq!(merged, of(&[one, two].concat(), COARSE));
        }
    }
}
