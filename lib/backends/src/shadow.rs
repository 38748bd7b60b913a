//! The router's choices beside those of a balancer that is in use: counted, and compared where
//! the balancer says who served.

use crate::address::{AddressError, BackendAddress};
use crate::metrics::BackendMetrics;
use http::HeaderMap;
use parking_lot::Mutex;

/// A server behind the balancer, and what the balancer calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShadowWorker {
    /// The balancer's name for it, if it is not its address.
    pub name: Option<String>,
    /// Where it is.
    pub address: BackendAddress,
}

/// How a choice compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// Both chose the same server.
    Same,
    /// They did not.
    Other,
    /// The balancer does not say whom it chose.
    Unknown,
    /// The router could not choose.
    Unscored,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    requests: u64,
    same: u64,
    other: u64,
    predicted_tokens: u64,
    actual_tokens: u64,
}

/// The comparison.
#[derive(Debug)]
pub struct Shadow {
    headers: Vec<String>,
    workers: Vec<ShadowWorker>,
    log_every: u64,
    metrics: BackendMetrics,
    totals: Mutex<Totals>,
}

impl ShadowWorker {
    /// Reads `http://HOST:PORT` or `NAME=http://HOST:PORT`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (name, address) = match text.split_once("=http") {
            Some((name, _)) => (Some(name.to_owned()), &text[name.len() + 1..]),
            None => (None, text),
        };
        Ok(Self {
            name,
            address: address.parse()?,
        })
    }

    fn is_called(&self, name: &str) -> bool {
        match &self.name {
            Some(own) => own == name,
            None => {
                let name = name.trim_end_matches('/');
                name == self.address.to_string()
                    || name == self.address.authority()
                    || name == self.address.socket()
            }
        }
    }
}

impl Shadow {
    /// Compares choices among `workers`, whom the router numbers from 1 in this order.
    pub fn new(
        workers: Vec<ShadowWorker>,
        headers: Vec<String>,
        log_every: u64,
        metrics: BackendMetrics,
    ) -> Self {
        Self {
            headers,
            workers,
            log_every,
            metrics,
            totals: Mutex::default(),
        }
    }

    /// Who served, by the head of the balancer's answer.
    pub fn served_by(&self, answer: &HeaderMap) -> Option<u64> {
        let given = self.headers.iter().find_map(|name| answer.get(name))?;
        let name = given.to_str().ok()?.trim();
        let at = self
            .workers
            .iter()
            .position(|worker| worker.is_called(name))?;
        Some(at as u64 + 1)
    }

    /// Counts a choice: `chosen` by the router, `served` by the balancer.
    pub fn compare(&self, chosen: Option<u64>, served: Option<u64>) -> Comparison {
        let comparison = match (chosen, served) {
            (None, _) => Comparison::Unscored,
            (_, None) => Comparison::Unknown,
            (Some(chosen), Some(served)) if chosen == served => Comparison::Same,
            _ => Comparison::Other,
        };
        self.metrics.shadow(comparison.as_str());
        let totals = {
            let mut totals = self.totals.lock();
            totals.requests += 1;
            totals.same += u64::from(comparison == Comparison::Same);
            totals.other += u64::from(comparison == Comparison::Other);
            *totals
        };
        if totals.requests.is_multiple_of(self.log_every) {
            tracing::info!(
                requests = totals.requests,
                same = totals.same,
                other = totals.other,
                predicted_tokens = totals.predicted_tokens,
                actual_tokens = totals.actual_tokens,
                "choices beside the balancer's"
            );
        }
        comparison
    }

    /// Counts what came of it in cached tokens.
    pub fn cached(&self, predicted: u64, actual: u64) {
        self.metrics.shadow_predicted.inc_by(predicted);
        self.metrics.shadow_actual.inc_by(actual);
        let mut totals = self.totals.lock();
        totals.predicted_tokens += predicted;
        totals.actual_tokens += actual;
    }
}

impl Comparison {
    /// The name in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Other => "other",
            Self::Unknown => "unknown",
            Self::Unscored => "unscored",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn who_served_is_known_by_address_or_name() {
        let workers = ["http://a:1", "pod-7=http://b:2"];
        let workers = workers
            .map(|text| ShadowWorker::parse(text).unwrap())
            .to_vec();
        let headers = vec!["x-first".to_owned(), "x-served-by".to_owned()];
        let metrics = BackendMetrics::new().unwrap();
        let shadow = Shadow::new(workers, headers, 10, metrics);
        for (value, expected) in [
            ("a:1", Some(1)),
            ("http://a:1/", Some(1)),
            ("pod-7", Some(2)),
            ("b:2", None),
            ("", None),
        ] {
            let mut answer = HeaderMap::new();
            answer.insert("x-served-by", HeaderValue::from_static(value));
            assert_eq!(shadow.served_by(&answer), expected, "{value}");
        }
        assert_eq!(shadow.compare(Some(1), Some(1)), Comparison::Same);
        assert_eq!(shadow.compare(Some(1), Some(2)), Comparison::Other);
        assert_eq!(shadow.compare(Some(1), None), Comparison::Unknown);
        assert_eq!(shadow.compare(None, Some(1)), Comparison::Unscored);
    }
}
