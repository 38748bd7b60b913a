//! What a scheduler works on, in numbers that add up.

use super::SchedulerConfig;
use dynamo_protocols::load::{LoadReport, WorkLoad};
use std::ops::AddAssign;

/// Count, sum and sum of squares of lengths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Lengths {
    pub(crate) count: u64,
    pub(crate) sum: u64,
    squares: u64,
}

/// Sequences in prefill and in decode.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) prefills: Lengths,
    /// Prompt tokens without KV state.
    pub(crate) prefill_tokens: u64,
    /// Prompt tokens with KV state.
    pub(crate) prefill_kv_tokens: u64,
    pub(crate) decodes: Lengths,
}

/// Work and memory of one rank, or of several together.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    pub(crate) scheduled: Work,
    pub(crate) queued: Work,
    pub(crate) held_blocks: usize,
    pub(crate) cached_blocks: usize,
    pub(crate) found: Found,
    pub(crate) ranks: usize,
}

/// Prompt tokens of sequences that got their place so far, and those of them that were cached.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Found {
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
}

impl Lengths {
    pub(crate) fn add(&mut self, length: usize) {
        let length = length as u64;
        self.count += 1;
        self.sum += length;
        self.squares += length * length;
    }

    /// Takes back a length that was added.
    pub(crate) fn subtract(&mut self, length: usize) {
        let length = length as u64;
        self.count -= 1;
        self.sum -= length;
        self.squares -= length * length;
    }

    fn variance(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let count = self.count as f64;
        let mean = self.sum as f64 / count;
        // Rounding can leave a negative nothing.
        (self.squares as f64 / count - mean * mean).max(0.0)
    }
}

impl AddAssign for Lengths {
    fn add_assign(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.prefills += other.prefills;
        self.prefill_tokens += other.prefill_tokens;
        self.prefill_kv_tokens += other.prefill_kv_tokens;
        self.decodes += other.decodes;
    }
}

impl AddAssign for Load {
    fn add_assign(&mut self, other: Self) {
        self.scheduled += other.scheduled;
        self.queued += other.queued;
        self.held_blocks += other.held_blocks;
        self.cached_blocks += other.cached_blocks;
        self.found.prompt_tokens += other.found.prompt_tokens;
        self.found.cached_tokens += other.found.cached_tokens;
        self.ranks += other.ranks;
    }
}

impl From<Work> for WorkLoad {
    fn from(work: Work) -> Self {
        Self {
            num_prefill_requests: narrow(work.prefills.count),
            sum_prefill_tokens: work.prefill_tokens,
            var_prefill_length: work.prefills.variance(),
            sum_prefill_kv_tokens: work.prefill_kv_tokens,
            num_decode_requests: narrow(work.decodes.count),
            sum_decode_kv_tokens: work.decodes.sum,
            var_decode_kv_tokens: work.decodes.variance(),
        }
    }
}

impl Load {
    /// The report of as many ranks of this configuration as were added up.
    pub(crate) fn report(&self, config: &SchedulerConfig) -> LoadReport {
        let of_all = |each: usize| (each * self.ranks) as u64;
        LoadReport {
            scheduled: self.scheduled.into(),
            queued: self.queued.into(),
            used_blocks: (self.held_blocks + self.cached_blocks) as u64,
            cached_blocks: self.cached_blocks as u64,
            total_blocks: of_all(config.total_blocks),
            block_size: narrow(config.block_size.get() as u64),
            max_sequences: narrow(of_all(config.max_running)),
            max_batched_tokens: narrow(of_all(config.max_batched_tokens)),
            prompt_tokens: self.found.prompt_tokens,
            cached_prompt_tokens: self.found.cached_tokens,
        }
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variances_of_ranks_add_up_exactly() {
        let of = |lengths: &[usize]| {
            let mut sum = Lengths::default();
            for length in lengths {
                sum.add(*length);
            }
            sum
        };
        let mut all = of(&[1, 2]);
        all += of(&[3, 4, 9]);
        all.subtract(9);
        assert_eq!(all, of(&[1, 2, 3, 4]));
        assert_eq!(all.variance(), 1.25);
        assert_eq!(Lengths::default().variance(), 0.0);
    }
}
