//! What is counted of moves. Names are the published ones.

use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};
use tokio::time::Instant;

/// Upper bounds in seconds: from a neighbour that goes on at once to a worker that had to start.
const BUCKETS: &[f64] = &[0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 60.0];

/// See the module's description. Clones count together.
#[derive(Debug, Clone)]
pub struct MigrationMetrics {
    moves: IntCounterVec,
    duration: HistogramVec,
    pub(super) too_long: IntCounter,
}

/// An answer that has broken off and may go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resumption {
    since: Instant,
}

impl MigrationMetrics {
    /// Counts that nobody sees yet; their names begin with `prefix`.
    pub fn new(prefix: &str) -> Result<Self, MetricsError> {
        let opts = |name: &str, help: &str| Opts::new(format!("{prefix}_model_{name}"), help);
        let moves = opts(
            "migration_total",
            "Requests that went on with another worker after one had failed",
        );
        let duration = opts(
            "migration_duration_seconds",
            "From the loss of a worker to the next token, or to the end of all attempts",
        );
        let duration = HistogramOpts::from(duration).buckets(BUCKETS.to_vec());
        let too_long = opts(
            "migration_max_seq_len_exceeded_total",
            "Answers that did not move because they were too long",
        );
        Ok(Self {
            moves: IntCounterVec::new(moves, &["model", "migration_type"])?,
            duration: HistogramVec::new(duration, &["model", "outcome"])?,
            too_long: IntCounter::with_opts(too_long)?,
        })
    }

    /// Counts that the registry shows.
    pub fn shown_by(registry: &MetricsRegistry, prefix: &str) -> Result<Self, MetricsError> {
        let metrics = Self::new(prefix)?;
        registry.register(metrics.moves.clone())?;
        registry.register(metrics.duration.clone())?;
        registry.register(metrics.too_long.clone())?;
        Ok(metrics)
    }

    pub(super) fn moved(&self, model: &str, has_begun: bool) {
        let kind = match has_begun {
            true => "ongoing_request",
            false => "new_request",
        };
        self.moves.with_label_values(&[model, kind]).inc();
    }
}

impl Resumption {
    pub(super) fn new(since: Instant) -> Self {
        Self { since }
    }

    pub(super) fn ended(self, metrics: &MigrationMetrics, model: &str, goes_on: bool) {
        let outcome = match goes_on {
            true => "success",
            false => "failure",
        };
        let took = self.since.elapsed().as_secs_f64();
        let duration = &metrics.duration;
        duration.with_label_values(&[model, outcome]).observe(took);
    }
}
