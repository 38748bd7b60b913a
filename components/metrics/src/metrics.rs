//! Figures as Prometheus families, made when they are asked for.
//! `docs/reference/worker-metrics.md` lists them; a test compares.
//!
//! The names that begin with `llm_` are those of the published metrics component, for dashboards
//! that were made for it; the rest says the same and more under names of one form.

mod family;

use crate::figures::{EndpointFigures, Figures, Load, WorkerFigures};
use crate::fleet::State;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use family::{Family, Labels, collect, describe};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use std::collections::BTreeMap;

/// What each endpoint has one of.
const ENDPOINT_FIGURES: &[Family<EndpointFigures>] = &[
    Family::gauge(
        "dynamo_workers_known",
        "workers",
        "Workers that discovery names",
        |it| Some(it.known as f64),
    ),
    Family::gauge(
        "dynamo_workers_reporting",
        "workers",
        "Workers that tell their load: the other figures are of them",
        |it| Some(it.reporting as f64),
    ),
    Family::gauge(
        "dynamo_workers_stale",
        "workers",
        "Workers that told nothing or were out of reach for too long",
        |it| Some(it.stale as f64),
    ),
    Family::gauge(
        "dynamo_workers_active_slots",
        "requests",
        "Requests that workers compute",
        |it| Some(it.sum.active_slots as f64),
    ),
    Family::gauge(
        "dynamo_workers_slots",
        "requests",
        "Requests that workers can compute at once",
        |it| Some(it.sum.slots as f64),
    ),
    Family::gauge(
        "dynamo_workers_waiting_requests",
        "requests",
        "Requests that wait in workers for a place",
        |it| Some(it.sum.waiting_requests as f64),
    ),
    Family::gauge(
        "dynamo_workers_waiting_prefill_tokens",
        "tokens",
        "Prompt tokens of waiting requests that are to be computed",
        |it| Some(it.sum.waiting_prefill_tokens as f64),
    ),
    Family::gauge(
        "dynamo_workers_kv_active_blocks",
        "blocks",
        "KV blocks that running requests need",
        |it| Some(it.sum.active_blocks as f64),
    ),
    Family::gauge(
        "dynamo_workers_kv_cached_blocks",
        "blocks",
        "KV blocks that are kept for prompts to come, and given up when the room is needed",
        |it| Some(it.sum.cached_blocks as f64),
    ),
    Family::gauge(
        "dynamo_workers_kv_blocks",
        "blocks",
        "KV blocks in all",
        |it| Some(it.sum.total_blocks as f64),
    ),
    Family::gauge(
        "dynamo_workers_kv_usage_ratio",
        "share",
        "Share of all KV blocks that running requests need",
        |it| it.sum.kv_usage(),
    ),
    Family::gauge(
        "dynamo_workers_prefix_hit_ratio",
        "share",
        "Share of the prompt tokens that workers found in their caches, since they started",
        |it| it.sum.prefix_hits(),
    ),
    Family::counter(
        "dynamo_workers_prompt_tokens_total",
        "tokens",
        "Prompt tokens that workers began to compute",
        |it| Some(it.prompt_tokens as f64),
    ),
    Family::counter(
        "dynamo_workers_cached_prompt_tokens_total",
        "tokens",
        "Prompt tokens that workers found in their caches",
        |it| Some(it.cached_prompt_tokens as f64),
    ),
    Family::gauge(
        "dynamo_workers_requests_avg",
        "requests",
        "Active and waiting requests of a worker, on average",
        |it| Some(it.requests?.average),
    ),
    Family::gauge(
        "dynamo_workers_requests_std",
        "requests",
        "Active and waiting requests of a worker, standard deviation",
        |it| Some(it.requests?.deviation),
    ),
    Family::gauge(
        "dynamo_workers_requests_min",
        "requests",
        "Active and waiting requests of the worker with fewest",
        |it| Some(it.requests?.min),
    ),
    Family::gauge(
        "dynamo_workers_requests_max",
        "requests",
        "Active and waiting requests of the worker with most",
        |it| Some(it.requests?.max),
    ),
    Family::gauge(
        "dynamo_workers_kv_usage_avg_ratio",
        "share",
        "Share of a worker's KV blocks that running requests need, on average",
        |it| Some(it.kv_usage?.average),
    ),
    Family::gauge(
        "dynamo_workers_kv_usage_std_ratio",
        "share",
        "Share of a worker's KV blocks that running requests need, standard deviation",
        |it| Some(it.kv_usage?.deviation),
    ),
    Family::gauge(
        "dynamo_workers_kv_usage_min_ratio",
        "share",
        "Share of the KV blocks that running requests need, of the worker with least",
        |it| Some(it.kv_usage?.min),
    ),
    Family::gauge(
        "dynamo_workers_kv_usage_max_ratio",
        "share",
        "Share of the KV blocks that running requests need, of the worker with most",
        |it| Some(it.kv_usage?.max),
    ),
    Family::counter(
        "dynamo_workers_kv_stored_blocks_total",
        "blocks",
        "KV blocks that workers told to have stored",
        |it| Some(it.kv.stored_blocks as f64),
    ),
    Family::counter(
        "dynamo_workers_kv_removed_blocks_total",
        "blocks",
        "KV blocks that workers told to have removed",
        |it| Some(it.kv.removed_blocks as f64),
    ),
    Family::counter(
        "dynamo_workers_kv_clears_total",
        "clears",
        "Times that workers told to have cleared their caches",
        |it| Some(it.kv.clears as f64),
    ),
    Family::counter(
        "dynamo_workers_kv_event_gaps_total",
        "gaps",
        "Times that KV events of workers were missing",
        |it| Some(it.kv.gaps as f64),
    ),
    Family::counter(
        "dynamo_workers_kv_missed_events_total",
        "events",
        "KV events of workers that were missing",
        |it| Some(it.kv.missed_events as f64),
    ),
];

