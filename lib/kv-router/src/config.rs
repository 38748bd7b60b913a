//! The router's options, each declared here and nowhere else, and what they come to.
//!
//! Names, meanings and defaults of the published router are kept, older names included, except
//! that the mode is found out by what workers tell.

use crate::approximate::{CachePolicy, Forgetting};
use crate::choice::{AffinityPolicy, Policy};
use crate::cost::{CostParams, CreditWeights, MAX_WEIGHT};
use crate::filter::BusyThresholds;
use crate::mode::RouterMode;
use crate::queue::{QueueLimits, QueuePolicy};
use dynamo_config::{choices, options};
use std::num::NonZeroU32;
use std::time::Duration;

choices! {
    /// When a conversation leaves the worker that served it.
    pub enum AffinityMode {
        /// When the worker is gone.
        Hard = "hard",
        /// When another worker is cheaper even without any of the prompt in its cache.
        Soft = "soft",
    }
}

/// Longest time that an option in seconds may give: a year.
const MAX_SECONDS: f64 = 31_536_000.0;

/// Shortest time that an option in seconds may give.
const MIN_SECONDS: f64 = 0.001;

options! {
    /// How requests find their workers.
    pub struct RouterOptions("router") {
        /// How a worker is picked.
        router_mode: RouterMode = RouterMode::Auto, env = "DYN_ROUTER_MODE";
        /// What a prompt block in a worker's device memory is worth, as a multiple of computing it:
        /// above 1, because a second copy elsewhere would take another prompt's room.
        router_kv_overlap_score_credit: f64 = 2.0,
            env = "DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT",
            env = "DYN_ROUTER_KV_OVERLAP_SCORE_WEIGHT",
            env = "DYN_KV_OVERLAP_SCORE_WEIGHT",
            alias = "--overlap-score-credit",
            deprecated = "--kv-overlap-score-weight",
            deprecated = "--router-kv-overlap-score-weight",
            min = 0.0, max = MAX_WEIGHT;
        /// How fast that worth falls with the prompt tokens that wait on the worker.
        router_kv_overlap_score_credit_decay: f64 = 0.0,
            env = "DYN_ROUTER_KV_OVERLAP_SCORE_CREDIT_DECAY", min = 0.0, max = MAX_WEIGHT;
        /// What a prompt block in a worker's host memory is worth.
        router_host_cache_hit_weight: f64 = 0.75,
            env = "DYN_ROUTER_HOST_CACHE_HIT_WEIGHT", min = 0.0, max = MAX_WEIGHT;
        /// What a prompt block on a worker's disk is worth.
        router_disk_cache_hit_weight: f64 = 0.25,
            env = "DYN_ROUTER_DISK_CACHE_HIT_WEIGHT", min = 0.0, max = MAX_WEIGHT;
        /// What a prompt block in a cache that workers share is worth; not given, nothing.
        shared_cache_multiplier: Option<f64> = None,
            env = "DYN_SHARED_CACHE_MULTIPLIER", min = 0.0, max = MAX_WEIGHT;
        /// What a prompt block still to be computed costs, where a block in use costs 1.
        router_prefill_load_scale: f64 = 32.0,
            env = "DYN_ROUTER_PREFILL_LOAD_SCALE", min = 0.0, max = MAX_WEIGHT;
        /// What a request in flight costs, in blocks.
        router_decode_active_request_weight: f64 = 0.0,
            env = "DYN_ROUTER_DECODE_ACTIVE_REQUEST_WEIGHT", min = 0.0, max = MAX_WEIGHT;
        /// What it costs to wait until all requests that a worker runs at once have ended, in
        /// blocks in use. A request that finds all places of a worker taken pays the share that it
        /// has to wait for; 0 lets queues grow on workers whose caches fit.
        router_wait_weight: f64 = 8_192.0,
            env = "DYN_ROUTER_WAIT_WEIGHT", min = 0.0, max = MAX_WEIGHT;
        /// Randomness of the choice by cost; 0 takes the cheapest.
        router_temperature: f64 = 0.0, env = "DYN_ROUTER_TEMPERATURE", min = 0.0, max = MAX_WEIGHT;
        /// Use what workers tell about their caches; without it `kv` goes by what was sent to them.
        router_kv_events: bool = true,
            env = "DYN_ROUTER_USE_KV_EVENTS", env = "DYN_KV_EVENTS";
        /// Keep one view of the load among routers of the same workers.
        router_replica_sync: bool = false, env = "DYN_ROUTER_REPLICA_SYNC";
        /// Count the KV blocks of requests in flight.
        router_track_active_blocks: bool = true, env = "DYN_ROUTER_TRACK_ACTIVE_BLOCKS";
        /// Count also the blocks that answers fill.
        router_track_output_blocks: bool = false, env = "DYN_ROUTER_TRACK_OUTPUT_BLOCKS";
        /// Count the prompt tokens that wait for their first token.
        router_track_prefill_tokens: bool = true, env = "DYN_ROUTER_TRACK_PREFILL_TOKENS";
        /// Count blocks that requests on the same worker share once.
        router_assume_kv_reuse: bool = true, env = "DYN_ROUTER_ASSUME_KV_REUSE";
        /// Seconds after which a block that was sent to a worker no longer counts as cached there,
        /// without events.
        router_ttl_secs: f64 = 120.0, env = "DYN_ROUTER_TTL_SECS", min = MIN_SECONDS, max = MAX_SECONDS;
        /// Which blocks no longer count as cached, without events.
        router_approximate_cache_policy: CachePolicy = CachePolicy::Ttl,
            env = "DYN_ROUTER_APPROXIMATE_CACHE_POLICY";
        /// Seconds for which blocks count as cached where they were sent, until the worker's
        /// events say so; not given, they count from the event on.
        router_predicted_ttl_secs: Option<f64> = None,
            env = "DYN_ROUTER_PREDICTED_TTL_SECS", min = MIN_SECONDS, max = MAX_SECONDS;
        /// Let requests wait in the router when every worker that could take them has more prompt
        /// tokens waiting than this many of its steps work on; not given, they never wait here.
        router_queue_threshold: Option<f64> = None,
            env = "DYN_ROUTER_QUEUE_THRESHOLD", min = 0.0, max = MAX_WEIGHT;
        /// Who goes first of one tenant's waiting requests.
        router_queue_policy: QueuePolicy = QueuePolicy::Fcfs, env = "DYN_ROUTER_QUEUE_POLICY";
        /// Requests that wait in the router; more are refused.
        router_queue_limit: usize = 4_096, env = "DYN_ROUTER_QUEUE_LIMIT", min = 1, max = 1_000_000;
        /// Requests of one tenant that wait in the router; more are refused.
        router_queue_tenant_limit: usize = 1_024,
            env = "DYN_ROUTER_QUEUE_TENANT_LIMIT", min = 1, max = 1_000_000;
        /// How long a request waits in the router.
        router_queue_timeout: Duration = Duration::from_secs(60),
            env = "DYN_ROUTER_QUEUE_TIMEOUT", min = Duration::from_millis(1), max = Duration::from_secs(86_400);
        /// Seconds for which a conversation that rests stays with its worker; not given,
        /// conversations are not bound.
        router_session_affinity_ttl_secs: Option<f64> = None,
            env = "DYN_ROUTER_SESSION_AFFINITY_TTL_SECS", min = MIN_SECONDS, max = MAX_SECONDS;
        /// When a conversation leaves the worker that served it.
        router_session_affinity_mode: AffinityMode = AffinityMode::Hard,
            env = "DYN_ROUTER_SESSION_AFFINITY_MODE";
        /// A worker with more than this share of its KV blocks in use takes no more requests.
        active_decode_blocks_threshold: Option<f64> = None,
            env = "DYN_ACTIVE_DECODE_BLOCKS_THRESHOLD", min = 0.0, max = 1.0;
        /// A worker on which more prompt tokens than this wait takes no more requests.
        active_prefill_tokens_threshold: Option<u64> = None, env = "DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD";
        /// The same as a multiple of the tokens that one of the worker's steps works on.
        active_prefill_tokens_threshold_frac: Option<f64> = None,
            env = "DYN_ACTIVE_PREFILL_TOKENS_THRESHOLD_FRAC", min = 0.0, max = MAX_WEIGHT;
        /// Workers to wait for before the first request is routed.
        router_min_initial_workers: u32 = 0, env = "DYN_ROUTER_MIN_INITIAL_WORKERS", max = 100_000;
    }
}

