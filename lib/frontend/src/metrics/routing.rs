//! What routers do, read from them when the metrics are asked for: requests pay nothing for it.
//! `docs/reference/router-metrics.md` lists the figures; a test compares.

use dynamo_llm::registry::ModelRegistry;
use dynamo_routing::WorkerRouter;
use dynamo_routing::figures::{Figures, WorkerFigures};
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;
use std::sync::Arc;

/// What the names begin with.
const PREFIX: &str = "dynamo_router";

use MetricType::{COUNTER, GAUGE};

/// Name, kind, meaning and source of a figure.
type Figure<T> = (&'static str, MetricType, &'static str, fn(&T) -> f64);

/// What each router has one of.
const FIGURES: &[Figure<Figures>] = &[
    (
        "workers",
        GAUGE,
        "Workers to choose from, each data-parallel rank by itself",
        |it| it.workers.len() as f64,
    ),
    (
        "telling_workers",
        GAUGE,
        "Workers that tell what their caches hold",
        |it| it.telling as f64,
    ),
    (
        "queue_pending_requests",
        GAUGE,
        "Requests that wait for a worker",
        |it| it.waiting_requests as f64,
    ),
    (
        "queue_pending_tokens",
        GAUGE,
        "Uncached prompt tokens of requests that wait for a worker",
        |it| it.waiting_tokens as f64,
    ),
    (
        "requests_total",
        COUNTER,
        "Requests that were routed",
        |it| it.totals.requests as f64,
    ),
    (
        "short_prompts_total",
        COUNTER,
        "Requests with a prompt shorter than a block",
        |it| it.totals.short_prompts as f64,
    ),
    (
        "prompt_tokens_total",
        COUNTER,
        "Prompt tokens that were routed",
        |it| it.totals.prompt_tokens as f64,
    ),
    (
        "predicted_tokens_total",
        COUNTER,
        "Prompt tokens expected in the chosen worker's cache",
        |it| it.totals.predicted_tokens as f64,
    ),
    (
        "reachable_tokens_total",
        COUNTER,
        "Prompt tokens in the cache of the best placed worker",
        |it| it.totals.reachable_tokens as f64,
    ),
    (
        "infinite_tokens_total",
        COUNTER,
        "Prompt tokens that a cache that forgets nothing would have had",
        |it| it.totals.infinite_tokens as f64,
    ),
    (
        "served_prompt_tokens_total",
        COUNTER,
        "Prompt tokens of requests whose engine told what it had cached",
        |it| it.totals.served_prompt_tokens as f64,
    ),
    (
        "cached_tokens_total",
        COUNTER,
        "Prompt tokens that engines found in their caches",
        |it| it.totals.cached_tokens as f64,
    ),
    (
        "unexpected_tokens_total",
        COUNTER,
        "Prompt tokens found in caches and not expected there",
        |it| it.totals.unexpected_tokens as f64,
    ),
    (
        "missing_tokens_total",
        COUNTER,
        "Prompt tokens expected in caches and not found there",
        |it| it.totals.missing_tokens as f64,
    ),
    (
        "index_blocks",
        GAUGE,
        "KV blocks that workers hold, each counted for every worker",
        |it| it.index.blocks as f64,
    ),
    (
        "index_distinct_blocks",
        GAUGE,
        "KV blocks that somebody holds",
        |it| it.index.distinct_blocks as f64,
    ),
    (
        "index_bytes",
        GAUGE,
        "Memory of the index of KV blocks",
        |it| it.index.bytes as f64,
    ),
    (
        "stored_blocks_total",
        COUNTER,
        "KV blocks that workers told to have stored",
        |it| it.index.counters.stored as f64,
    ),
    (
        "duplicate_blocks_total",
        COUNTER,
        "KV blocks told to be stored that were known to be",
        |it| it.index.counters.duplicate as f64,
    ),
    (
        "removed_blocks_total",
        COUNTER,
        "KV blocks that workers told to have removed",
        |it| it.index.counters.removed as f64,
    ),
    (
        "unknown_removed_blocks_total",
        COUNTER,
        "KV blocks told to be removed that were not known",
        |it| it.index.counters.unknown_removed as f64,
    ),
    (
        "orphan_events_total",
        COUNTER,
        "Stored events whose parent nobody held",
        |it| it.index.counters.orphan_stores as f64,
    ),
    (
        "refused_blocks_total",
        COUNTER,
        "KV blocks that the index had no room for",
        |it| it.index.counters.refused as f64,
    ),
    (
        "inconsistent_events_total",
        COUNTER,
        "Stored events whose hashes do not chain",
        |it| it.index.counters.inconsistent as f64,
    ),
    (
        "events_total",
        COUNTER,
        "Pieces of news heard of workers",
        |it| it.news.events as f64,
    ),
    (
        "event_snapshots_total",
        COUNTER,
        "Snapshots heard of workers",
        |it| it.news.snapshots as f64,
    ),
    (
        "malformed_events_total",
        COUNTER,
        "Pieces of news that could not be read",
        |it| it.news.malformed as f64,
    ),
    (
        "lost_publishers_total",
        COUNTER,
        "Times that a worker's news broke off",
        |it| it.news.losses as f64,
    ),
    (
        "replicas",
        GAUGE,
        "Other replicas of the router that are heard",
        |it| it.replicas.peers as f64,
    ),
    (
        "replica_changes_told_total",
        COUNTER,
        "Changes of bookings told to other replicas",
        |it| it.replicas.told as f64,
    ),
    (
        "replica_changes_heard_total",
        COUNTER,
        "Changes of bookings heard of other replicas",
        |it| it.replicas.heard as f64,
    ),
    (
        "replica_malformed_news_total",
        COUNTER,
        "Pieces of other replicas' news that could not be read",
        |it| it.replicas.malformed as f64,
    ),
    (
        "replica_losses_total",
        COUNTER,
        "Times that another replica's news broke off",
        |it| it.replicas.losses as f64,
    ),
    (
        "other_block_size_workers",
        GAUGE,
        "Ranks whose KV blocks have another size than the router's: their events find nothing",
        |it| {
            let others = it.workers.iter();
            let others = others.filter(|worker| {
                let size = worker.load.block_size;
                size != 0 && size != it.block_size
            });
            others.count() as f64
        },
    ),
    (
        "event_lag_seconds",
        GAUGE,
        "Age of the last event when it was heard",
        |it| it.news.lag_ms as f64 / 1e3,
    ),
];