/// What each data-parallel rank of each worker has one of. Where a worker does not report, there
/// is no load: a frozen figure would look like a living one.
const WORKER_FIGURES: &[Family<WorkerFigures>] = &[
    Family::gauge(
        "dynamo_worker_reporting",
        "0 or 1",
        "1 while the worker tells its load",
        |it| Some(f64::from(u8::from(it.state == State::Reporting))),
    ),
    Family::gauge(
        "dynamo_worker_stale",
        "0 or 1",
        "1 while the worker told nothing or was out of reach for too long",
        |it| Some(f64::from(u8::from(it.state == State::Stale))),
    ),
    Family::gauge(
        "dynamo_worker_news_age_seconds",
        "seconds",
        "Time since the worker told anything; one with nothing to do has nothing to tell",
        |it| Some(it.news_age?.as_secs_f64()),
    ),
    Family::gauge(
        "dynamo_worker_active_slots",
        "requests",
        "Requests that the worker computes",
        |it| Some(it.load?.active_slots as f64),
    ),
    Family::gauge(
        "dynamo_worker_slots",
        "requests",
        "Requests that the worker can compute at once",
        |it| Some(it.load?.slots as f64),
    ),
    Family::gauge(
        "dynamo_worker_waiting_requests",
        "requests",
        "Requests that wait in the worker for a place",
        |it| Some(it.load?.waiting_requests as f64),
    ),
    Family::gauge(
        "dynamo_worker_waiting_prefill_tokens",
        "tokens",
        "Prompt tokens of the worker's waiting requests that are to be computed",
        |it| Some(it.load?.waiting_prefill_tokens as f64),
    ),
    Family::gauge(
        "dynamo_worker_kv_active_blocks",
        "blocks",
        "KV blocks that the worker's running requests need",
        |it| Some(it.load?.active_blocks as f64),
    ),
    Family::gauge(
        "dynamo_worker_kv_cached_blocks",
        "blocks",
        "KV blocks that the worker keeps for prompts to come",
        |it| Some(it.load?.cached_blocks as f64),
    ),
    Family::gauge(
        "dynamo_worker_kv_blocks",
        "blocks",
        "KV blocks of the worker in all",
        |it| Some(it.load?.total_blocks as f64),
    ),
    Family::gauge(
        "dynamo_worker_kv_usage_ratio",
        "share",
        "Share of the worker's KV blocks that its running requests need",
        |it| it.load?.kv_usage(),
    ),
    Family::gauge(
        "dynamo_worker_prefix_hit_ratio",
        "share",
        "Share of the prompt tokens that the worker found in its cache, since it started",
        |it| it.load?.prefix_hits(),
    ),
    Family::counter(
        "dynamo_worker_prompt_tokens_total",
        "tokens",
        "Prompt tokens that the worker began to compute",
        |it| Some(it.load?.prompt_tokens as f64),
    ),
    Family::counter(
        "dynamo_worker_cached_prompt_tokens_total",
        "tokens",
        "Prompt tokens that the worker found in its cache",
        |it| Some(it.load?.cached_prompt_tokens as f64),
    ),
    Family::counter(
        "dynamo_worker_kv_stored_blocks_total",
        "blocks",
        "KV blocks that the worker told to have stored",
        |it| Some(it.kv.stored_blocks as f64),
    ),
    Family::counter(
        "dynamo_worker_kv_removed_blocks_total",
        "blocks",
        "KV blocks that the worker told to have removed",
        |it| Some(it.kv.removed_blocks as f64),
    ),
    Family::counter(
        "dynamo_worker_kv_clears_total",
        "clears",
        "Times that the worker told to have cleared its cache",
        |it| Some(it.kv.clears as f64),
    ),
    Family::counter(
        "dynamo_worker_kv_event_gaps_total",
        "gaps",
        "Times that KV events of the worker were missing",
        |it| Some(it.kv.gaps as f64),
    ),
    Family::counter(
        "dynamo_worker_kv_missed_events_total",
        "events",
        "KV events of the worker that were missing",
        |it| Some(it.kv.missed_events as f64),
    ),
];