impl RouterOptions {
    /// How choices are made for a model with blocks of this size. `any_events` says whether a
    /// worker tells what its cache holds.
    pub fn policy(&self, block_size: NonZeroU32, any_events: bool) -> Policy {
        Policy {
            mode: self.mode(any_events),
            block_size,
            cost: self.cost(),
            busy: BusyThresholds {
                decode_blocks: self.active_decode_blocks_threshold,
                prefill_tokens: self.active_prefill_tokens_threshold,
                prefill_tokens_frac: self.active_prefill_tokens_threshold_frac,
            },
            queue_threshold: self.router_queue_threshold,
            affinity: self
                .router_session_affinity_ttl_secs
                .map(|secs| AffinityPolicy {
                    time_to_live: Duration::from_secs_f64(secs),
                    is_hard: self.router_session_affinity_mode == AffinityMode::Hard,
                }),
            assume_kv_reuse: self.router_assume_kv_reuse,
        }
    }

    /// The mode that is meant, given whether a worker tells what its cache holds.
    pub fn mode(&self, any_events: bool) -> RouterMode {
        match self
            .router_mode
            .resolve(any_events && self.router_kv_events)
        {
            RouterMode::Kv if !self.router_kv_events => RouterMode::KvApproximate,
            mode => mode,
        }
    }

