//! Where a request's time goes in this process: the stages of its pipeline, and the tokenizer.
//!
//! Every handle is resolved once per process. A stage that a request leaves by failing counts as
//! left and has no duration: how fast requests fail says nothing about how long the stage takes.

use super::declare::Declare;
use super::tokenizer::TokenizerTimes;
use dynamo_runtime::telemetry::MetricsError;
use prometheus::{Counter, Histogram, IntCounter, IntGauge};
use std::time::Duration;
use tokio::time::Instant;

const STAGE_SECONDS: &[f64] = &[
    0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 2.5, 5.0,
];
const TEMPLATE_SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1];
const TOKENIZE_SECONDS: &[f64] = &[0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
const TOKENIZER_MILLISECONDS: &[f64] = &[
    0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0,
];

/// The phase of workers that do both prefill and decode.
const AGGREGATED: &str = "aggregated";

/// Stages and tokenizer of all requests.
#[derive(Debug)]
pub(super) struct PipelineMetrics {
    /// Checking, rendering and tokenising.
    pub(super) preprocess: Stage,
    /// With the engine, and nothing back yet.
    pub(super) dispatch: Stage,
    template: Histogram,
    tokenize: Histogram,
    tokenize_latency: Histogram,
    detokenize_latency: Histogram,
    detokenize_total: Counter,
    detokenize_tokens: IntCounter,
}

/// One stage of the pipeline.
#[derive(Debug, Clone)]
pub(super) struct Stage {
    requests: IntGauge,
    duration: Histogram,
}

/// A request in a stage; dropping it is leaving the stage.
#[derive(Debug)]
pub(super) struct InStage {
    stage: Stage,
    entered: Instant,
}

// === impl PipelineMetrics ===

impl PipelineMetrics {
    pub(super) fn declare(by: &Declare<'_>) -> Result<Self, MetricsError> {
        let durations = by.histograms(
            "stage_duration_seconds",
            "Time in a stage of the pipeline",
            "stage",
            STAGE_SECONDS,
        )?;
        let requests = by.gauges(
            "stage_requests",
            "Requests in a stage of the pipeline",
            &["stage", "phase"],
        )?;
        let stage = |name: &str, phase: &str| Stage {
            requests: requests.with_label_values(&[name, phase]),
            duration: durations.with_label_values(&[name]),
        };
        let latency = by.histograms(
            "tokenizer_latency_ms",
            "Time in the tokenizer: of a request's prompts, and of an average token of its answer",
            "operation",
            TOKENIZER_MILLISECONDS,
        )?;
        Ok(Self {
            preprocess: stage("preprocess", ""),
            dispatch: stage("dispatch", AGGREGATED),
            template: by.histogram(
                "template_seconds",
                "Time to render a request's chat template",
                TEMPLATE_SECONDS,
            )?,
            tokenize: by.histogram(
                "tokenize_seconds",
                "Time to turn a request's prompts into tokens",
                TOKENIZE_SECONDS,
            )?,
            tokenize_latency: latency.with_label_values(&["tokenize"]),
            detokenize_latency: latency.with_label_values(&["detokenize"]),
            detokenize_total: by.sum(
                "detokenize_total_us",
                "Time to look up the text of tokens of ended requests",
            )?,
            detokenize_tokens: by.counter(
                "detokenize_token_count",
                "Tokens of ended requests whose text was looked up, those of log probabilities \
                 included",
            )?,
        })
    }

    /// A template was rendered for a request.
    pub(super) fn rendered(&self, template: Duration) {
        self.template.observe(template.as_secs_f64());
    }

    /// Counts what a request that has ended spent in the tokenizer.
    pub(super) fn tokenizer(&self, times: &TokenizerTimes) {
        if let Some(encoding) = times.encoding() {
            self.tokenize.observe(encoding.as_secs_f64());
            self.tokenize_latency.observe(milliseconds(encoding));
        }
        let (decoding, tokens) = times.decoding();
        if tokens > 0 {
            self.detokenize_total
                .inc_by(decoding.as_secs_f64() * 1_000_000.0);
            self.detokenize_tokens.inc_by(tokens);
            self.detokenize_latency
                .observe(milliseconds(decoding) / tokens as f64);
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

// === impl Stage ===

impl Stage {
    pub(super) fn enter(&self) -> InStage {
        self.requests.inc();
        InStage {
            stage: self.clone(),
            entered: Instant::now(),
        }
    }
}

// === impl InStage ===

impl InStage {
    /// The request has gone through the stage.
    pub(super) fn complete(self) {
        let elapsed = self.entered.elapsed();
        self.stage.duration.observe(elapsed.as_secs_f64());
    }
}

impl Drop for InStage {
    fn drop(&mut self) {
        self.stage.requests.dec();
    }
}
