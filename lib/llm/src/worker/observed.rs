//! What a worker tells of the requests it serves: a span in the caller's trace, and the metrics
//! of the endpoint.
//!
//! It stands around a handler of bytes and changes nothing of what passes through, but the parent
//! that the engine sees: it is the worker's own span. Requests that end with neither their last
//! item nor an error were cancelled by their caller.

use super::canary::CanaryOptions;
use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::Environment;
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::request_plane::{Handler, IncomingRequest, Item, ItemStream, RequestHeader};
use dynamo_runtime::telemetry::endpoint_metrics::{EndpointLabels, RequestInFlight};
use dynamo_runtime::telemetry::spans::request_plane;
use dynamo_runtime::telemetry::{
    EndpointMetrics, ErrorType, MetricsError, MetricsRegistry, OwnLabels, Sampler, TraceContext,
};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use tracing::{Instrument, Span};

/// Where a worker tells what it does.
#[derive(Debug, Clone)]
pub struct WorkerTelemetry {
    /// The process's metrics.
    pub metrics: MetricsRegistry,
    /// Which of the traces that begin at the worker are recorded.
    pub sampler: Sampler,
    /// What it tells of its cache and its load.
    pub news: NewsOptions,
    /// How it finds out whether its engine works.
    pub canary: CanaryOptions,
    /// What its series have besides.
    pub labels: OwnLabels,
}

/// Metrics of an endpoint, shown until this is dropped: the endpoint may be served again.
#[derive(Debug)]
pub(super) struct Shown {
    registry: MetricsRegistry,
    metrics: EndpointMetrics,
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Err(error) = self.registry.unregister(self.metrics.clone()) {
            tracing::debug!(%error, "an endpoint's metrics were not shown");
        }
    }
}

/// A handler whose requests are seen.
#[derive(Debug)]
pub(super) struct Observed {
    inner: Arc<dyn Handler>,
    environment: Environment,
    sampler: Sampler,
    /// Set when the instance has its id, which is before anybody else knows of it.
    metrics: OnceLock<EndpointMetrics>,
}

/// The answer of an observed handler.
struct ObservedItems {
    items: ItemStream,
    span: Span,
    in_flight: Option<RequestInFlight>,
    ended: bool,
}

// === impl Observed ===

impl Observed {
    pub(super) fn new(
        inner: Arc<dyn Handler>,
        environment: Environment,
        sampler: Sampler,
    ) -> Arc<Self> {
        Arc::new(Self {
            inner,
            environment,
            sampler,
            metrics: OnceLock::new(),
        })
    }

    /// Counts from now on, as this instance.
    pub(super) fn register(
        &self,
        telemetry: &WorkerTelemetry,
        endpoint: &EndpointId,
        instance: InstanceId,
    ) -> Result<Shown, MetricsError> {
        let registry = &telemetry.metrics;
        let metrics = EndpointMetrics::new(&EndpointLabels {
            namespace: endpoint.namespace(),
            component: endpoint.component(),
            endpoint: endpoint.endpoint(),
            worker_id: &instance.to_string(),
            own: &telemetry.labels,
        })?;
        registry.register(metrics.clone())?;
        self.metrics.get_or_init(|| metrics.clone());
        Ok(Shown {
            registry: registry.clone(),
            metrics,
        })
    }

    /// Opens the request's span and makes it the parent of what the engine does.
    fn enter(&self, header: &mut RequestHeader) -> Span {
        let mut context = RequestContext {
            request_id: Arc::clone(&header.request_id),
            attempt: header.attempt,
            traceparent: header.traceparent.take(),
            tracestate: header.tracestate.take(),
            ..RequestContext::default()
        };
        let bits = [0; 3].map(|_: u64| self.environment.random.next_u64());
        let trace = TraceContext::received(&context, bits, self.sampler);
        let span = request_plane(&trace, &header.request_id, &header.endpoint.to_string());
        span.record("instance_id", tracing::field::display(header.instance));
        span.record("attempt", header.attempt);
        trace.stamp(&mut context);
        header.traceparent = context.traceparent;
        header.tracestate = context.tracestate;
        span
    }
}

impl Handler for Observed {
    fn handle(
        &self,
        mut request: IncomingRequest,
    ) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let span = self.enter(&mut request.header);
        let in_flight = self
            .metrics
            .get()
            .map(|metrics| metrics.begin(request.body.len()));
        let within = span.clone();
        let handled = async move {
            tracing::debug!("request taken");
            match self.inner.handle(request).await {
                Ok(items) => Ok(Box::pin(ObservedItems {
                    items,
                    span,
                    in_flight,
                    ended: false,
                }) as ItemStream),
                Err(error) => {
                    tell_failure(&span, in_flight.as_ref(), &error);
                    Err(error)
                }
            }
        };
        Box::pin(handled.instrument(within))
    }
}

// === impl ObservedItems ===

impl Stream for ObservedItems {
    type Item = Result<Item, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let next = std::task::ready!(this.items.as_mut().poll_next(context));
        match &next {
            Some(Ok(item)) => {
                if let Some(in_flight) = &this.in_flight {
                    in_flight.sent(item.payload.len());
                }
            }
            Some(Err(error)) => {
                this.ended = true;
                tell_failure(&this.span, this.in_flight.as_ref(), error);
            }
            None => {
                this.ended = true;
                let _within = this.span.enter();
                tracing::debug!("request served");
            }
        }
        Poll::Ready(next)
    }
}

impl Drop for ObservedItems {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let _within = self.span.enter();
        tracing::debug!("request cancelled");
        if let Some(in_flight) = &self.in_flight {
            in_flight.cancelled();
        }
    }
}

fn tell_failure(span: &Span, in_flight: Option<&RequestInFlight>, error: &RequestError) {
    span.record("error", error.code.as_str());
    let _within = span.enter();
    tracing::debug!(%error, "request failed");
    let kind = match error.code {
        ErrorCode::WorkerProtocol => ErrorType::Deserialization,
        _ => ErrorType::Generate,
    };
    if let Some(in_flight) = in_flight {
        in_flight.failed(kind);
    }
}
