//! What one request adds to the metrics, from its beginning to its end.
//!
//! A request that is dropped before it ended was cancelled: its client went away.

use super::pipeline::InStage;
use super::tokenizer::{TokenizerTimes, measured};
use super::{FrontendMetrics, NO_MODEL};
use dynamo_llm::model::ServedModel;
use dynamo_protocols::error::{Blame, ErrorCode, RequestError};
use dynamo_protocols::openai::Usage;
use prometheus::local::LocalHistogram;
use prometheus::{Histogram, IntCounter, IntGauge};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Tokens that a request keeps to itself before it adds them to what all requests count in: every
/// thread writes there, token by token. A stream of 32 tokens a second shows them a second late.
const TOKENS_AT_ONCE: u64 = 32;

/// What kind of request it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestKind {
    /// The endpoint's name in labels.
    pub(crate) endpoint: &'static str,
    /// Whether the answer is a stream.
    pub(crate) stream: bool,
}

/// A request for a model that began.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    metrics: FrontendMetrics,
    kind: RequestKind,
    model: String,
    began: Instant,
    last_output: Option<Instant>,
    /// Where in the pipeline it is, until the engine has given something.
    stage: Option<InStage>,
    tokenizer: Arc<TokenizerTimes>,
    inflight: IntGauge,
    active: IntGauge,
    queued: IntGauge,
    first_token: Histogram,
    inter_token: LocalHistogram,
    output_tokens: IntCounter,
    /// Tokens that `inter_token` and `output_tokens` do not show yet.
    unshown: u64,
    usage: Usage,
    ended: bool,
}

impl RequestKind {
    fn request_type(self) -> &'static str {
        if self.stream { "stream" } else { "unary" }
    }
}

impl FrontendMetrics {
    /// A request that began at `began`, for a model that is served.
    pub(crate) fn begin(&self, kind: RequestKind, model: &str, began: Instant) -> RequestMetrics {
        let (label, requests, tokens) = (&[model], &self.all.requests, &self.all.tokens);
        requests
            .started
            .with_label_values(&[model, kind.endpoint, kind.request_type()])
            .inc();
        let request = RequestMetrics {
            metrics: self.clone(),
            kind,
            model: model.to_owned(),
            began,
            last_output: None,
            stage: Some(self.all.pipeline.preprocess.enter()),
            tokenizer: Arc::default(),
            inflight: requests.inflight.with_label_values(label),
            active: requests.active.with_label_values(label),
            queued: requests.queued.with_label_values(label),
            first_token: tokens.first.with_label_values(label),
            inter_token: tokens.inter.with_label_values(label).local(),
            output_tokens: tokens.output_total.with_label_values(label),
            unshown: 0,
            usage: Usage::default(),
            ended: false,
        };
        request.inflight.inc();
        request.queued.inc();
        request
    }

    /// A request that failed before it was known for which model it is.
    pub(crate) fn refused(&self, kind: RequestKind, error: &RequestError) {
        self.count_failure(kind, NO_MODEL, error);
    }

    fn count_failure(&self, kind: RequestKind, model: &str, error: &RequestError) {
        let requests = &self.all.requests;
        requests
            .ended
            .with_label_values(&[
                model,
                kind.endpoint,
                kind.request_type(),
                "error",
                error_type(error),
            ])
            .inc();
        requests
            .failures
            .with_label_values(&[error.code.blame().as_str(), error.code.as_str()])
            .inc();
        if error.code.blame() == Blame::Capacity {
            requests
                .rejected
                .with_label_values(&[model, kind.endpoint])
                .inc();
        }
    }
}

impl RequestMetrics {
    /// The model as this request is to see it, so that time in the tokenizer counts.
    pub(crate) fn measured(&self, model: &ServedModel) -> Arc<ServedModel> {
        measured(model, &self.tokenizer)
    }

