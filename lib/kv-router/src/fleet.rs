//! The workers to choose from, and what is known of them beside their cache and their bookings.
//!
//! Invariant: workers stand in the order of their keys, whatever order they came in, so that
//! equal fleets give equal choices on every replica.

use crate::worker::{Slot, WorkerKey};
use dynamo_protocols::load::LoadReport;
use std::sync::Arc;

/// One data-parallel rank of one worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerState {
    /// Who it is.
    pub key: WorkerKey,
    /// Its place in index and book.
    pub slot: Slot,
    /// Whether it takes no new work.
    pub draining: bool,
    /// Tokens that one of its steps works on, if known.
    pub max_batched_tokens: Option<u32>,
    /// Requests that it has, running or waiting, as it said last.
    pub sequences: u32,
    /// Requests that it runs at once, if known.
    pub max_sequences: Option<u32>,
    /// KV blocks it has, if known.
    pub total_blocks: Option<u64>,
    /// KV blocks that its running requests need, as it said last.
    pub busy_blocks: u64,
    /// Its taints.
    pub taints: Vec<Arc<str>>,
}

impl WorkerState {
    /// A worker of which nothing more is known yet.
    pub fn new(key: WorkerKey, slot: Slot) -> Self {
        Self {
            key,
            slot,
            draining: false,
            max_batched_tokens: None,
            sequences: 0,
            max_sequences: None,
            total_blocks: None,
            busy_blocks: 0,
            taints: Vec::new(),
        }
    }

    /// Takes over what the worker says of itself.
    pub fn observe(&mut self, report: &LoadReport) {
        if report.max_batched_tokens > 0 {
            self.max_batched_tokens = Some(report.max_batched_tokens);
        }
        if report.max_sequences > 0 {
            self.max_sequences = Some(report.max_sequences);
        }
        if report.total_blocks > 0 {
            self.total_blocks = Some(report.total_blocks);
        }
        let both = [&report.scheduled, &report.queued];
        let of = both.map(|it| {
            it.num_prefill_requests
                .saturating_add(it.num_decode_requests)
        });
        self.sequences = of[0].saturating_add(of[1]);
        self.busy_blocks = report.used_blocks.saturating_sub(report.cached_blocks);
    }
}

/// See the module's description.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fleet {
    workers: Vec<WorkerState>,
}

impl Fleet {
    /// Adds a worker, or replaces what is known of it.
    pub fn put(&mut self, worker: WorkerState) {
        match self.find(worker.key) {
            Ok(at) => self.workers[at] = worker,
            Err(at) => self.workers.insert(at, worker),
        }
    }

    /// Takes a worker out.
    pub fn remove(&mut self, key: WorkerKey) -> Option<WorkerState> {
        let at = self.find(key).ok()?;
        Some(self.workers.remove(at))
    }

    /// A worker by its key.
    pub fn get(&self, key: WorkerKey) -> Option<&WorkerState> {
        self.find(key).ok().map(|at| &self.workers[at])
    }

    /// A worker by its key. Key and slot must stay as they are.
    pub fn get_mut(&mut self, key: WorkerKey) -> Option<&mut WorkerState> {
        self.find(key).ok().map(|at| &mut self.workers[at])
    }

    /// Every worker, in the order of keys.
    pub fn workers(&self) -> &[WorkerState] {
        &self.workers
    }

    fn find(&self, key: WorkerKey) -> Result<usize, usize> {
        self.workers.binary_search_by_key(&key, |worker| worker.key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::load::WorkLoad;

    fn worker(instance: u64) -> WorkerState {
        let key = WorkerKey {
            instance,
            dp_rank: 0,
        };
        WorkerState::new(key, Slot(0))
    }

    #[test]
    fn workers_stand_in_the_order_of_keys() {
        let mut fleet = Fleet::default();
        for instance in [3, 1, 2, 1] {
            fleet.put(worker(instance));
        }
        let instances = fleet.workers().iter().map(|it| it.key.instance);
        assert!(instances.eq([1, 2, 3]));
        assert_eq!(fleet.remove(worker(2).key), Some(worker(2)));
        assert_eq!(fleet.get(worker(2).key), None);
    }

    #[test]
    fn what_runs_and_what_waits_is_there() {
        let of = |num_prefill_requests, num_decode_requests| WorkLoad {
            num_prefill_requests,
            num_decode_requests,
            ..WorkLoad::default()
        };
        let mut worker = worker(1);
        worker.observe(&LoadReport {
            scheduled: of(1, 7),
            queued: of(10, 2),
            ..LoadReport::default()
        });
        assert_eq!(worker.sequences, 20);
    }

    #[test]
    fn cached_blocks_do_not_make_a_worker_busy() {
        let mut worker = worker(1);
        let report = LoadReport {
            used_blocks: 90,
            cached_blocks: 70,
            total_blocks: 100,
            max_batched_tokens: 8_192,
            max_sequences: 16,
            ..LoadReport::default()
        };
        worker.observe(&report);
        assert_eq!((worker.busy_blocks, worker.total_blocks), (20, Some(100)));
        worker.observe(&LoadReport::default());
        assert_eq!(worker.max_batched_tokens, Some(8_192));
        assert_eq!(worker.max_sequences, Some(16));
    }
}
