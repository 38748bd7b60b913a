//! What one request adds to the metrics, from its beginning to its end.
//!
//! A request that is dropped before it ended was cancelled: its client went away.

use super::{FrontendMetrics, NO_MODEL};
use dynamo_protocols::error::{Blame, ErrorCode, RequestError};
use dynamo_protocols::openai::Usage;
use prometheus::{Histogram, IntGauge};
use tokio::time::Instant;

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
    inflight: IntGauge,
    active: IntGauge,
    queued: IntGauge,
    first_token: Histogram,
    inter_token: Histogram,
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
        let label = &[model];
        self.started
            .with_label_values(&[model, kind.endpoint, kind.request_type()])
            .inc();
        let request = RequestMetrics {
            metrics: self.clone(),
            kind,
            model: model.to_owned(),
            began,
            last_output: None,
            inflight: self.inflight.with_label_values(label),
            active: self.active.with_label_values(label),
            queued: self.queued.with_label_values(label),
            first_token: self.first_token.with_label_values(label),
            inter_token: self.inter_token.with_label_values(label),
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
        self.requests
            .with_label_values(&[
                model,
                kind.endpoint,
                kind.request_type(),
                "error",
                error_type(error.code),
            ])
            .inc();
        self.failures
            .with_label_values(&[error.code.blame().as_str(), error.code.as_str()])
            .inc();
        if error.code.blame() == Blame::Capacity {
            self.rejected
                .with_label_values(&[model, kind.endpoint])
                .inc();
        }
    }
}

impl RequestMetrics {
    /// The engine gave `tokens` more tokens.
    pub(crate) fn output(&mut self, tokens: u32) {
        if tokens == 0 {
            return;
        }
        let now = Instant::now();
        match self.last_output.replace(now) {
            None => {
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
    }

    /// The token counts so far.
    pub(crate) fn usage(&mut self, usage: Usage) {
        self.usage = usage;
    }

    /// The answer is complete.
    pub(crate) fn succeed(&mut self) {
        let RequestKind { endpoint, .. } = self.kind;
        let labels = [
            &self.model,
            endpoint,
            self.kind.request_type(),
            "success",
            "",
        ];
        self.metrics.requests.with_label_values(&labels).inc();
        self.end();
    }

    /// The request failed.
    pub(crate) fn fail(&mut self, error: &RequestError) {
        self.metrics.count_failure(self.kind, &self.model, error);
        self.end();
    }

    fn end(&mut self) {
        self.ended = true;
        let (metrics, label) = (&self.metrics, &[&self.model]);
        let elapsed = self.began.elapsed().as_secs_f64();
        metrics.duration.with_label_values(label).observe(elapsed);
        if self.kind.endpoint == "embeddings" {
            metrics.embedding.with_label_values(label).observe(elapsed);
        }
        let usage = self.usage;
        if usage.prompt_tokens == 0 {
            return;
        }
        let cached = usage.prompt_tokens_details.cached_tokens;
        for (histogram, count) in [
            (&metrics.input_tokens, usage.prompt_tokens),
            (&metrics.cached_tokens, cached),
            (&metrics.output_tokens, usage.completion_tokens),
        ] {
            histogram.with_label_values(label).observe(count as f64);
        }
        metrics
            .output_tokens_total
            .with_label_values(label)
            .inc_by(usage.completion_tokens);
    }
}

impl Drop for RequestMetrics {
    fn drop(&mut self) {
        if !self.ended {
            let labels = [&self.model, self.kind.endpoint, self.kind.request_type()];
            self.metrics.cancelled.with_label_values(&labels).inc();
            self.metrics.disconnected.inc();
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
fn error_type(code: ErrorCode) -> &'static str {
    match (code, code.status()) {
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
