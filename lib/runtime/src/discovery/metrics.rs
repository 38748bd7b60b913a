//! What a process tells of its discovery backend's state.

use crate::telemetry::MetricsError;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntGauge};
use std::sync::atomic::{AtomicBool, Ordering};

/// Figures of one process's discovery. Cheap to clone; clones are the same figures. A process that
/// is several to the others, such as a simulated fleet, has them once.
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

/// The part of the figures that one discovery handle contributes.
#[derive(Debug)]
pub struct HandleMetrics {
    figures: DiscoveryMetrics,
    stale: AtomicBool,
    announced: AtomicBool,
}

// === impl DiscoveryMetrics ===

impl DiscoveryMetrics {
    /// Figures at zero.
    pub fn new() -> Result<Self, MetricsError> {
        Ok(Self {
            stale: IntGauge::new(
                "dynamo_discovery_stale",
                "1 while the view of the living processes may be outdated (in a fleet of one process: \
                 how many views may be): the discovery backend is out of reach, or was so recently \
                 that not all may have announced themselves again.",
            )?,
            announced: IntGauge::new(
                "dynamo_discovery_announced",
                "1 while the discovery backend holds what this process announced last (in a fleet of \
                 one process: how many it holds).",
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

    /// For one handle more.
    pub fn handle(&self) -> HandleMetrics {
        HandleMetrics {
            figures: self.clone(),
            stale: AtomicBool::new(false),
            announced: AtomicBool::new(false),
        }
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

// === impl HandleMetrics ===

impl HandleMetrics {
    /// The shared figures.
    pub fn figures(&self) -> &DiscoveryMetrics {
        &self.figures
    }

    /// Whether this handle's view may be outdated.
    pub fn set_stale(&self, stale: bool) {
        Self::set(&self.stale, &self.figures.stale, stale);
    }

    /// Whether the backend holds what was announced last.
    pub fn set_announced(&self, announced: bool) {
        Self::set(&self.announced, &self.figures.announced, announced);
    }

    fn set(before: &AtomicBool, gauge: &IntGauge, now: bool) {
        match (before.swap(now, Ordering::Relaxed), now) {
            (false, true) => gauge.inc(),
            (true, false) => gauge.dec(),
            (false, false) | (true, true) => {}
        }
    }
}

impl Drop for HandleMetrics {
    fn drop(&mut self) {
        self.set_stale(false);
        self.set_announced(false);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_lists_every_figure() {
        let page = include_str!("../../../../docs/etcd.md");
        let rows = page
            .lines()
            .filter(|line| line.starts_with("| `dynamo_discovery_"));
        let listed: Vec<&str> = rows.filter_map(|row| row.split('`').nth(1)).collect();
        let metrics = DiscoveryMetrics::new().unwrap();
        let shown: Vec<String> = metrics
            .desc()
            .iter()
            .map(|desc| desc.fq_name.clone())
            .collect();
        assert_eq!(listed, shown);
    }

    #[test]
    fn handles_of_one_process_add_up() {
        let metrics = DiscoveryMetrics::new().unwrap();
        let (one, other) = (metrics.handle(), metrics.handle());
        one.set_stale(true);
        one.set_stale(true);
        other.set_stale(true);
        assert_eq!(metrics.stale.get(), 2);
        one.set_stale(false);
        drop(other);
        assert_eq!(metrics.stale.get(), 0);
    }
}
