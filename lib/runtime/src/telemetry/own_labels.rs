//! Labels that whoever serves an endpoint adds to its series: a team, a model's version.
//!
//! They are put on when the series are shown. The registry does not know them, because it wants all
//! series of a name to have the same labels, and endpoints of one process may differ in theirs.

use prometheus::proto::{LabelPair, MetricFamily};
use std::sync::Arc;

/// Most labels of one's own: each makes every line longer.
const MAX_LABELS: usize = 16;

/// Longest name or value, in bytes.
const MAX_BYTES: usize = 256;

/// Names that series have already, or that Prometheus gives.
const TAKEN: [&str; 7] = [
    "dynamo_namespace",
    "dynamo_component",
    "dynamo_endpoint",
    "worker_id",
    "error_type",
    "le",
    "quantile",
];

/// Names and values, checked, by name. Cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnLabels(Arc<[(String, String)]>);

/// Why labels cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OwnLabelsError {
    /// There are too many.
    #[error("an endpoint may have {MAX_LABELS} labels of its own, not {0}")]
    Many(usize),
    /// A name that Prometheus does not take.
    #[error(
        "label {0:?} is no name: letters, digits and underscores, no digit first, at most 256 of them, \
         and not two underscores first, which are Prometheus's own"
    )]
    Name(String),
    /// A name that the series have already.
    #[error("label {0:?} is the series' own already; choose another name")]
    Taken(String),
    /// A name that is there twice.
    #[error("label {0:?} is given twice")]
    Twice(String),
    /// A value that is too long.
    #[error("the value of label {0:?} is longer than {MAX_BYTES} bytes")]
    Long(String),
}

impl OwnLabels {
    /// Checks labels.
    pub fn new(mut labels: Vec<(String, String)>) -> Result<Self, OwnLabelsError> {
        if labels.len() > MAX_LABELS {
            return Err(OwnLabelsError::Many(labels.len()));
        }
        labels.sort();
        for (at, (name, value)) in labels.iter().enumerate() {
            if !is_name(name) {
                return Err(OwnLabelsError::Name(name.chars().take(64).collect()));
            }
            if TAKEN.contains(&name.as_str()) {
                return Err(OwnLabelsError::Taken(name.clone()));
            }
            if at > 0 && labels[at - 1].0 == *name {
                return Err(OwnLabelsError::Twice(name.clone()));
            }
            if value.len() > MAX_BYTES {
                return Err(OwnLabelsError::Long(name.clone()));
            }
        }
        Ok(Self(labels.into()))
    }

    /// Puts them on every series.
    pub(super) fn add_to(&self, families: &mut [MetricFamily]) {
        if self.0.is_empty() {
            return;
        }
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut labels = metric.take_label();
            labels.extend(self.0.iter().map(|(name, value)| {
                let mut label = LabelPair::default();
                label.set_name(name.clone());
                label.set_value(value.clone());
                label
            }));
            labels.sort_by(|one, other| one.name().cmp(other.name()));
            metric.set_label(labels);
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_made_of = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let begins = name.bytes().next().is_some_and(|it| !it.is_ascii_digit());
    begins && name.len() <= MAX_BYTES && !name.starts_with("__") && name.bytes().all(is_made_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(names: &[&str]) -> Result<OwnLabels, OwnLabelsError> {
        let labels = names.iter().map(|name| ((*name).into(), "v".into()));
        OwnLabels::new(labels.collect())
    }

    #[test]
    fn names_that_clash_or_are_none_are_refused() {
        assert!(checked(&["team", "_x9", "Model"]).is_ok());
        for name in ["", "9a", "a-b", "__name__", "é", &"a".repeat(257)] {
            assert!(
                matches!(checked(&[name]), Err(OwnLabelsError::Name(_))),
                "{name}"
            );
        }
        for name in TAKEN {
            assert_eq!(checked(&[name]), Err(OwnLabelsError::Taken(name.into())));
        }
        assert_eq!(
            checked(&["a", "b", "a"]),
            Err(OwnLabelsError::Twice("a".into()))
        );
        let many: Vec<String> = (0..17).map(|number| format!("a{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(checked(&many), Err(OwnLabelsError::Many(17)));
        let long = vec![("a".to_owned(), "v".repeat(257))];
        assert_eq!(OwnLabels::new(long), Err(OwnLabelsError::Long("a".into())));
    }
}