/// What the component itself has one of.
const OWN_FIGURES: &[Family<Figures>] = &[
    Family::gauge(
        "dynamo_metrics_endpoints",
        "endpoints",
        "Endpoints that are shown",
        |it| Some(it.endpoints.len() as f64),
    ),
    Family::gauge(
        "dynamo_metrics_left_out_endpoints",
        "endpoints",
        "Endpoints that are not shown, because of --max-endpoints",
        |it| Some(it.counts.left_out_endpoints as f64),
    ),
    Family::gauge(
        "dynamo_metrics_left_out_workers",
        "workers",
        "Workers that are not shown by themselves, because of --max-workers or --max-endpoints",
        |it| Some((it.counts.left_out_workers + it.left_out_ranks) as f64),
    ),
    Family::gauge(
        "dynamo_metrics_discovery_stale",
        "0 or 1",
        "1 while the view of the living workers may be outdated: the discovery backend is out of reach, or was so recently",
        |it| Some(f64::from(u8::from(it.counts.discovery_stale))),
    ),
    Family::gauge(
        "dynamo_metrics_stale_after_seconds",
        "seconds",
        "How long a worker may be silent until it counts as stale: --stale-after",
        |it| Some(it.stale_after.as_secs_f64()),
    ),
    Family::counter(
        "dynamo_metrics_news_total",
        "pieces",
        "Pieces of news heard of workers",
        |it| Some(it.counts.news as f64),
    ),
    Family::counter(
        "dynamo_metrics_unreadable_news_total",
        "pieces",
        "Pieces of news that could not be read",
        |it| Some(it.counts.unreadable_news as f64),
    ),
    Family::counter(
        "dynamo_metrics_lost_workers_total",
        "losses",
        "Times that a worker's news broke off",
        |it| Some(it.counts.losses as f64),
    ),
];

/// What the published component shows of each worker, its ranks together.
const PUBLISHED_WORKER_FIGURES: &[Family<PublishedWorker>] = &[
    Family::gauge(
        "llm_requests_active_slots",
        "requests",
        "Active request slots",
        |it| Some(it.load.active_slots as f64),
    ),
    Family::gauge(
        "llm_requests_total_slots",
        "requests",
        "Total request slots",
        |it| Some(it.load.slots as f64),
    ),
    Family::gauge(
        "llm_kv_blocks_active",
        "blocks",
        "Active KV cache blocks",
        |it| Some(it.load.active_blocks as f64),
    ),
    Family::gauge(
        "llm_kv_blocks_total",
        "blocks",
        "Total KV cache blocks",
        |it| Some(it.load.total_blocks as f64),
    ),
    Family::counter(
        "llm_kv_hit_rate_isl_blocks",
        "blocks",
        "Blocks of prompts, since the worker started",
        |it| Some(it.load.prompt_blocks as f64),
    ),
    Family::counter(
        "llm_kv_hit_rate_overlap_blocks",
        "blocks",
        "Blocks of prompts that were in the KV cache, since the worker started",
        |it| Some(it.load.cached_prompt_blocks as f64),
    ),
    Family::gauge(
        "llm_kv_hit_rate_percent",
        "percent",
        "Share of the prompt tokens that were in the KV cache, since the worker started",
        |it| Some(it.load.prefix_hits()? * 100.0),
    ),
];

