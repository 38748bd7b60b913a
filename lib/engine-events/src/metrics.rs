//! What is counted of the events that engines publish.
//!
//! One [`EngineEventMetrics`] for all publishers that a process listens to, registered once.

use crate::event::EngineEvent;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

/// Counters of the events of engines. Cheap to clone; clones count together.
#[derive(Debug, Clone)]
pub struct EngineEventMetrics {
    batches: IntCounter,
    lost: IntCounter,
    dropped: IntCounter,
    resets: IntCounter,
    connections: IntCounter,
    events: IntCounterVec,
    skipped: IntCounterVec,
    refused: IntCounterVec,
    replays: IntCounterVec,
    disconnections: IntCounterVec,
}

/// Why an event is not handed on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Skipped {
    UnknownKind,
    Malformed,
    OtherCache,
}

/// Why a message is not read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Refused {
    Parts,
    Sequence,
    Payload,
}

/// How a replay ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ReplayResult {
    Complete,
    Failed,
}

/// Why a connection ended or never came about.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Disconnected {
    Unreachable,
    Closed,
    Silent,
    Protocol,
}

// === impl EngineEventMetrics ===

impl EngineEventMetrics {
    /// Counters at zero.
    #[expect(
        clippy::expect_used,
        reason = "names and labels are constants, checked by a test"
    )]
    pub fn new() -> Self {
        let counter =
            |name: &str, help: &str| IntCounter::new(full(name), help).expect("a valid name");
        let family = |name: &str, help: &str, label: &str| {
            IntCounterVec::new(Opts::new(full(name), help), &[label]).expect("a valid name")
        };
        Self {
            batches: counter("batches_total", "Messages that were read and handed on."),
            lost: counter("lost_messages_total", "Messages that never came."),
            dropped: counter(
                "dropped_messages_total",
                "Messages dropped because the router was too slow.",
            ),
            resets: counter("resets_total", "New lives of publishers."),
            connections: counter("connections_total", "Connections to publishers."),
            events: family("events_total", "Events handed on.", "kind"),
            skipped: family("skipped_events_total", "Events not handed on.", "reason"),
            refused: family("refused_messages_total", "Messages not read.", "reason"),
            replays: family("replays_total", "Replays asked for.", "result"),
            disconnections: family(
                "disconnections_total",
                "Connections that ended or failed.",
                "reason",
            ),
        }
    }

    pub(crate) fn handed_on(&self, events: &[EngineEvent]) {
        self.batches.inc();
        for event in events {
            let kind = match event {
                EngineEvent::Stored(_) => "stored",
                EngineEvent::Removed(_) => "removed",
                EngineEvent::Cleared => "cleared",
            };
            self.events.with_label_values(&[kind]).inc();
        }
    }

    pub(crate) fn skipped(&self, why: Skipped, count: u64) {
        let reason = match why {
            Skipped::UnknownKind => "unknown_kind",
            Skipped::Malformed => "malformed",
            Skipped::OtherCache => "other_cache",
        };
        if count > 0 {
            self.skipped.with_label_values(&[reason]).inc_by(count);
        }
    }

    pub(crate) fn refused(&self, why: Refused) {
        let reason = match why {
            Refused::Parts => "parts",
            Refused::Sequence => "sequence",
            Refused::Payload => "payload",
        };
        self.refused.with_label_values(&[reason]).inc();
    }

    pub(crate) fn replay_ended(&self, how: ReplayResult) {
        let result = match how {
            ReplayResult::Complete => "complete",
            ReplayResult::Failed => "failed",
        };
        self.replays.with_label_values(&[result]).inc();
    }

    pub(crate) fn disconnected(&self, why: Disconnected) {
        let reason = match why {
            Disconnected::Unreachable => "unreachable",
            Disconnected::Closed => "closed",
            Disconnected::Silent => "silent",
            Disconnected::Protocol => "protocol",
        };
        self.disconnections.with_label_values(&[reason]).inc();
    }

    pub(crate) fn lost(&self, count: u64) {
        self.lost.inc_by(count);
    }

    pub(crate) fn dropped(&self) {
        self.dropped.inc();
    }

    pub(crate) fn reset(&self) {
        self.resets.inc();
    }

    pub(crate) fn connected(&self) {
        self.connections.inc();
    }

    fn collectors(&self) -> [&dyn Collector; 10] {
        [
            &self.batches,
            &self.lost,
            &self.dropped,
            &self.resets,
            &self.connections,
            &self.events,
            &self.skipped,
            &self.refused,
            &self.replays,
            &self.disconnections,
        ]
    }
}

fn full(name: &str) -> String {
    format!("dynamo_engine_kv_{name}")
}

impl Default for EngineEventMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Collector for EngineEventMetrics {
    fn desc(&self) -> Vec<&Desc> {
        let all = self.collectors();
        all.into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let all = self.collectors();
        all.into_iter().flat_map(Collector::collect).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_runtime::telemetry::MetricsRegistry;

    #[test]
    fn the_page_lists_every_counter_and_no_other() {
        const PAGE: &str = include_str!("../../../docs/reference/metrics.md");
        let metrics = EngineEventMetrics::new();
        let row = |it: &&Desc| {
            let labels = it.variable_labels.join(", ");
            (it.fq_name.clone(), labels, it.help.clone())
        };
        let listed = PAGE
            .lines()
            .filter(|it| it.starts_with("| `dynamo_engine_"));
        let listed: Vec<_> = listed
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
                let [name, "counter", labels, _, help] = cells[..] else {
                    panic!("five columns: {line}");
                };
                let name = name.trim_matches('`');
                (name.to_owned(), labels.to_owned(), help.to_owned())
            })
            .collect();
        assert_eq!(listed, metrics.desc().iter().map(row).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = EngineEventMetrics::new();
        let registry = MetricsRegistry::new();
        registry.register(metrics.clone()).unwrap();
        metrics.handed_on(&[EngineEvent::Cleared]);
        metrics.skipped(Skipped::Malformed, 2);
        metrics.skipped(Skipped::OtherCache, 0);
        let text = registry.encode();
        assert!(text.contains("dynamo_engine_kv_batches_total 1"), "{text}");
        assert!(text.contains("dynamo_engine_kv_events_total{kind=\"cleared\"} 1"));
        assert!(text.contains("dynamo_engine_kv_skipped_events_total{reason=\"malformed\"} 2"));
        assert!(!text.contains("other_cache"));
    }
}
