//! What is shown of the fleet at a moment. Pure.
//!
//! Invariants
//! - Sums, averages and ratios are of ranks whose worker reports: what a stale one said last is no
//!   part of them.
//! - Who is shown by itself is who came first, so that nobody's series come and go with others.

use crate::fleet::{Counts, Endpoint, Fleet, KvCounts, Rank, State};
use dynamo_protocols::load::{LoadReport, WorkLoad};
use dynamo_runtime::discovery::EndpointId;
use std::time::Duration;

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// By name.
    pub endpoints: Vec<EndpointFigures>,
    /// Those that are shown by themselves, by endpoint, worker and rank.
    pub workers: Vec<WorkerFigures>,
    /// Ranks that are not, for want of room.
    pub left_out_ranks: usize,
    /// What belongs to no endpoint.
    pub counts: Counts,
    /// The bounds that were kept to.
    pub stale_after: Duration,
}

/// An endpoint's workers together.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointFigures {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// Workers that discovery names.
    pub known: usize,
    /// Workers whose load is known and counts.
    pub reporting: usize,
    /// Workers that told nothing or were out of reach for too long.
    pub stale: usize,
    /// Sum over the reporting ranks.
    pub sum: Load,
    /// Active and waiting requests of a rank.
    pub requests: Option<Spread>,
    /// Active blocks of a rank.
    pub active_blocks: Option<Spread>,
    /// Share of a rank's blocks that is active.
    pub kv_usage: Option<Spread>,
    /// KV events since the endpoint is known.
    pub kv: KvCounts,
    /// Prompt tokens since the endpoint is known.
    pub prompt_tokens: u64,
    /// Those of them that were cached.
    pub cached_prompt_tokens: u64,
}

/// A data-parallel rank of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerFigures {
    /// Its endpoint.
    pub endpoint: EndpointId,
    /// The instance.
    pub worker: u64,
    /// The rank.
    pub dp_rank: u32,
    /// How the worker is.
    pub state: State,
    /// How long ago it told anything.
    pub news_age: Option<Duration>,
    /// What it does, while it reports.
    pub load: Option<Load>,
    /// Its KV events.
    pub kv: KvCounts,
}

/// What load reports say, in numbers that add up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that are computed.
    pub active_slots: u64,
    /// Requests that can be computed at once.
    pub slots: u64,
    /// Requests that wait for a place.
    pub waiting_requests: u64,
    /// Prompt tokens of waiting requests that are to be computed.
    pub waiting_prefill_tokens: u64,
    /// Blocks that running requests need.
    pub active_blocks: u64,
    /// Blocks that are kept for later, and given up when others need the room.
    pub cached_blocks: u64,
    /// Blocks in all.
    pub total_blocks: u64,
    /// Prompt tokens since the engine started.
    pub prompt_tokens: u64,
    /// Those of them that were cached.
    pub cached_prompt_tokens: u64,
    /// Blocks of the prompt tokens.
    pub prompt_blocks: u64,
    /// Blocks of the cached prompt tokens.
    pub cached_prompt_blocks: u64,
}

/// How values are spread.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Average.
    pub average: f64,
    /// Standard deviation, of all values and not of a sample.
    pub deviation: f64,
    /// Smallest value.
    pub min: f64,
    /// Largest value.
    pub max: f64,
}

// === impl Fleet ===

impl Fleet {
    /// What is shown at this moment.
    pub fn figures(&self, now: Duration) -> Figures {
        let mut endpoints = Vec::new();
        let mut ranks: Vec<(u64, WorkerFigures)> = Vec::new();
        for (name, endpoint) in &self.endpoints {
            let of_endpoint = self.ranks_of(name, endpoint, now);
            endpoints.push(together(name, endpoint, &of_endpoint));
            ranks.extend(of_endpoint);
        }
        ranks.sort_by_key(|(seat, rank)| (*seat, rank.dp_rank));
        let left_out_ranks = ranks.len().saturating_sub(self.bounds.max_workers);
        ranks.truncate(self.bounds.max_workers);
        let mut workers: Vec<WorkerFigures> = ranks.into_iter().map(|(_, rank)| rank).collect();
        workers.sort_by(|a, b| {
            let by_endpoint = a.endpoint.cmp(&b.endpoint);
            by_endpoint.then((a.worker, a.dp_rank).cmp(&(b.worker, b.dp_rank)))
        });
        Figures {
            endpoints,
            workers,
            left_out_ranks,
            counts: self.counts,
            stale_after: self.bounds.stale_after,
        }
    }

    /// The ranks of an endpoint's workers, with the workers' seats. A worker that has told of none
    /// has one all the same.
    fn ranks_of(
        &self,
        name: &EndpointId,
        endpoint: &Endpoint,
        now: Duration,
    ) -> Vec<(u64, WorkerFigures)> {
        let mut figures = Vec::new();
        let silent = Rank::default();
        for (worker, seat) in &endpoint.seats {
            let Some(publisher) = self.publisher(endpoint, *worker) else {
                continue;
            };
            let state = publisher.state(self.bounds.stale_after, now);
            let nobody = publisher.ranks.is_empty().then_some((&0, &silent));
            for (dp_rank, rank) in publisher.ranks.iter().chain(nobody) {
                let load = rank.load.as_ref().filter(|_| state == State::Reporting);
                let of_rank = WorkerFigures {
                    endpoint: name.clone(),
                    worker: *worker,
                    dp_rank: *dp_rank,
                    state,
                    news_age: publisher.news_age(now),
                    load: load.map(Load::from),
                    kv: rank.kv,
                };
                figures.push((*seat, of_rank));
            }
        }
        figures
    }
}