    /// Parameters of the cost.
    pub fn cost(&self) -> CostParams {
        CostParams {
            credit: CreditWeights {
                device: self.router_kv_overlap_score_credit,
                host: self.router_host_cache_hit_weight,
                disk: self.router_disk_cache_hit_weight,
                external: self.shared_cache_multiplier.unwrap_or(0.0),
                decay: self.router_kv_overlap_score_credit_decay,
            },
            prefill_load_scale: self.router_prefill_load_scale,
            active_request_weight: self.router_decode_active_request_weight,
            wait_weight: self.router_wait_weight,
            temperature: self.router_temperature,
            track_prefill_tokens: self.router_track_prefill_tokens,
            track_active_blocks: self.router_track_active_blocks,
        }
    }

    /// What bounds the queue.
    pub fn queue_limits(&self) -> QueueLimits {
        QueueLimits {
            requests: self.router_queue_limit,
            requests_per_tenant: self.router_queue_tenant_limit,
            wait: self.router_queue_timeout,
        }
    }

    /// When blocks that were sent to a worker no longer count as cached there; `None` where what
    /// was sent does not count at all.
    pub fn forgetting(&self) -> Option<Forgetting> {
        let after = |secs| Forgetting::After(Duration::from_secs_f64(secs));
        match (self.mode(true), self.router_approximate_cache_policy) {
            (RouterMode::KvApproximate, CachePolicy::Ttl) => Some(after(self.router_ttl_secs)),
            (RouterMode::KvApproximate, CachePolicy::Lru) => Some(Forgetting::WhenFull),
            (RouterMode::Kv, _) => self.router_predicted_ttl_secs.map(after),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    const BLOCK: NonZeroU32 = NonZeroU32::new(16).unwrap();

    #[test]
    fn the_declarations_are_sound() {
        let problems = Schema::new().with::<RouterOptions>().check();
        assert!(problems.is_empty(), "{problems:?}");
    }

    #[test]
    fn the_defaults_but_for_three_weights_are_the_published_ones() {
        let published = RouterOptions {
            router_kv_overlap_score_credit: 1.0,
            router_prefill_load_scale: 1.0,
            router_wait_weight: 0.0,
            ..RouterOptions::default()
        };
        let policy = published.policy(BLOCK, true);
        assert_eq!(policy, Policy::new(RouterMode::Kv, BLOCK));
    }

    #[test]
    fn the_mode_follows_what_workers_tell_and_what_is_asked_for() {
        let of = |router_mode, router_kv_events| RouterOptions {
            router_mode,
            router_kv_events,
            ..RouterOptions::default()
        };
        let auto = of(RouterMode::Auto, true);
        assert_eq!(auto.mode(true), RouterMode::Kv);
        assert_eq!(auto.mode(false), RouterMode::LeastLoaded);
        assert_eq!(
            of(RouterMode::Auto, false).mode(true),
            RouterMode::LeastLoaded
        );
        assert_eq!(
            of(RouterMode::Kv, false).mode(true),
            RouterMode::KvApproximate
        );
        assert_eq!(of(RouterMode::Random, false).mode(true), RouterMode::Random);
    }

    #[test]
    fn what_was_sent_counts_without_events_or_when_asked_for() {
        let options = RouterOptions {
            router_mode: RouterMode::Kv,
            ..RouterOptions::default()
        };
        assert_eq!(options.forgetting(), None);
        let predicted = RouterOptions {
            router_predicted_ttl_secs: Some(5.0),
            ..RouterOptions {
                router_mode: RouterMode::Kv,
                ..RouterOptions::default()
            }
        };
        let after = |secs| Some(Forgetting::After(Duration::from_secs(secs)));
        assert_eq!(predicted.forgetting(), after(5));
        let blind = RouterOptions {
            router_kv_events: false,
            ..options
        };
        assert_eq!(blind.forgetting(), after(120));
        let full = RouterOptions {
            router_approximate_cache_policy: CachePolicy::Lru,
            ..blind
        };
        assert_eq!(full.forgetting(), Some(Forgetting::WhenFull));
    }
}
