//! A declared family, and how it becomes one of Prometheus's.

use prometheus::core::Desc;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use std::collections::HashMap;

/// Names of labels, sorted.
pub(super) type Labels = &'static [&'static str];

/// How a figure behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A figure with its name, unit and meaning; `value` is nothing where there is none to show.
pub(super) struct Family<T> {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "Prometheus' text form has no units: the page of figures has"
        )
    )]
    pub(super) unit: &'static str,
    pub(super) help: &'static str,
    value: fn(&T) -> Option<f64>,
}

impl<T> Family<T> {
    pub(super) const fn gauge(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        value: fn(&T) -> Option<f64>,
    ) -> Self {
        let kind = Kind::Gauge;
        Self {
            name,
            kind,
            unit,
            help,
            value,
        }
    }

    pub(super) const fn counter(
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        value: fn(&T) -> Option<f64>,
    ) -> Self {
        let kind = Kind::Counter;
        Self {
            name,
            kind,
            unit,
            help,
            value,
        }
    }

    fn metric(&self, labels: Vec<LabelPair>, value: f64) -> Metric {
        let mut metric = Metric::from_label(labels);
        match self.kind {
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        }
        metric
    }
}

/// The declarations as the registry wants them.
pub(super) fn describe<T>(
    families: &'static [Family<T>],
    labels: Labels,
) -> impl Iterator<Item = Result<Desc, prometheus::Error>> {
    families.iter().map(move |family| {
        let labels = labels.iter().map(|it| (*it).to_owned()).collect();
        let (name, help) = (family.name.to_owned(), family.help.to_owned());
        Desc::new(name, help, labels, HashMap::new())
    })
}

/// Each family with a series per item that has a value. A family without any is left out.
pub(super) fn collect<'a, T>(
    families: &'static [Family<T>],
    labels: Labels,
    items: &'a [T],
    values: impl Fn(&T) -> Vec<String> + 'a,
) -> impl Iterator<Item = MetricFamily> + 'a {
    families.iter().filter_map(move |family| {
        let series = items.iter().filter_map(|item| {
            let value = (family.value)(item)?;
            let pairs = labels.iter().zip(values(item));
            let pairs = pairs.map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value);
                pair
            });
            Some(family.metric(pairs.collect(), value))
        });
        let series: Vec<Metric> = series.collect();
        if series.is_empty() {
            return None;
        }
        let mut shown = MetricFamily::default();
        shown.set_name(family.name.to_owned());
        shown.set_help(family.help.to_owned());
        shown.set_field_type(match family.kind {
            Kind::Counter => MetricType::COUNTER,
            Kind::Gauge => MetricType::GAUGE,
        });
        shown.set_metric(series);
        Some(shown)
    })
}
