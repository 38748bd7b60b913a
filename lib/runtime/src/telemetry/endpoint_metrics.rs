//! The metrics that every served endpoint has, under their published names
//! (`dynamo_component_*`).
//!
//! One [`EndpointMetrics`] per served endpoint, registered once. A request is accounted through
//! its [`RequestInFlight`], so that what began is also seen to end, however it ends.

use super::metrics::MetricsError;
use super::own_labels::OwnLabels;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts};
use tokio::time::Instant;

/// Bounds of the request durations in seconds, from a cached embedding to a long answer.
const DURATION_BUCKETS: [f64; 16] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
];

/// Which endpoint of which process.
#[derive(Debug, Clone, Copy)]
pub struct EndpointLabels<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// The component.
    pub component: &'a str,
    /// The endpoint.
    pub endpoint: &'a str,
    /// The worker, as the hexadecimal number of its instance.
    pub worker_id: &'a str,
    /// What whoever serves it adds.
    pub own: &'a OwnLabels,
}

/// Where a request failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// The request's payload cannot be read.
    Deserialization,
    /// The request's frame cannot be read.
    InvalidMessage,
    /// The way back to the caller cannot be opened.
    ResponseStream,
    /// The engine failed.
    Generate,
    /// The answer cannot be written down.
    Serialization,
    /// An item cannot be sent.
    PublishResponse,
    /// The end of the answer cannot be sent.
    PublishFinal,
}

/// Metrics of one served endpoint. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct EndpointMetrics {
    requests: IntCounter,
    request_bytes: IntCounter,
    response_bytes: IntCounter,
    inflight: IntGauge,
    duration: Histogram,
    errors: IntCounterVec,
    cancellations: IntCounter,
    uptime: Gauge,
    started: Instant,
    own: OwnLabels,
}

/// A request in flight: counted until it is dropped.
#[derive(Debug)]
pub struct RequestInFlight {
    metrics: EndpointMetrics,
    began: Instant,
}

// === impl ErrorType ===

impl ErrorType {
    const ALL: [Self; 7] = [
        Self::Deserialization,
        Self::InvalidMessage,
        Self::ResponseStream,
        Self::Generate,
        Self::Serialization,
        Self::PublishResponse,
        Self::PublishFinal,
    ];

    /// The value of the label `error_type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deserialization => "deserialization",
            Self::InvalidMessage => "invalid_message",
            Self::ResponseStream => "response_stream",
            Self::Generate => "generate",
            Self::Serialization => "serialization",
            Self::PublishResponse => "publish_response",
            Self::PublishFinal => "publish_final",
        }
    }
}

// === impl EndpointMetrics ===

impl EndpointMetrics {
    /// Metrics of an endpoint that begins to be served now.
    pub fn new(labels: &EndpointLabels<'_>) -> Result<Self, MetricsError> {
        let opts = |name: &str, help: &str| labels.opts(name, help);
        let errors = IntCounterVec::new(
            opts("errors_total", "Requests that failed, by where."),
            &["error_type"],
        )?;
        for kind in ErrorType::ALL {
            // A series that exists from the start shows its first error as a rise.
            errors.with_label_values(&[kind.as_str()]).reset();
        }
        Ok(Self {
            requests: IntCounter::with_opts(opts("requests_total", "Requests taken."))?,
            request_bytes: IntCounter::with_opts(opts(
                "request_bytes_total",
                "Bytes of the requests taken.",
            ))?,
            response_bytes: IntCounter::with_opts(opts(
                "response_bytes_total",
                "Bytes of the answers sent.",
            ))?,
            inflight: IntGauge::with_opts(opts("inflight_requests", "Requests being served."))?,
            duration: Histogram::with_opts(HistogramOpts {
                common_opts: opts(
                    "request_duration_seconds",
                    "From taking a request to its end.",
                ),
                buckets: DURATION_BUCKETS.to_vec(),
            })?,
            errors,
            cancellations: IntCounter::with_opts(opts(
                "cancellation_total",
                "Requests that their callers cancelled.",
            ))?,
            uptime: Gauge::with_opts(opts(
                "uptime_seconds",
                "How long the endpoint has been served.",
            ))?,
            started: Instant::now(),
            own: labels.own.clone(),
        })
    }

    /// Counts a request that is taken.
    pub fn begin(&self, request_bytes: usize) -> RequestInFlight {
        self.requests.inc();
        self.request_bytes.inc_by(request_bytes as u64);
        self.inflight.inc();
        RequestInFlight {
            metrics: self.clone(),
            began: Instant::now(),
        }
    }

    /// Counts a failure; also of what never became a request.
    pub fn failed(&self, kind: ErrorType) {
        self.errors.with_label_values(&[kind.as_str()]).inc();
    }

    fn collectors(&self) -> [&dyn Collector; 8] {
        [
            &self.requests,
            &self.request_bytes,
            &self.response_bytes,
            &self.inflight,
            &self.duration,
            &self.errors,
            &self.cancellations,
            &self.uptime,
        ]
    }
}

