//! The load report: what the last step worked on, what waits, and what memory holds.

use super::Scheduler;
use super::sequence::Sequence;
use dynamo_protocols::load::{LoadReport, WorkLoad};

impl Scheduler {
    /// A snapshot of work and memory.
    pub fn load(&self) -> LoadReport {
        let find = |id: &u64| self.sequences.get(id);
        let scheduled = work(
            self.last_step.prefills.iter().filter_map(find),
            self.last_step.decodes.iter().filter_map(find),
        );
        // A sequence that was preempted has produced output: it waits as a decode.
        let (decodes, prefills): (Vec<_>, Vec<_>) = self
            .waiting
            .iter()
            .filter_map(|(_, _, id)| find(id))
            .partition(|sequence| sequence.cached.is_some());
        LoadReport {
            scheduled,
            queued: work(prefills.into_iter(), decodes.into_iter()),
            used_blocks: self.pool.used() as u64,
            cached_blocks: (self.pool.used() - self.pool.live_used()) as u64,
            total_blocks: self.pool.total() as u64,
            block_size: narrow(self.block_size()),
            max_sequences: narrow(self.config.max_running),
            max_batched_tokens: narrow(self.config.max_batch_tokens),
            prompt_tokens: self.found.prompt_tokens,
            cached_prompt_tokens: self.found.cached_tokens,
        }
    }
}

fn work<'a>(
    prefills: impl Iterator<Item = &'a Sequence>,
    decodes: impl Iterator<Item = &'a Sequence>,
) -> WorkLoad {
    let mut lengths = Spread::default();
    let mut load = WorkLoad::default();
    for sequence in prefills {
        lengths.add(sequence.len());
        load.sum_prefill_tokens += sequence.remaining() as u64;
        load.sum_prefill_kv_tokens += sequence.computed as u64;
    }
    let mut kv = Spread::default();
    for sequence in decodes {
        kv.add(sequence.len());
    }
    load.num_prefill_requests = narrow(lengths.count);
    load.var_prefill_length = lengths.variance();
    load.num_decode_requests = narrow(kv.count);
    load.sum_decode_kv_tokens = kv.sum as u64;
    load.var_decode_kv_tokens = kv.variance();
    load
}

/// Count, sum and sum of squares of lengths.
#[derive(Default)]
struct Spread {
    count: usize,
    sum: f64,
    squares: f64,
}

impl Spread {
    fn add(&mut self, length: usize) {
        let length = length as f64;
        self.count += 1;
        self.sum += length;
        self.squares += length * length;
    }

    fn variance(&self) -> f64 {
        if self.count == 0 {
            return 0.0;
        }
        let mean = self.sum / self.count as f64;
        // Rounding can leave a negative nothing.
        (self.squares / self.count as f64 - mean * mean).max(0.0)
    }
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
