//! The process's Prometheus registry.
//!
//! Each crate declares its metrics in its own `metrics.rs` and registers them here once; a
//! second registration of the same name and labels is an error, never a silent second series.

use prometheus::Registry;
use prometheus::core::Collector;
use prometheus::{Encoder as _, TextEncoder};

/// The media type of [`MetricsRegistry::encode`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics of a process. Cheap to clone; clones are the same registry.
#[derive(Debug, Clone, Default)]
pub struct MetricsRegistry {
    registry: Registry,
}

/// Why metrics are not registered.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be registered")]
pub struct MetricsError(#[from] prometheus::Error);

// === impl MetricsRegistry ===

impl MetricsRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds metrics; a struct of several implements [`Collector`] by asking each.
    pub fn register(&self, collector: impl Collector + 'static) -> Result<(), MetricsError> {
        Ok(self.registry.register(Box::new(collector))?)
    }

    /// Takes metrics out again, with an equal collector.
    pub fn unregister(&self, collector: impl Collector + 'static) -> Result<(), MetricsError> {
        Ok(self.registry.unregister(Box::new(collector))?)
    }

    /// All metrics in Prometheus's text format. A family that cannot be written is left out, so
    /// that the others stay visible.
    pub fn encode(&self) -> String {
        let encoder = TextEncoder::new();
        let mut text = Vec::new();
        for family in self.registry.gather() {
            let before = text.len();
            if let Err(error) = encoder.encode(&[family], &mut text) {
                text.truncate(before);
                tracing::error!(%error, "metrics cannot be encoded");
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::IntCounter;

    #[test]
    fn what_is_registered_is_encoded_and_what_is_not_is_gone() {
        let metrics = MetricsRegistry::new();
        let counter = IntCounter::new("dynamo_things_total", "Things.").unwrap();
        metrics.register(counter.clone()).unwrap();
        counter.inc_by(3);
        assert_eq!(
            metrics.encode(),
            "# HELP dynamo_things_total Things.\n\
             # TYPE dynamo_things_total counter\n\
             dynamo_things_total 3\n"
        );
        metrics.unregister(counter).unwrap();
        assert_eq!(metrics.encode(), "");
    }

    #[test]
    fn a_second_registration_is_refused() {
        let metrics = MetricsRegistry::new();
        let counter = || IntCounter::new("dynamo_things_total", "Things.").unwrap();
        metrics.register(counter()).unwrap();
        assert!(metrics.register(counter()).is_err());
    }
}
