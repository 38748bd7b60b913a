//! How a run went over time, in at most `MAX_BINS` bins: when a run outgrows them, each two
//! become one.

use super::histogram::{COARSE, Histogram};
use super::record::{End, Record};
use std::time::Duration;

/// Most bins: more than a plot has points to show.
pub(crate) const MAX_BINS: usize = 600;

/// Width of a bin at the start of a run.
const FIRST_WIDTH: Duration = Duration::from_millis(250);

/// Bins of equal width from the start of a run on.
#[derive(Debug, Clone, PartialEq)]
pub struct Timeline {
    width: Duration,
    bins: Vec<Bin>,
}

/// What happened within a bin.
#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    /// Requests that were sent.
    pub sent: u64,
    /// Requests that ended well.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Pieces of text that came.
    pub tokens: u64,
    /// Times to the first token, of requests sent in the bin.
    pub ttft: Histogram,
    /// Latencies of requests sent in the bin.
    pub latency: Histogram,
}

impl Bin {
    fn new() -> Self {
        Self {
            sent: 0,
            completed: 0,
            failed: 0,
            tokens: 0,
            ttft: Histogram::new(COARSE),
            latency: Histogram::new(COARSE),
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.completed += other.completed;
        self.failed += other.failed;
        self.tokens += other.tokens;
        self.ttft.merge(&other.ttft);
        self.latency.merge(&other.latency);
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: FIRST_WIDTH,
            bins: Vec::new(),
        }
    }
}

impl Timeline {
    /// How long a bin is.
    pub fn width(&self) -> Duration {
        self.width
    }

    /// The bins up to the last with anything in it.
    pub fn bins(&self) -> &[Bin] {
        &self.bins
    }

    /// Adds a request.
    pub fn add(&mut self, record: &Record) {
        let latency = record.latency();
        let sent = self.bin(record.sent);
        sent.sent += 1;
        if record.end == End::Complete {
            sent.latency.add(latency);
            if let Some(ttft) = record.ttft() {
                sent.ttft.add(ttft);
            }
        }
        let ended = self.bin(record.ended);
        match record.end {
            End::Complete => ended.completed += 1,
            End::Failed(_) => ended.failed += 1,
            End::Interrupted => {}
        }
        // Neighbours mostly fall into one bin: it is looked up once for all of them.
        let mut left = record.tokens.as_slice();
        while let Some(first) = left.first() {
            let micros = |at: &u32| record.sent + Duration::from_micros(u64::from(*at));
            self.bin(micros(first));
            let bin = self.index(micros(first));
            let count = left
                .partition_point(|at| self.index(micros(at)) <= bin)
                .max(1);
            self.bins[bin].tokens += count as u64;
            left = left.get(count..).unwrap_or_default();
        }
    }

    fn index(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX)
    }

    /// The bin of a moment. Halves the resolution until there is one.
    fn bin(&mut self, at: Duration) -> &mut Bin {
        while self.index(at) >= MAX_BINS {
            self.width *= 2;
            for pair in 0..self.bins.len().div_ceil(2) {
                let mut bin = self.bins[pair * 2].clone();
                if let Some(other) = self.bins.get(pair * 2 + 1) {
                    bin.merge(other);
                }
                self.bins[pair] = bin;
            }
            self.bins.truncate(self.bins.len().div_ceil(2));
        }
        let index = self.index(at);
        if index >= self.bins.len() {
            self.bins.resize_with(index + 1, Bin::new);
        }
        &mut self.bins[index]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::tests::answered;
    use proptest::prelude::*;

    #[test]
    fn what_happens_falls_into_the_bin_of_its_time() {
        let mut timeline = Timeline::default();
        timeline.add(&answered(100, &[100_000, 200_000, 300_000]));
        let tokens: Vec<u64> = timeline.bins().iter().map(|bin| bin.tokens).collect();
        assert_eq!(tokens, [1, 2]);
        assert_eq!(
            (timeline.bins()[0].sent, timeline.bins()[1].completed),
            (1, 1)
        );
        assert_eq!(timeline.bins()[0].latency.count(), 1);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_when_a_run_outgrows_its_bins(
            records in proptest::collection::vec(
                (0..100_000_000_u64, proptest::collection::vec(0..10_000_000_u32, 0..20)), 1..40),
        ) {
            let mut timeline = Timeline::default();
            let mut tokens = 0;
            for (sent, mut times) in records.iter().cloned() {
                times.sort_unstable();
                tokens += times.len() as u64;
                timeline.add(&answered(sent, &times));
            }
            let sum = |of: fn(&Bin) -> u64| timeline.bins().iter().map(of).sum::<u64>();
            prop_assert!(timeline.bins().len() <= MAX_BINS);
            prop_assert_eq!(sum(|bin| bin.tokens), tokens);
            prop_assert_eq!(sum(|bin| bin.sent), records.len() as u64);
            prop_assert_eq!(sum(|bin| bin.completed), records.len() as u64);
            prop_assert_eq!(sum(|bin| bin.latency.count()), records.len() as u64);
        }
    }
}
