//! The frontend's metrics, under the names, labels and buckets of the published system, so that
//! dashboards made for it work. `docs/reference/metrics.md` lists them; a test compares.
//!
//! What is declared at once is resolved at once. Labels that only a request knows are looked up
//! when it begins and when it ends, never per token.

mod declare;
mod event_loop;
mod models;
mod pipeline;
mod prompt_tokens;
mod request;
mod routing;
mod tokenizer;

pub(crate) use event_loop::EventLoopMetrics;
pub(crate) use models::show_models;
pub(crate) use prompt_tokens::show_prompt_tokens;
pub(crate) use request::{RequestKind, RequestMetrics};
pub(crate) use routing::show_routers;
pub use routing::show_routers_of;

use declare::Declare;
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use pipeline::PipelineMetrics;
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::sync::Arc;

/// The published prefix of all names here.
pub(crate) const DEFAULT_PREFIX: &str = "dynamo_frontend";

/// Label of requests that ended before their model was known.
pub(crate) const NO_MODEL: &str = "unknown";

const DURATION: &[f64] = &[0.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 130.0, 260.0, 510.0];
const INPUT_TOKENS: &[f64] = &[
    0.0, 100.0, 210.0, 430.0, 870.0, 1_800.0, 3_600.0, 7_400.0, 15_000.0, 31_000.0, 63_000.0,
    130_000.0,
];
const OUTPUT_TOKENS: &[f64] = &[
    0.0, 100.0, 210.0, 430.0, 880.0, 1_800.0, 3_700.0, 7_600.0, 16_000.0, 32_000.0,
];
const FIRST_TOKEN: &[f64] = &[
    0.0, 0.0022, 0.0047, 0.01, 0.022, 0.047, 0.1, 0.22, 0.47, 1.0, 2.2, 4.7, 10.0, 22.0, 48.0,
    100.0, 220.0, 480.0,
];
const INTER_TOKEN: &[f64] = &[
    0.0, 0.0018, 0.0033, 0.0059, 0.011, 0.02, 0.035, 0.064, 0.12, 0.21, 0.38, 0.69, 1.2, 2.3, 4.1,
    7.4, 13.0, 24.0, 44.0, 80.0,
];

/// Everything the frontend counts. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct FrontendMetrics {
    all: Arc<Families>,
}

/// The metrics by what they are about.
#[derive(Debug)]
struct Families {
    requests: RequestFamilies,
    tokens: TokenFamilies,
    pipeline: PipelineMetrics,
    event_loop: EventLoopMetrics,
    connections: IntGauge,
    connections_failed: IntCounter,
}

/// Requests: how many, how they ended, how long they took.
#[derive(Debug)]
struct RequestFamilies {
    ended: IntCounterVec,
    started: IntCounterVec,
    failures: IntCounterVec,
    inflight: IntGaugeVec,
    active: IntGaugeVec,
    queued: IntGaugeVec,
    disconnected: IntGauge,
    cancelled: IntCounterVec,
    rejected: IntCounterVec,
    duration: HistogramVec,
    embedding: HistogramVec,
}

/// Tokens: how many, and when they come.
#[derive(Debug)]
struct TokenFamilies {
    input: HistogramVec,
    cached: HistogramVec,
    output: HistogramVec,
    output_total: IntCounterVec,
    first: HistogramVec,
    inter: HistogramVec,
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct ConnectionMetrics(FrontendMetrics);

// === impl FrontendMetrics ===

impl FrontendMetrics {
    /// Registers the metrics under names that begin with `prefix`.
    pub fn new(registry: &MetricsRegistry, prefix: &str) -> Result<Self, MetricsError> {
        let by = Declare { registry, prefix };
        let all = Families {
            requests: RequestFamilies::declare(&by)?,
            tokens: TokenFamilies::declare(&by)?,
            pipeline: PipelineMetrics::declare(&by)?,
            event_loop: EventLoopMetrics::declare(&by)?,
            connections: by.gauge("open_connections", "Open connections")?,
            connections_failed: by.counter(
                "failed_connections_total",
                "Connections that ended with an error, such as a timeout",
            )?,
        };
        Ok(Self { all: Arc::new(all) })
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> ConnectionMetrics {
        self.all.connections.inc();
        ConnectionMetrics(self.clone())
    }

    /// The delays of the event loop.
    pub(crate) fn event_loop(&self) -> EventLoopMetrics {
        self.all.event_loop.clone()
    }
}

// === impl RequestFamilies ===

impl RequestFamilies {
    fn declare(by: &Declare<'_>) -> Result<Self, MetricsError> {
        let kind = ["model", "endpoint", "request_type"];
        let model = &["model"];
        Ok(Self {
            ended: by.counters(
                "requests_total",
                "Requests that ended",
                &["model", "endpoint", "request_type", "status", "error_type"],
            )?,
            started: by.counters("requests_started_total", "Requests that began", &kind)?,
            failures: by.counters(
                "failures_total",
                "Requests that failed, by who has to act and why",
                &["class", "reason"],
            )?,
            inflight: by.gauges(
                "inflight_requests",
                "Requests that began and did not end",
                model,
            )?,
            active: by.gauges(
                "active_requests",
                "Requests that had their first output and did not end",
                model,
            )?,
            queued: by.gauges(
                "queued_requests",
                "Requests that wait for their first output",
                model,
            )?,
            disconnected: by.gauge(
                "disconnected_clients",
                "Clients that went away before their answer was complete",
            )?,
            cancelled: by.counters(
                "model_cancellation_total",
                "Requests whose client went away",
                &kind,
            )?,
            rejected: by.counters(
                "model_rejection_total",
                "Requests refused because a bound was reached",
                &["model", "endpoint"],
            )?,
            duration: by.histograms(
                "request_duration_seconds",
                "Time per request",
                "model",
                DURATION,
            )?,
            embedding: by.histograms(
                "embedding_latency_seconds",
                "Time per embedding request",
                "model",
                FIRST_TOKEN,
            )?,
        })
    }
}

// === impl TokenFamilies ===

impl TokenFamilies {
    fn declare(by: &Declare<'_>) -> Result<Self, MetricsError> {
        let histogram =
            |name: &str, help: &str, buckets| by.histograms(name, help, "model", buckets);
        Ok(Self {
            input: histogram(
                "input_sequence_tokens",
                "Tokens of the prompts of a request",
                INPUT_TOKENS,
            )?,
            cached: histogram(
                "cached_tokens",
                "Prompt tokens of a request that came from the KV cache",
                INPUT_TOKENS,
            )?,
            output: histogram(
                "output_sequence_tokens",
                "Generated tokens of a request",
                OUTPUT_TOKENS,
            )?,
            output_total: by.counters("output_tokens_total", "Generated tokens", &["model"])?,
            first: histogram(
                "time_to_first_token_seconds",
                "Time from a request to its first output",
                FIRST_TOKEN,
            )?,
            inter: histogram(
                "inter_token_latency_seconds",
                "Time per token after the first output",
                INTER_TOKEN,
            )?,
        })
    }
}

// === impl ConnectionMetrics ===

impl ConnectionMetrics {
    /// The connection ended with an error.
    pub(crate) fn failed(&self) {
        self.0.all.connections_failed.inc();
    }
}

impl Drop for ConnectionMetrics {
    fn drop(&mut self) {
        self.0.all.connections.dec();
    }
}