impl Collector for EndpointMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let all = self.collectors();
        all.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.uptime.set(self.started.elapsed().as_secs_f64());
        let all = self.collectors();
        let mut families: Vec<_> = all.into_iter().flat_map(Collector::collect).collect();
        self.own.add_to(&mut families);
        families
    }
}

// === impl EndpointLabels ===

impl EndpointLabels<'_> {
    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help)
            .namespace("dynamo")
            .subsystem("component")
            .const_label("dynamo_namespace", self.namespace)
            .const_label("dynamo_component", self.component)
            .const_label("dynamo_endpoint", self.endpoint)
            .const_label("worker_id", self.worker_id)
    }
}

// === impl RequestInFlight ===

impl RequestInFlight {
    /// Counts bytes of the answer.
    pub fn sent(&self, response_bytes: usize) {
        self.metrics.response_bytes.inc_by(response_bytes as u64);
    }

    /// Counts a failure.
    pub fn failed(&self, kind: ErrorType) {
        self.metrics.failed(kind);
    }

    /// Counts a cancellation by the caller.
    pub fn cancelled(&self) {
        self.metrics.cancellations.inc();
    }
}

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.metrics.inflight.dec();
        let seconds = self.began.elapsed().as_secs_f64();
        self.metrics.duration.observe(seconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::MetricsRegistry;

    fn metrics(endpoint: &str) -> EndpointMetrics {
        labelled(endpoint, &[])
    }

    fn labelled(endpoint: &str, own: &[(&str, &str)]) -> EndpointMetrics {
        let own = own
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()));
        EndpointMetrics::new(&EndpointLabels {
            namespace: "dynamo",
            component: "backend",
            endpoint,
            worker_id: "7f",
            own: &OwnLabels::new(own.collect()).unwrap(),
        })
        .unwrap()
    }

    #[tokio::test]
    async fn a_request_is_counted_from_its_beginning_to_its_end() {
        let registry = MetricsRegistry::new();
        let endpoint = metrics("generate");
        registry.register(endpoint.clone()).unwrap();
        let labels = "{dynamo_component=\"backend\",dynamo_endpoint=\"generate\",\
                      dynamo_namespace=\"dynamo\",worker_id=\"7f\"}";
        let shows = |name: &str, value: &str| {
            let line = format!("dynamo_component_{name}{labels} {value}\n");
            assert!(
                registry.encode().contains(&line),
                "{line}{}",
                registry.encode()
            );
        };
        let request = endpoint.begin(100);
        request.sent(40);
        request.sent(2);
        shows("requests_total", "1");
        shows("inflight_requests", "1");
        shows("request_duration_seconds_count", "0");
        request.cancelled();
        request.failed(ErrorType::Generate);
        drop(request);
        shows("inflight_requests", "0");
        shows("request_bytes_total", "100");
        shows("response_bytes_total", "42");
        shows("request_duration_seconds_count", "1");
        shows("cancellation_total", "1");
        let text = registry.encode();
        assert!(
            text.contains("error_type=\"generate\",worker_id=\"7f\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("error_type=\"publish_final\",worker_id=\"7f\"} 0\n"),
            "{text}"
        );
        assert!(text.contains("dynamo_component_uptime_seconds{"), "{text}");
    }

    #[tokio::test]
    async fn labels_of_its_own_stand_on_an_endpoints_series_and_on_no_others() {
        let registry = MetricsRegistry::new();
        registry.register(metrics("generate")).unwrap();
        let own = [("team", "a \"b\""), ("dc", "x")];
        registry.register(labelled("embed", &own)).unwrap();
        let text = registry.encode();
        let expected = "dynamo_component_requests_total{dc=\"x\",dynamo_component=\"backend\",\
                        dynamo_endpoint=\"embed\",dynamo_namespace=\"dynamo\",\
                        team=\"a \\\"b\\\"\",worker_id=\"7f\"} 0\n";
        assert!(text.contains(expected), "{text}");
        let other = "dynamo_component_requests_total{dynamo_component=\"backend\",\
                     dynamo_endpoint=\"generate\",dynamo_namespace=\"dynamo\",worker_id=\"7f\"} 0\n";
        assert!(text.contains(other), "{text}");
        registry.unregister(labelled("embed", &own)).unwrap();
        assert!(!registry.encode().contains("team="));
    }

    #[tokio::test]
    async fn endpoints_of_one_process_stand_beside_each_other() {
        let registry = MetricsRegistry::new();
        registry.register(metrics("generate")).unwrap();
        registry.register(metrics("clear_kv_blocks")).unwrap();
        assert!(registry.register(metrics("generate")).is_err());
        let text = registry.encode();
        let series = text.matches("dynamo_component_requests_total{").count();
        assert_eq!(series, 2, "{text}");
    }
}
