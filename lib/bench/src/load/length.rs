//! How long prompts and answers are: a fixed number of tokens, or a distribution of them.

use crate::random::{Stream, uniform};
use dynamo_config::{Kind, Scalar};
use std::f64::consts::TAU;

/// Longest prompt or answer that is drawn: the tail of a distribution must not ask for a prompt
/// that no memory holds.
pub(crate) const MAX_TOKENS: u32 = 4_000_000;

/// A distribution of numbers of tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// Always the same.
    Fixed(u32),
    /// Each number from the first to the second alike.
    Uniform(u32, u32),
    /// A mean and a standard deviation.
    Normal(f64, f64),
    /// A median and the standard deviation of the logarithm.
    LogNormal(f64, f64),
}

impl Length {
    /// The number for a counter pair.
    pub fn draw(&self, seed: u64, stream: Stream, major: u64, minor: u64) -> u32 {
        // Two numbers a draw, for distributions that need them.
        let first = || uniform(seed, stream, major, minor * 2);
        let tokens = match *self {
            Self::Fixed(tokens) => return tokens,
            Self::Uniform(least, most) => {
                f64::from(least) + (first() * (f64::from(most - least) + 1.0)).floor()
            }
            Self::Normal(mean, deviation) => {
                let second = uniform(seed, stream, major, minor * 2 + 1);
                (mean + deviation * gaussian(first(), second)).round()
            }
            Self::LogNormal(median, sigma) => {
                let second = uniform(seed, stream, major, minor * 2 + 1);
                (median * (sigma * gaussian(first(), second)).exp()).round()
            }
        };
        tokens.clamp(1.0, f64::from(MAX_TOKENS)) as u32
    }
}

/// Box and Muller's transform of two uniform numbers.
fn gaussian(first: f64, second: f64) -> f64 {
    (-2.0 * (1.0 - first).ln()).sqrt() * (TAU * second).cos()
}

impl Scalar for Length {
    const KIND: Kind = Kind::Text;
    const FORM: &'static str = "a number of tokens, or uniform:LEAST,MOST, normal:MEAN,DEVIATION \
                                or lognormal:MEDIAN,SIGMA";
    const EXAMPLE: &'static str = "400, uniform:100,800 or lognormal:400,0.5";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let text = text.trim();
        let Some((name, parts)) = text.split_once(':') else {
            let tokens = text.parse().map_err(|_| None)?;
            return tokens_in_range(tokens).map(Self::Fixed);
        };
        let (first, second) = parts.split_once([',', '-']).ok_or(None)?;
        let whole = |part: &str| tokens_in_range(part.trim().parse().map_err(|_| None)?);
        let number = |part: &str| -> Result<f64, Option<String>> {
            let number: f64 = part.trim().parse().map_err(|_| None)?;
            let is_sane = (0.0..=f64::from(MAX_TOKENS)).contains(&number);
            is_sane.then_some(number).ok_or(None)
        };
        match name {
            "uniform" => {
                let (least, most) = (whole(first)?, whole(second)?);
                match least <= most {
                    true => Ok(Self::Uniform(least, most)),
                    false => Err(Some("write the smaller number first".to_owned())),
                }
            }
            "normal" => Ok(Self::Normal(number(first)?, number(second)?)),
            "lognormal" => Ok(Self::LogNormal(number(first)?, number(second)?)),
            _ => Err(None),
        }
    }

    fn print(&self) -> String {
        match self {
            Self::Fixed(tokens) => tokens.to_string(),
            Self::Uniform(least, most) => format!("uniform:{least},{most}"),
            Self::Normal(mean, deviation) => format!("normal:{mean},{deviation}"),
            Self::LogNormal(median, sigma) => format!("lognormal:{median},{sigma}"),
        }
    }
}

fn tokens_in_range(tokens: u32) -> Result<u32, Option<String>> {
    match (1..=MAX_TOKENS).contains(&tokens) {
        true => Ok(tokens),
        false => Err(Some(format!("give from 1 to {MAX_TOKENS} tokens"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn draws(text: &str) -> Vec<f64> {
        let length = Length::parse(text).unwrap();
        (0..20_000)
            .map(|count| f64::from(length.draw(3, Stream::InputTokens, count, 0)))
            .collect()
    }

    #[test]
    fn lengths_follow_their_distribution() {
        let mean = |numbers: &[f64]| numbers.iter().sum::<f64>() / numbers.len() as f64;
        assert!(draws("400").iter().all(|tokens| *tokens == 400.0));
        let uniform = draws("uniform:10,20");
        assert!(uniform.iter().all(|tokens| (10.0..=20.0).contains(tokens)));
        assert!(uniform.contains(&10.0) && uniform.contains(&20.0));
        assert!((mean(&uniform) - 15.0).abs() < 0.1);
        let normal = draws("normal:400,50");
        let centre = mean(&normal);
        let squares: Vec<f64> = normal.iter().map(|it| (it - centre).powi(2)).collect();
        assert!((centre - 400.0).abs() < 2.0, "{centre}");
        assert!((mean(&squares).sqrt() - 50.0).abs() < 2.0);
        let mut lognormal = draws("lognormal:400,0.5");
        lognormal.sort_by(f64::total_cmp);
        assert!((lognormal[10_000] - 400.0).abs() < 10.0);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "0",
            "-1",
            "uniform:5",
            "uniform:9,3",
            "normal:a,b",
            "zipf:1,2",
            "normal:1,-1",
            "lognormal:1,inf",
            "5000000",
        ] {
            assert!(Length::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn texts_read_back_and_draws_are_within_bounds(
            kind in 0..4, first in 1..100_000_u32, more in 0..100_000_u32, seed: u64, count in 0..1_u64 << 40,
        ) {
            let length = match kind {
                0 => Length::Fixed(first),
                1 => Length::Uniform(first, first + more),
                2 => Length::Normal(f64::from(first), f64::from(more)),
                _ => Length::LogNormal(f64::from(first), f64::from(more) / 1_000.0),
            };
            prop_assert_eq!(Length::parse(&length.print()), Ok(length));
            let drawn = length.draw(seed, Stream::OutputTokens, count, 3);
            prop_assert!((1..=MAX_TOKENS).contains(&drawn));
            prop_assert_eq!(drawn, length.draw(seed, Stream::OutputTokens, count, 3));
        }
    }
}