/// What each data-parallel rank of each worker has one of.
const WORKER_FIGURES: &[Figure<WorkerFigures>] = &[
    (
        "worker_active_requests",
        GAUGE,
        "Requests in flight on a worker",
        |it| f64::from(it.requests),
    ),
    (
        "worker_active_prefill_tokens",
        GAUGE,
        "Prompt tokens that a worker has to compute before the first tokens",
        |it| it.prefill_tokens as f64,
    ),
    (
        "worker_active_decode_blocks",
        GAUGE,
        "KV blocks that a worker's requests use",
        |it| it.active_blocks as f64,
    ),
    (
        "worker_cached_blocks",
        GAUGE,
        "KV blocks that a worker holds, by its events",
        |it| it.cached_blocks as f64,
    ),
    (
        "worker_used_blocks",
        GAUGE,
        "KV blocks in use, as the worker says",
        |it| it.load.used_blocks as f64,
    ),
    (
        "worker_total_blocks",
        GAUGE,
        "KV blocks in all, as the worker says",
        |it| it.load.total_blocks as f64,
    ),
];

/// Routers with the names of their models.
type NamedRouters = Vec<(Arc<str>, Arc<WorkerRouter>)>;

/// The figures of every router that is there when they are asked for.
struct RouterFigures<L> {
    list: L,
    descriptions: Vec<Desc>,
}

/// Shows the routers of what is in `models`.
pub(crate) fn show_routers(
    registry: &MetricsRegistry,
    models: ModelRegistry,
) -> Result<(), MetricsError> {
    show_routers_of(registry, move || {
        let models = models.list().into_iter();
        let routed = models.filter_map(|(name, model)| Some((name, model.router.clone()?)));
        routed.collect()
    })
}