    /// The request is ready for the engine; rendering its template took `template`.
    pub(crate) fn prepared(&mut self, template: Option<Duration>) {
        self.complete_stage();
        if let Some(template) = template {
            self.metrics.all.pipeline.rendered(template);
        }
        self.stage = Some(self.metrics.all.pipeline.dispatch.enter());
    }

    fn complete_stage(&mut self) {
        if let Some(stage) = self.stage.take() {
            stage.complete();
        }
    }

    /// The engine gave `tokens` more tokens.
    pub(crate) fn output(&mut self, tokens: u32) {
        if tokens == 0 {
            return;
        }
        self.unshown += u64::from(tokens);
        let now = Instant::now();
        match self.last_output.replace(now) {
            None => {
                self.complete_stage();
                self.queued.dec();
                self.active.inc();
                self.first_token.observe((now - self.began).as_secs_f64());
            }
            Some(last) => {
                let each = (now - last).as_secs_f64() / f64::from(tokens);
                for _ in 0..tokens {
                    self.inter_token.observe(each);
                }
            }
        }
        if self.unshown >= TOKENS_AT_ONCE {
            self.show_tokens();
        }
    }

    fn show_tokens(&mut self) {
        self.inter_token.flush();
        self.output_tokens.inc_by(std::mem::take(&mut self.unshown));
    }

    /// The token counts so far.
    pub(crate) fn usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// The answer is complete.
    pub(crate) fn succeed(&mut self) {
        self.complete_stage();
        let RequestKind { endpoint, .. } = self.kind;
        let labels = [
            &self.model,
            endpoint,
            self.kind.request_type(),
            "success",
            "",
        ];
        let requests = &self.metrics.all.requests;
        requests.ended.with_label_values(&labels).inc();
        self.end();
    }

    /// The request failed.
    pub(crate) fn fail(&mut self, error: &RequestError) {
        self.metrics.count_failure(self.kind, &self.model, error);
        self.end();
    }

    fn end(&mut self) {
        self.ended = true;
        self.stage = None;
        self.show_tokens();
        let (all, label) = (&self.metrics.all, &[&self.model]);
        let (requests, tokens) = (&all.requests, &all.tokens);
        let elapsed = self.began.elapsed().as_secs_f64();
        requests.duration.with_label_values(label).observe(elapsed);
        if self.kind.endpoint == "embeddings" {
            requests.embedding.with_label_values(label).observe(elapsed);
        }
        all.pipeline.tokenizer(&self.tokenizer);
        let usage = self.usage;
        if usage.prompt_tokens == 0 {
            return;
        }
        let cached = usage.prompt_tokens_details.cached_tokens;
        for (histogram, count) in [
            (&tokens.input, usage.prompt_tokens),
            (&tokens.cached, cached),
            (&tokens.output, usage.completion_tokens),
        ] {
            histogram.with_label_values(label).observe(count as f64);
        }
    }
}

impl Drop for RequestMetrics {
    fn drop(&mut self) {
        if !self.ended {
            let labels = [&self.model, self.kind.endpoint, self.kind.request_type()];
            let requests = &self.metrics.all.requests;
            requests.cancelled.with_label_values(&labels).inc();
            requests.disconnected.inc();
            self.fail(&RequestError::new(
                ErrorCode::ClientClosed,
                "the client went away",
            ));
        }
        self.inflight.dec();
        if self.last_output.is_some() {
            self.active.dec();
        } else {
            self.queued.dec();
        }
    }
}

/// The published class of an error.
fn error_type(error: &RequestError) -> &'static str {
    match (error.code, error.status()) {
        (ErrorCode::UnsupportedParameter, _) => "not_implemented",
        (ErrorCode::NoCapacity, _) | (_, 429) => "overload",
        (_, 404) => "not_found",
        (_, 499) => "cancelled",
        (_, 400..500) => "validation",
        (_, 503) => "unavailable",
        (_, 504) => "response_timeout",
        _ => "internal",
    }
}
