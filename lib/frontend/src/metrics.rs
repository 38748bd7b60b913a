//! The frontend's metrics, under the names, labels and buckets of the published system, so that
//! dashboards made for it work.

mod request;

pub(crate) use request::{RequestKind, RequestMetrics};

use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
};

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
    requests: IntCounterVec,
    started: IntCounterVec,
    failures: IntCounterVec,
    inflight: IntGaugeVec,
    active: IntGaugeVec,
    queued: IntGaugeVec,
    disconnected: IntGauge,
    duration: HistogramVec,
    input_tokens: HistogramVec,
    cached_tokens: HistogramVec,
    output_tokens: HistogramVec,
    output_tokens_total: IntCounterVec,
    first_token: HistogramVec,
    inter_token: HistogramVec,
    embedding: HistogramVec,
    cancelled: IntCounterVec,
    rejected: IntCounterVec,
    connections: IntGauge,
    connections_refused: IntCounter,
}

impl FrontendMetrics {
    /// Registers the metrics under names that begin with `prefix`.
    pub fn new(registry: &MetricsRegistry, prefix: &str) -> Result<Self, MetricsError> {
        let by = Declare { registry, prefix };
        Ok(Self {
            requests: by.counters(
                "requests_total",
                "Requests that ended",
                &["model", "endpoint", "request_type", "status", "error_type"],
            )?,
            started: by.counters(
                "requests_started_total",
                "Requests that began",
                &["model", "endpoint", "request_type"],
            )?,
            failures: by.counters(
                "failures_total",
                "Requests that failed, by who has to act and why",
                &["class", "reason"],
            )?,
            inflight: by.gauges("inflight_requests", "Requests that began and did not end")?,
            active: by.gauges("active_requests", "Requests that had their first output")?,
            queued: by.gauges(
                "queued_requests",
                "Requests that wait for their first output",
            )?,
            disconnected: by.gauge(
                "disconnected_clients",
                "Clients that went away before their answer was complete",
            )?,
            duration: by.histograms("request_duration_seconds", "Time per request", DURATION)?,
            input_tokens: by.histograms(
                "input_sequence_tokens",
                "Tokens of the prompts of a request",
                INPUT_TOKENS,
            )?,
            cached_tokens: by.histograms(
                "cached_tokens",
                "Prompt tokens of a request that came from the KV cache",
                INPUT_TOKENS,
            )?,
            output_tokens: by.histograms(
                "output_sequence_tokens",
                "Generated tokens of a request",
                OUTPUT_TOKENS,
            )?,
            output_tokens_total: by.counters(
                "output_tokens_total",
                "Generated tokens",
                &["model"],
            )?,
            first_token: by.histograms(
                "time_to_first_token_seconds",
                "Time from a request to its first output",
                FIRST_TOKEN,
            )?,
            inter_token: by.histograms(
                "inter_token_latency_seconds",
                "Time per token after the first output",
                INTER_TOKEN,
            )?,
            embedding: by.histograms(
                "embedding_latency_seconds",
                "Time per embedding request",
                FIRST_TOKEN,
            )?,
            cancelled: by.counters(
                "model_cancellation_total",
                "Requests whose client went away",
                &["model", "endpoint", "request_type"],
            )?,
            rejected: by.counters(
                "model_rejection_total",
                "Requests refused because a bound was reached",
                &["model", "endpoint"],
            )?,
            connections: by.gauge("open_connections", "Open connections")?,
            connections_refused: by.counter(
                "failed_connections_total",
                "Connections that ended with an error, such as a timeout",
            )?,
        })
    }

    /// Counts a connection for as long as the guard lives.
    pub(crate) fn connection(&self) -> ConnectionMetrics {
        self.connections.inc();
        ConnectionMetrics(self.clone())
    }
}

/// An open connection.
#[derive(Debug)]
pub(crate) struct ConnectionMetrics(FrontendMetrics);

impl ConnectionMetrics {
    /// The connection ended with an error.
    pub(crate) fn failed(&self) {
        self.0.connections_refused.inc();
    }
}

impl Drop for ConnectionMetrics {
    fn drop(&mut self) {
        self.0.connections.dec();
    }
}

/// Declares metrics in one registry under one prefix.
struct Declare<'a> {
    registry: &'a MetricsRegistry,
    prefix: &'a str,
}

impl Declare<'_> {
    fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(format!("{}_{name}", self.prefix), help)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        let counter = IntCounter::with_opts(self.options(name, help))?;
        self.registry.register(counter.clone())?;
        Ok(counter)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        let counters = IntCounterVec::new(self.options(name, help), labels)?;
        self.registry.register(counters.clone())?;
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        let gauge = IntGauge::with_opts(self.options(name, help))?;
        self.registry.register(gauge.clone())?;
        Ok(gauge)
    }

    fn gauges(&self, name: &str, help: &str) -> Result<IntGaugeVec, MetricsError> {
        let gauges = IntGaugeVec::new(self.options(name, help), &["model"])?;
        self.registry.register(gauges.clone())?;
        Ok(gauges)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        let name = format!("{}_{name}", self.prefix);
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histograms = HistogramVec::new(options, &["model"])?;
        self.registry.register(histograms.clone())?;
        Ok(histograms)
    }
}