/// Shows the routers that `list` answers, with the names of their models.
pub fn show_routers_of(
    registry: &MetricsRegistry,
    list: impl Fn() -> NamedRouters + Send + Sync + 'static,
) -> Result<(), MetricsError> {
    let describe = |name: &str, help: &str, labels: &[&str]| {
        let labels = labels.iter().map(|it| (*it).to_owned()).collect();
        Desc::new(
            format!("{PREFIX}_{name}"),
            help.to_owned(),
            labels,
            HashMap::new(),
        )
    };
    let routers = FIGURES.iter().map(|it| describe(it.0, it.2, ROUTER_LABELS));
    let workers = WORKER_FIGURES
        .iter()
        .map(|it| describe(it.0, it.2, WORKER_LABELS));
    let descriptions = routers.chain(workers).collect::<Result<_, _>>()?;
    registry.register(RouterFigures { list, descriptions })
}

const ROUTER_LABELS: &[&str] = &["mode", "model"];
const WORKER_LABELS: &[&str] = &["dp_rank", "model", "worker_id"];

impl<L: Fn() -> NamedRouters + Send + Sync> Collector for RouterFigures<L> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let routers: Vec<(Arc<str>, Figures)> = (self.list)()
            .into_iter()
            .map(|(name, router)| (name, router.figures()))
            .collect();
        if routers.is_empty() {
            return Vec::new();
        }
        let of_routers = FIGURES.iter().map(|(name, kind, help, figure)| {
            let series = routers.iter().map(|(model, figures)| {
                let labels = [("mode", figures.mode.as_str()), ("model", model)];
                metric(*kind, &labels, figure(figures))
            });
            family(name, *kind, help, series.collect())
        });
        let of_workers = WORKER_FIGURES.iter().map(|(name, kind, help, figure)| {
            let series = routers.iter().flat_map(|(model, figures)| {
                figures.workers.iter().map(move |worker| {
                    let rank = worker.worker.dp_rank.to_string();
                    let instance = worker.worker.instance.to_string();
                    let labels = [
                        ("dp_rank", &*rank),
                        ("model", &**model),
                        ("worker_id", &*instance),
                    ];
                    metric(*kind, &labels, figure(worker))
                })
            });
            family(name, *kind, help, series.collect())
        });
        of_routers.chain(of_workers).collect()
    }
}

fn family(name: &str, kind: MetricType, help: &str, series: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(format!("{PREFIX}_{name}"));
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(series);
    family
}

fn metric(kind: MetricType, labels: &[(&str, &str)], value: f64) -> Metric {
    let labels = labels.iter().map(|(name, value)| {
        let mut label = LabelPair::default();
        label.set_name((*name).to_owned());
        label.set_value((*value).to_owned());
        label
    });
    let mut metric = Metric::from_label(labels.collect());
    if kind == COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = include_str!("../../../../docs/reference/router-metrics.md");

    fn rows() -> Vec<String> {
        let row = |name: &str, kind: MetricType, labels: &[&str], help: &str| {
            let kind = if kind == COUNTER { "counter" } else { "gauge" };
            format!(
                "| `{PREFIX}_{name}` | {kind} | {} | {help} |",
                labels.join(", ")
            )
        };
        let routers = FIGURES
            .iter()
            .map(|it| row(it.0, it.1, ROUTER_LABELS, it.2));
        let workers = WORKER_FIGURES
            .iter()
            .map(|it| row(it.0, it.1, WORKER_LABELS, it.2));
        routers.chain(workers).collect()
    }

    #[test]
    fn the_page_lists_every_figure_and_no_other() {
        let listed = PAGE.lines().filter(|line| line.starts_with("| `"));
        assert_eq!(
            listed.collect::<Vec<_>>(),
            rows(),
            "\n{}\n",
            rows().join("\n")
        );
    }

    #[test]
    fn without_routers_there_is_nothing_to_show() {
        let registry = MetricsRegistry::new();
        show_routers(&registry, ModelRegistry::new()).unwrap();
        assert_eq!(registry.encode(), "");
    }
}
