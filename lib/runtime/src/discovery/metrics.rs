//! What a process tells of its discovery backend's state.

use super::view::View;
use crate::telemetry::MetricsError;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};

/// Figures of one process's discovery. Cheap to clone; clones are the same figures.
#[derive(Debug, Clone)]
pub struct DiscoveryMetrics {
    stale: IntGauge,
    announced: IntGauge,
    /// Connections to the backend that were made in place of lost ones.
    pub reconnects: IntCounter,
    /// Leases that ended against this process's will.
    pub leases_lost: IntCounter,
    /// Entries of the backend that are no records.
    pub skipped: IntCounter,
}

// === impl DiscoveryMetrics ===

impl DiscoveryMetrics {
    /// Figures at zero.
    pub fn new() -> Result<Self, MetricsError> {
        Ok(Self {
            stale: IntGauge::new(
                "dynamo_discovery_stale",
                "1 while the view of the living processes may be outdated: the discovery backend \
                 is out of reach, or was so recently that not all may have announced themselves again.",
            )?,
            announced: IntGauge::new(
                "dynamo_discovery_announced",
                "1 while the discovery backend holds what this process announced last.",
            )?,
            reconnects: IntCounter::new(
                "dynamo_discovery_reconnects_total",
                "Connections to the discovery backend that replaced lost ones.",
            )?,
            leases_lost: IntCounter::new(
                "dynamo_discovery_leases_lost_total",
                "Leases of this process that ended and had to be taken anew.",
            )?,
            skipped: IntCounter::new(
                "dynamo_discovery_skipped_entries_total",
                "Entries found in the discovery backend that are no records of processes.",
            )?,
        })
    }

    /// Takes over what a watcher would see.
    pub fn see(&self, view: &View) {
        self.stale.set(i64::from(view.stale_since().is_some()));
    }

    /// Nobody watches: there is no view that could be outdated.
    pub fn unwatched(&self) {
        self.stale.set(0);
    }

    /// Whether the backend holds what was announced last.
    pub fn set_announced(&self, announced: bool) {
        self.announced.set(i64::from(announced));
    }

    fn all(&self) -> [&dyn Collector; 5] {
        [
            &self.stale,
            &self.announced,
            &self.reconnects,
            &self.leases_lost,
            &self.skipped,
        ]
    }
}

impl Collector for DiscoveryMetrics {
    fn desc(&self) -> Vec<&Desc> {
        self.all().into_iter().flat_map(|one| one.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.all()
            .into_iter()
            .flat_map(|one| one.collect())
            .collect()
    }
}
