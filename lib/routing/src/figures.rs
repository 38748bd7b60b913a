//! A router in numbers: for metrics, for whoever looks at it, and for its diagnosis.

use crate::replicas::ReplicaCounts;
use crate::router::{NewsCounts, WorkerRouter};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::hit_rate::{Rates, Totals};
use dynamo_kv_router::index::Counters;
use dynamo_kv_router::mode::RouterMode;
use dynamo_protocols::load::LoadReport;
use serde::Serialize;

/// See the module's description.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figures {
    /// How workers are picked now.
    pub mode: RouterMode,
    /// Tokens per block.
    pub block_size: u32,
    /// The workers' ranks, by key.
    pub workers: Vec<WorkerFigures>,
    /// Instances that tell what their caches hold.
    pub telling: usize,
    /// Requests that wait for a worker.
    pub waiting_requests: usize,
    /// Their uncached prompt tokens.
    pub waiting_tokens: u64,
    /// Prompts and what was found of them in caches, since the start.
    pub totals: Totals,
    /// The same of the last requests.
    pub recent: Totals,
    /// The last requests as shares of their prompt tokens.
    pub recent_rates: Rates,
    /// The index.
    pub index: IndexFigures,
    /// What workers told.
    pub news: NewsCounts,
    /// What replicas of the router told each other.
    pub replicas: ReplicaCounts,
}

/// The index in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct IndexFigures {
    /// Blocks held, each counted once for every worker and tier.
    pub blocks: u64,
    /// Blocks held by anybody.
    pub distinct_blocks: usize,
    /// Memory, in bytes.
    pub bytes: usize,
    /// What came of the events.
    pub counters: Counters,
}

/// One rank of a worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerFigures {
    /// Who.
    #[serde(flatten)]
    pub worker: WorkerKey,
    /// Requests in flight, as the router has them.
    pub requests: u32,
    /// Prompt tokens of those that have no first token yet.
    pub prefill_tokens: u64,
    /// Blocks that they use.
    pub active_blocks: u64,
    /// Blocks that it holds, by its events.
    pub cached_blocks: u64,
    /// What it said last of its load.
    pub load: LoadReport,
}

impl WorkerRouter {
    /// The router in numbers. Requests wait for it, some microseconds for each thousand workers.
    pub fn figures(&self) -> Figures {
        let (_, telling) = self.workers();
        let loads = self.loads();
        let index = self.index();
        self.with_router(|router| Figures {
            mode: router.mode(),
            block_size: self.block_size().get(),
            workers: loads
                .into_iter()
                .filter_map(|(key, load)| {
                    let slot = router.fleet().get(key)?.slot;
                    let booked = router.book().load(slot);
                    Some(WorkerFigures {
                        worker: key,
                        requests: booked.requests,
                        prefill_tokens: booked.prefill_tokens,
                        active_blocks: booked.blocks,
                        cached_blocks: index.blocks_of(slot),
                        load,
                    })
                })
                .collect(),
            telling,
            waiting_requests: router.waiting(),
            waiting_tokens: router.waiting_tokens(),
            totals: router.hit_rate().all(),
            recent: router.hit_rate().recent(),
            recent_rates: router.hit_rate().recent().rates(),
            index: IndexFigures {
                blocks: index.blocks(),
                distinct_blocks: index.distinct_blocks(),
                bytes: index.memory_bytes(),
                counters: index.counters(),
            },
            news: self.news(),
            replicas: self.replicas(),
        })
    }
}