fn together(
    name: &EndpointId,
    endpoint: &Endpoint,
    ranks: &[(u64, WorkerFigures)],
) -> EndpointFigures {
    // Ranks of a worker follow each other, and are all in the worker's state.
    let mut workers: Vec<(u64, State)> =
        ranks.iter().map(|(_, it)| (it.worker, it.state)).collect();
    workers.dedup();
    let in_state = |state| workers.iter().filter(|(_, it)| *it == state).count();
    let loads: Vec<Load> = ranks.iter().filter_map(|(_, it)| it.load).collect();
    let spread = |of: fn(&Load) -> f64| Spread::of(&loads.iter().map(of).collect::<Vec<f64>>());
    EndpointFigures {
        endpoint: name.clone(),
        known: workers.len(),
        reporting: in_state(State::Reporting),
        stale: in_state(State::Stale),
        sum: loads.iter().fold(Load::default(), Load::plus),
        requests: spread(|it| it.active_slots.saturating_add(it.waiting_requests) as f64),
        active_blocks: spread(|it| it.active_blocks as f64),
        kv_usage: spread(|it| it.kv_usage().unwrap_or(0.0)),
        kv: endpoint.progress.kv,
        prompt_tokens: endpoint.progress.prompt_tokens,
        cached_prompt_tokens: endpoint.progress.cached_prompt_tokens,
    }
}

// === impl Load ===

impl From<&LoadReport> for Load {
    fn from(report: &LoadReport) -> Self {
        let requests = |work: &WorkLoad| {
            u64::from(work.num_prefill_requests) + u64::from(work.num_decode_requests)
        };
        let blocks = |tokens: u64| tokens / u64::from(report.block_size.max(1));
        Self {
            active_slots: requests(&report.scheduled),
            slots: report.max_sequences.into(),
            waiting_requests: requests(&report.queued),
            waiting_prefill_tokens: report.queued.sum_prefill_tokens,
            active_blocks: report.used_blocks.saturating_sub(report.cached_blocks),
            cached_blocks: report.cached_blocks,
            total_blocks: report.total_blocks,
            prompt_tokens: report.prompt_tokens,
            cached_prompt_tokens: report.cached_prompt_tokens,
            prompt_blocks: blocks(report.prompt_tokens),
            cached_prompt_blocks: blocks(report.cached_prompt_tokens),
        }
    }
}

impl Load {
    /// Share of the blocks that running requests need; nothing where there are no blocks.
    pub fn kv_usage(&self) -> Option<f64> {
        ratio(self.active_blocks, self.total_blocks)
    }

    /// Share of the prompt tokens that were cached; nothing where there were no prompts.
    pub fn prefix_hits(&self) -> Option<f64> {
        ratio(self.cached_prompt_tokens, self.prompt_tokens)
    }

    /// Both together. Workers say what they like: sums stop at the largest number.
    #[must_use]
    pub fn plus(self, other: &Self) -> Self {
        Self {
            active_slots: self.active_slots.saturating_add(other.active_slots),
            slots: self.slots.saturating_add(other.slots),
            waiting_requests: self.waiting_requests.saturating_add(other.waiting_requests),
            waiting_prefill_tokens: self
                .waiting_prefill_tokens
                .saturating_add(other.waiting_prefill_tokens),
            active_blocks: self.active_blocks.saturating_add(other.active_blocks),
            cached_blocks: self.cached_blocks.saturating_add(other.cached_blocks),
            total_blocks: self.total_blocks.saturating_add(other.total_blocks),
            prompt_tokens: self.prompt_tokens.saturating_add(other.prompt_tokens),
            cached_prompt_tokens: self
                .cached_prompt_tokens
                .saturating_add(other.cached_prompt_tokens),
            prompt_blocks: self.prompt_blocks.saturating_add(other.prompt_blocks),
            cached_prompt_blocks: self
                .cached_prompt_blocks
                .saturating_add(other.cached_prompt_blocks),
        }
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

// === impl Spread ===

impl Spread {
    /// How these are spread, if there are any.
    pub fn of(values: &[f64]) -> Option<Self> {
        let count = values.len() as f64;
        let min = values.iter().copied().reduce(f64::min)?;
        let max = values.iter().copied().reduce(f64::max)?;
        let average = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|it| (it - average).powi(2)).sum();
        Some(Self {
            average,
            deviation: (squares / count).sqrt(),
            min,
            max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_all_values() {
        assert_eq!(Spread::of(&[]), None);
        let spread = Spread::of(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).unwrap();
        assert_eq!((spread.average, spread.deviation), (5.0, 2.0));
        assert_eq!((spread.min, spread.max), (2.0, 9.0));
    }

    #[test]
    fn cached_blocks_are_not_active_and_ratios_of_nothing_are_none() {
        let report = LoadReport {
            used_blocks: 90,
            cached_blocks: 70,
            total_blocks: 100,
            block_size: 16,
            prompt_tokens: 100,
            cached_prompt_tokens: 64,
            ..LoadReport::default()
        };
        let load = Load::from(&report);
        assert_eq!((load.active_blocks, load.cached_blocks), (20, 70));
        assert_eq!((load.prompt_blocks, load.cached_prompt_blocks), (6, 4));
        assert_eq!(
            (load.kv_usage(), load.prefix_hits()),
            (Some(0.2), Some(0.64))
        );
        let none = Load::from(&LoadReport::default());
        assert_eq!((none.kv_usage(), none.prefix_hits()), (None, None));
    }
}
