//! Service-level targets, and whether a request met all of them.

use super::record::{End, Record};
use dynamo_config::{Kind, Scalar};
use std::time::Duration;

/// Upper bounds that a request has to keep to count as good.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Targets {
    /// Of the time to the first token.
    pub ttft: Option<Duration>,
    /// Of the mean time of the tokens after the first.
    pub itl: Option<Duration>,
    /// Of the time to the end.
    pub e2e: Option<Duration>,
}

impl Targets {
    /// Whether the request was answered within every bound. What has no first token or no second
    /// one keeps bounds on them only if nothing was to be waited for.
    pub fn met_by(&self, record: &Record) -> bool {
        let within = |bound: Option<Duration>, value: Option<Duration>| match (bound, value) {
            (Some(bound), Some(value)) => value <= bound,
            _ => true,
        };
        record.end == End::Complete
            && within(self.ttft, record.ttft().or(Some(record.latency())))
            && within(self.itl, record.time_per_token())
            && within(self.e2e, Some(record.latency()))
    }
}

impl Scalar for Targets {
    const KIND: Kind = Kind::Text;
    const FORM: &'static str = "targets such as ttft:500ms,itl:50ms,e2e:30s";
    const EXAMPLE: &'static str = "ttft:500ms,itl:50ms";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let mut targets = Self::default();
        for part in text.split(',').filter(|part| !part.trim().is_empty()) {
            let (name, bound) = part.split_once(':').ok_or(None)?;
            let place = match name.trim() {
                "ttft" => &mut targets.ttft,
                "itl" | "tpot" => &mut targets.itl,
                "e2e" | "latency" => &mut targets.e2e,
                other => return Err(Some(format!("{other} is none of ttft, itl and e2e"))),
            };
            if place.replace(Duration::parse(bound)?).is_some() {
                return Err(Some(format!("{} stands there twice", name.trim())));
            }
        }
        match targets == Self::default() {
            true => Err(None),
            false => Ok(targets),
        }
    }

    fn print(&self) -> String {
        let parts = [("ttft", self.ttft), ("itl", self.itl), ("e2e", self.e2e)];
        let parts = parts
            .iter()
            .filter_map(|(name, bound)| Some(format!("{name}:{}", bound.as_ref()?.print())));
        parts.collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::tests::answered;
    use crate::figures::record::{Failure, Record};

    fn met(targets: &str, record: &Record) -> bool {
        Targets::parse(targets).unwrap().met_by(record)
    }

    #[test]
    fn every_target_has_to_be_met() {
        let record = answered(0, &[100_000, 150_000, 240_000]);
        for targets in [
            "ttft:100ms",
            "itl:70ms",
            "e2e:240ms",
            "ttft:1s,itl:1s,e2e:1s",
        ] {
            assert!(met(targets, &record), "{targets}");
        }
        for targets in ["ttft:99ms", "itl:69ms", "e2e:239ms", "ttft:1s,itl:1ms"] {
            assert!(!met(targets, &record), "{targets}");
        }
        let failed = Record {
            end: End::Failed(Failure::Timeout),
            ..record
        };
        assert!(!met("ttft:1h", &failed));
    }

    #[test]
    fn targets_read_back_and_nonsense_is_refused() {
        let text = "ttft:500ms,itl:50ms,e2e:30s";
        assert_eq!(Targets::parse(text).unwrap().print(), text);
        for text in ["", "ttft", "ttft:5", "speed:1s", "ttft:1s,ttft:2s"] {
            assert!(Targets::parse(text).is_err(), "{text}");
        }
    }
}
