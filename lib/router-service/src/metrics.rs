//! What the HTTP interface counts.

use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

/// See the module's description.
#[derive(Debug, Clone)]
pub(crate) struct ServiceMetrics {
    requests: IntCounterVec,
    pub(crate) reservations: IntGauge,
    pub(crate) expired: IntCounter,
}

impl ServiceMetrics {
    pub(crate) fn new(registry: &MetricsRegistry) -> Result<Self, MetricsError> {
        let metrics = Self {
            requests: IntCounterVec::new(
                Opts::new(
                    "dynamo_router_service_requests_total",
                    "Requests to the router's HTTP interface",
                ),
                &["route", "status"],
            )?,
            reservations: IntGauge::new(
                "dynamo_router_service_reservations",
                "Reservations that are held",
            )?,
            expired: IntCounter::new(
                "dynamo_router_service_expired_reservations_total",
                "Reservations that ended because nothing was heard of their requests",
            )?,
        };
        registry.register(metrics.requests.clone())?;
        registry.register(metrics.reservations.clone())?;
        registry.register(metrics.expired.clone())?;
        Ok(metrics)
    }

    /// Counts an answer. The route is one of ours, never the client's text.
    pub(crate) fn answered(&self, route: &str, status: u16) {
        let labels = [route, &status.to_string()];
        self.requests.with_label_values(&labels).inc();
    }
}
