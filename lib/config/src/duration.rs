//! Durations in human form: `30s`, `500ms`, `1m30s`, `2h`.
//!
//! A number without a unit is refused, because half of all readers would take it for seconds and
//! the other half for milliseconds.

use crate::decimal::{scaled, split_number};
use crate::value::{Kind, Scalar};
use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Units with their nanoseconds, longest first: the order in which parts follow each other.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400 * NANOS_PER_SECOND),
    ("h", 3_600 * NANOS_PER_SECOND),
    ("m", 60 * NANOS_PER_SECOND),
    ("s", NANOS_PER_SECOND),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl Scalar for Duration {
    const KIND: Kind = Kind::Duration;
    const FORM: &'static str = "a duration";
    const EXAMPLE: &'static str = "30s, 500ms or 1m30s";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let text = text.trim();
        if scaled(text, 1).is_some() {
            return Err(Some(format!(
                "add a unit: {text}s for seconds, {text}ms for milliseconds"
            )));
        }
        let nanos = parse_nanos(text).ok_or(None)?;
        let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| None)?;
        Ok(Self::new(seconds, (nanos % NANOS_PER_SECOND) as u32))
    }

    fn print(&self) -> String {
        let mut rest = self.as_nanos();
        if rest == 0 {
            return "0s".to_owned();
        }
        let mut text = String::new();
        for (unit, nanos) in UNITS {
            if rest >= nanos {
                text += &format!("{}{unit}", rest / nanos);
                rest %= nanos;
            }
        }
        text
    }
}

/// Sums parts of falling units.
fn parse_nanos(text: &str) -> Option<u128> {
    let mut units = UNITS.iter();
    let mut total: Option<u128> = None;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split_number(rest);
        let after = after.trim_start();
        let end = after
            .find(|char: char| !char.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (name, next) = after.split_at(end);
        // The iterator goes on where it stopped: a unit can neither repeat nor grow.
        let (_, nanos) = units.find(|(unit, _)| *unit == name)?;
        total = Some(total.unwrap_or(0).checked_add(scaled(number, *nanos)?)?);
        rest = next.trim_start();
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_sums_of_falling_units() {
        for (text, expected) in [
            ("0s", Duration::ZERO),
            ("30s", Duration::from_secs(30)),
            ("500ms", Duration::from_millis(500)),
            ("1m30s", Duration::from_secs(90)),
            ("1m 30s", Duration::from_secs(90)),
            ("2h", Duration::from_secs(7200)),
            ("1d", Duration::from_secs(86_400)),
            ("1.5s", Duration::from_millis(1500)),
            (" 10 us ", Duration::from_micros(10)),
            ("7ns", Duration::from_nanos(7)),
        ] {
            assert_eq!(Duration::parse(text), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn plain_numbers_are_refused_with_a_hint() {
        assert_eq!(
            Duration::read("30").unwrap_err().to_string(),
            "is not a duration, such as 30s, 500ms or 1m30s; \
             add a unit: 30s for seconds, 30ms for milliseconds"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "s", "-1s", "30s1m", "1s1s", "1x", "1m30", "0.1ns", "1S", "1s,", "1d1d",
        ] {
            assert!(Duration::parse(text).is_err(), "{text:?}");
        }
        assert!(Duration::parse(&format!("{}d", u64::MAX)).is_err());
    }

    #[test]
    fn print_uses_the_largest_units() {
        assert_eq!(Duration::from_secs(90).print(), "1m30s");
        assert_eq!(Duration::from_millis(1500).print(), "1s500ms");
        assert_eq!(Duration::ZERO.print(), "0s");
    }

    proptest! {
        #[test]
        fn printed_durations_read_back(seconds: u64, nanos in 0_u32..1_000_000_000) {
            let duration = Duration::new(seconds, nanos);
            prop_assert_eq!(Duration::parse(&duration.print()), Ok(duration));
        }
    }
}
