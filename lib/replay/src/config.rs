//! The options of a comparison of routing modes.

use crate::result::Targets;
use crate::{Plan, Trace};
use dynamo_config::options;
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::mode::RouterMode;
use dynamo_mocker::MockerOptions;
use std::path::PathBuf;
use std::time::Duration;

options! {
    /// A trace through the router and simulated workers, in virtual time.
    pub struct ReplayOptions("replay") {
        /// The trace: a JSON object on each line with timestamp (ms), input_length, output_length
        /// and hash_ids, as the Mooncake traces have them.
        trace: Option<PathBuf> = None, env = "DYN_BENCH_TRACE";
        /// Only so many requests of it, the first ones.
        trace_requests: Option<usize> = None, env = "DYN_BENCH_TRACE_REQUESTS", min = 1;
        /// How many times as fast requests come; may be given several times.
        load: Vec<f64> = Vec::new(), env = "DYN_BENCH_LOAD";
        /// Workers.
        replay_workers: u32 = 16, env = "DYN_BENCH_REPLAY_WORKERS", alias = "--workers", min = 1, max = 10_000;
        /// Modes to compare; may be given several times. All if not given.
        mode: Vec<RouterMode> = Vec::new(), env = "DYN_BENCH_MODE";
        /// How long news take from a worker to the router.
        news_delay: Duration = Duration::from_millis(2), env = "DYN_BENCH_NEWS_DELAY", max = Duration::from_secs(60);
        /// Longest time to the first token of a good answer.
        target_ttft: Duration = Duration::from_secs(2), env = "DYN_BENCH_TARGET_TTFT";
        /// Longest mean time between the tokens of a good answer.
        target_itl: Duration = Duration::from_millis(50), env = "DYN_BENCH_TARGET_ITL";
        /// Decides whatever is random.
        replay_seed: u64 = 1, env = "DYN_BENCH_REPLAY_SEED";
        /// File for the figures, as JSON.
        replay_output: Option<PathBuf> = None, env = "DYN_BENCH_REPLAY_OUTPUT";
    }
}

/// Loads that are compared if none are given: half, as recorded, and twice as fast.
const LOADS: &[f64] = &[0.5, 1.0, 2.0];

impl ReplayOptions {
    /// Every plan with the trace that it replays, and how many times as fast that comes.
    pub fn plans(
        &self,
        trace: &Trace,
        router: &RouterOptions,
        engine: &MockerOptions,
    ) -> Vec<(f64, Trace, Plan)> {
        let given = |all: &[f64]| {
            if all.is_empty() {
                LOADS.to_vec()
            } else {
                all.to_vec()
            }
        };
        let modes = match &self.mode[..] {
            [] => crate::replay::COMPARED,
            some => some,
        };
        let trace = match self.trace_requests {
            Some(count) => trace.clone().head(count),
            None => trace.clone(),
        };
        let mut plans = Vec::new();
        for load in given(&self.load) {
            for mode in modes {
                let plan = Plan {
                    workers: self.replay_workers,
                    router: RouterOptions {
                        router_mode: *mode,
                        ..router.clone()
                    },
                    engine: engine.clone(),
                    news_delay: self.news_delay,
                    targets: Targets {
                        ttft: self.target_ttft,
                        itl: self.target_itl,
                    },
                    seed: self.replay_seed,
                };
                plans.push((load, trace.clone().faster(load), plan));
            }
        }
        plans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_declaration_is_sound() {
        let schema = dynamo_config::Schema::new().with::<ReplayOptions>();
        assert!(schema.check().is_empty(), "{:?}", schema.check());
    }
}
