//! Declares metrics in one registry, their names under one prefix.

use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use prometheus::{
    Counter, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts,
};

/// Where metrics are declared.
pub(super) struct Declare<'a> {
    pub(super) registry: &'a MetricsRegistry,
    pub(super) prefix: &'a str,
}

impl Declare<'_> {
    /// The full name of a metric.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}_{name}", self.prefix)
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        let counter = IntCounter::with_opts(self.options(name, help))?;
        self.registry.register(counter.clone())?;
        Ok(counter)
    }

    /// A counter of something that does not come in whole numbers.
    pub(super) fn sum(&self, name: &str, help: &str) -> Result<Counter, MetricsError> {
        let counter = Counter::with_opts(self.options(name, help))?;
        self.registry.register(counter.clone())?;
        Ok(counter)
    }

    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, MetricsError> {
        let counters = IntCounterVec::new(self.options(name, help), labels)?;
        self.registry.register(counters.clone())?;
        Ok(counters)
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        let gauge = IntGauge::with_opts(self.options(name, help))?;
        self.registry.register(gauge.clone())?;
        Ok(gauge)
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, MetricsError> {
        let gauges = IntGaugeVec::new(self.options(name, help), labels)?;
        self.registry.register(gauges.clone())?;
        Ok(gauges)
    }

    pub(super) fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, MetricsError> {
        let histogram = Histogram::with_opts(self.histogram_options(name, help, buckets))?;
        self.registry.register(histogram.clone())?;
        Ok(histogram)
    }

    pub(super) fn histograms(
        &self,
        name: &str,
        help: &str,
        label: &str,
        buckets: &[f64],
    ) -> Result<HistogramVec, MetricsError> {
        let options = self.histogram_options(name, help, buckets);
        let histograms = HistogramVec::new(options, &[label])?;
        self.registry.register(histograms.clone())?;
        Ok(histograms)
    }

    fn options(&self, name: &str, help: &str) -> Opts {
        Opts::new(self.name(name), help)
    }

    fn histogram_options(&self, name: &str, help: &str, buckets: &[f64]) -> HistogramOpts {
        HistogramOpts::new(self.name(name), help).buckets(buckets.to_vec())
    }
}