/// What the published component shows of each endpoint.
const PUBLISHED_ENDPOINT_FIGURES: &[Family<EndpointFigures>] = &[
    Family::gauge(
        "llm_load_avg",
        "blocks",
        "Average load across workers, in active KV cache blocks",
        |it| Some(it.active_blocks?.average),
    ),
    Family::gauge(
        "llm_load_std",
        "blocks",
        "Load standard deviation across workers, in active KV cache blocks",
        |it| Some(it.active_blocks?.deviation),
    ),
];

const ENDPOINT_LABELS: Labels = &["dynamo_component", "dynamo_endpoint", "dynamo_namespace"];
const WORKER_LABELS: Labels = &[
    "dp_rank",
    "dynamo_component",
    "dynamo_endpoint",
    "dynamo_namespace",
    "worker_id",
];
const PUBLISHED_ENDPOINT_LABELS: Labels = &["component", "dynamo_namespace", "endpoint"];
const PUBLISHED_WORKER_LABELS: Labels = &["component", "dynamo_namespace", "endpoint", "worker_id"];

/// A worker's ranks together.
struct PublishedWorker {
    endpoint: EndpointId,
    worker: u64,
    load: Load,
}

/// The figures of the fleet when they are asked for.
struct FleetFigures<F> {
    figures: F,
    descriptions: Vec<Desc>,
}

/// Shows what `figures` gives.
pub fn show_fleet(
    registry: &MetricsRegistry,
    figures: impl Fn() -> Figures + Send + Sync + 'static,
) -> Result<(), MetricsError> {
    let descriptions = describe(ENDPOINT_FIGURES, ENDPOINT_LABELS)
        .chain(describe(WORKER_FIGURES, WORKER_LABELS))
        .chain(describe(OWN_FIGURES, &[]))
        .chain(describe(
            PUBLISHED_ENDPOINT_FIGURES,
            PUBLISHED_ENDPOINT_LABELS,
        ))
        .chain(describe(PUBLISHED_WORKER_FIGURES, PUBLISHED_WORKER_LABELS))
        .collect::<Result<_, _>>()?;
    registry.register(FleetFigures {
        figures,
        descriptions,
    })
}

impl<F: Fn() -> Figures + Send + Sync> Collector for FleetFigures<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let figures = (self.figures)();
        let published = published(&figures.workers);
        let endpoints = &figures.endpoints;
        let families = collect(
            ENDPOINT_FIGURES,
            ENDPOINT_LABELS,
            endpoints,
            endpoint_values,
        )
        .chain(collect(
            WORKER_FIGURES,
            WORKER_LABELS,
            &figures.workers,
            |it| {
                let [component, endpoint, namespace] = names(&it.endpoint);
                let worker = format!("{:x}", it.worker);
                vec![
                    it.dp_rank.to_string(),
                    component,
                    endpoint,
                    namespace,
                    worker,
                ]
            },
        ))
        .chain(collect(
            OWN_FIGURES,
            &[],
            std::slice::from_ref(&figures),
            |_| Vec::new(),
        ))
        .chain(collect(
            PUBLISHED_ENDPOINT_FIGURES,
            PUBLISHED_ENDPOINT_LABELS,
            endpoints,
            published_values,
        ))
        .chain(collect(
            PUBLISHED_WORKER_FIGURES,
            PUBLISHED_WORKER_LABELS,
            &published,
            |it| {
                let [component, endpoint, namespace] = names(&it.endpoint);
                vec![component, namespace, endpoint, format!("{:x}", it.worker)]
            },
        ));
        families.collect()
    }
}

fn names(endpoint: &EndpointId) -> [String; 3] {
    [
        endpoint.component().to_owned(),
        endpoint.endpoint().to_owned(),
        endpoint.namespace().to_owned(),
    ]
}

fn endpoint_values(it: &EndpointFigures) -> Vec<String> {
    names(&it.endpoint).into()
}

fn published_values(it: &EndpointFigures) -> Vec<String> {
    let [component, endpoint, namespace] = names(&it.endpoint);
    vec![component, namespace, endpoint]
}

/// Those of the workers that report, their ranks together.
fn published(ranks: &[WorkerFigures]) -> Vec<PublishedWorker> {
    let mut workers: BTreeMap<(&EndpointId, u64), Load> = BTreeMap::new();
    for rank in ranks {
        if let Some(load) = &rank.load {
            let sum = workers.entry((&rank.endpoint, rank.worker)).or_default();
            *sum = sum.plus(load);
        }
    }
    let workers = workers.into_iter();
    workers
        .map(|((endpoint, worker), load)| PublishedWorker {
            endpoint: endpoint.clone(),
            worker,
            load,
        })
        .collect()
}

#[cfg(test)]
mod tests;
