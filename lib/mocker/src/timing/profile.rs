//! Measured times of a real engine, and what lies between the measurements. Pure.
//!
//! The names are those of the published profile data; the form is one JSON object:
//!
//! ```json
//! {"prefill_isl": [128, 4096], "prefill_ttft_ms": [20.0, 310.0],
//!  "decode_active_kv_tokens": [1024, 65536], "decode_context_length": [512, 8192],
//!  "decode_itl": [[5.1, 5.9], [9.8, 12.4]]}
//! ```
//!
//! `decode_itl[i][j]` belongs to `decode_active_kv_tokens[i]` and `decode_context_length[j]`.
//! Either half may be missing; other keys are ignored. Between points it is linear, beyond them
//! the nearest point holds, except that prompts longer than measured go on at the slope of the
//! last two points: a longer prompt never is for free.

use serde::Deserialize;

/// Most points of an axis: a profile is made of dozens.
const MAX_POINTS: usize = 4_096;

/// Times of a real engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Profile {
    prefill: Option<Prefill>,
    decode: Option<Decode>,
}

#[derive(Debug, Clone, PartialEq)]
struct Prefill {
    tokens: Vec<f64>,
    ms: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
struct Decode {
    active: Vec<f64>,
    context: Vec<f64>,
    ms: Vec<Vec<f64>>,
}

#[derive(Debug, Deserialize)]
struct Wire {
    prefill_isl: Option<Vec<f64>>,
    prefill_ttft_ms: Option<Vec<f64>>,
    decode_active_kv_tokens: Option<Vec<f64>>,
    decode_context_length: Option<Vec<f64>>,
    decode_itl: Option<Vec<Vec<f64>>>,
}

/// Why a text is no profile, in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProfileError(String);

impl Profile {
    /// Reads a profile.
    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let wire: Wire =
            serde_json::from_str(text).map_err(|error| ProfileError(error.to_string()))?;
        let prefill = match (wire.prefill_isl, wire.prefill_ttft_ms) {
            (Some(tokens), Some(ms)) => {
                check_axis("prefill_isl", &tokens)?;
                check_times("prefill_ttft_ms", &ms, tokens.len())?;
                Some(Prefill { tokens, ms })
            }
            (None, None) => None,
            _ => return Err(halves("prefill_isl and prefill_ttft_ms")),
        };
        let decode = match (
            wire.decode_active_kv_tokens,
            wire.decode_context_length,
            wire.decode_itl,
        ) {
            (Some(active), Some(context), Some(ms)) => Some(Decode::checked(active, context, ms)?),
            (None, None, None) => None,
            _ => {
                return Err(halves(
                    "decode_active_kv_tokens, decode_context_length and decode_itl",
                ));
            }
        };
        if prefill.is_none() && decode.is_none() {
            let text = "it has neither prefill_isl nor decode_itl";
            return Err(ProfileError(text.to_owned()));
        }
        Ok(Self { prefill, decode })
    }

    /// Time to compute a prompt, if it was measured.
    pub(crate) fn prefill_ms(&self, tokens: f64) -> Option<f64> {
        let Prefill { tokens: axis, ms } = self.prefill.as_ref()?;
        let (lower, share) = locate(axis, tokens);
        let last = axis.len() - 1;
        if tokens > axis[last] && last > 0 {
            let slope = (ms[last] - ms[last - 1]) / (axis[last] - axis[last - 1]);
            return Some(ms[last] + slope.max(0.0) * (tokens - axis[last]));
        }
        Some(between(ms, lower, share))
    }

    /// Time of a decode step, if it was measured.
    pub(crate) fn decode_ms(&self, active: f64, context: f64) -> Option<f64> {
        let decode = self.decode.as_ref()?;
        let (row, row_share) = locate(&decode.active, active);
        let (column, column_share) = locate(&decode.context, context);
        let near = between(&decode.ms[row], column, column_share);
        let far = &decode.ms[(row + 1).min(decode.ms.len() - 1)];
        Some(near + row_share * (between(far, column, column_share) - near))
    }
}

impl Decode {
    fn checked(
        active: Vec<f64>,
        context: Vec<f64>,
        ms: Vec<Vec<f64>>,
    ) -> Result<Self, ProfileError> {
        check_axis("decode_active_kv_tokens", &active)?;
        check_axis("decode_context_length", &context)?;
        if ms.len() != active.len() {
            return Err(ProfileError(format!(
                "decode_itl has {} rows and decode_active_kv_tokens {} points",
                ms.len(),
                active.len()
            )));
        }
        for row in &ms {
            check_times("decode_itl", row, context.len())?;
        }
        Ok(Self {
            active,
            context,
            ms,
        })
    }
}

fn halves(names: &str) -> ProfileError {
    ProfileError(format!("{names} go together: give all of them or none"))
}

fn check_axis(name: &str, points: &[f64]) -> Result<(), ProfileError> {
    let sound = |point: &f64| point.is_finite() && *point >= 0.0;
    if points.is_empty() || points.len() > MAX_POINTS || !points.iter().all(sound) {
        return Err(ProfileError(format!(
            "{name} must be 1 to {MAX_POINTS} numbers from 0"
        )));
    }
    if !points.is_sorted_by(|a, b| a < b) {
        return Err(ProfileError(format!("{name} must ascend")));
    }
    Ok(())
}

fn check_times(name: &str, times: &[f64], points: usize) -> Result<(), ProfileError> {
    let sound = |time: &f64| time.is_finite() && *time >= 0.0;
    if times.len() != points || !times.iter().all(sound) {
        return Err(ProfileError(format!(
            "{name} must have {points} numbers from 0, one per point"
        )));
    }
    Ok(())
}

/// The point at or below `x`, and how far `x` is on the way to the next one.
fn locate(axis: &[f64], x: f64) -> (usize, f64) {
    let above = axis.partition_point(|point| *point <= x);
    match above {
        0 => (0, 0.0),
        above if above == axis.len() => (above - 1, 0.0),
        above => {
            let (low, high) = (axis[above - 1], axis[above]);
            (above - 1, (x - low) / (high - low))
        }
    }
}

fn between(values: &[f64], lower: usize, share: f64) -> f64 {
    let low = values[lower];
    let high = values[(lower + 1).min(values.len() - 1)];
    low + share * (high - low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = r#"{"prefill_isl":[100,200,400],"prefill_ttft_ms":[10,30,50],
        "decode_active_kv_tokens":[0,1000],"decode_context_length":[10,20],
        "decode_itl":[[1,2],[3,8]],"max_kv_tokens":[1]}"#;

    #[test]
    fn times_are_linear_between_points_and_the_nearest_ones_beyond() {
        let profile = Profile::parse(WHOLE).unwrap();
        for (tokens, ms) in [(1.0, 10.0), (100.0, 10.0), (150.0, 20.0), (300.0, 40.0)] {
            assert_eq!(profile.prefill_ms(tokens), Some(ms));
        }
        assert_eq!(profile.prefill_ms(600.0), Some(70.0));
        for (active, context, ms) in [
            (0.0, 10.0, 1.0),
            (0.0, 15.0, 1.5),
            (500.0, 10.0, 2.0),
            (500.0, 15.0, 3.5),
            (9e9, 9e9, 8.0),
        ] {
            assert_eq!(profile.decode_ms(active, context), Some(ms));
        }
    }

    #[test]
    fn what_is_no_profile_is_refused_with_the_key() {
        for (text, part) in [
            ("[]", "invalid"),
            ("{}", "neither"),
            (r#"{"prefill_isl":[1]}"#, "go together"),
            (r#"{"decode_itl":[[1]]}"#, "go together"),
            (r#"{"prefill_isl":[2,1],"prefill_ttft_ms":[1,1]}"#, "ascend"),
            (r#"{"prefill_isl":[],"prefill_ttft_ms":[]}"#, "prefill_isl"),
            (r#"{"prefill_isl":[1],"prefill_ttft_ms":[-1]}"#, "ttft"),
            (
                r#"{"decode_active_kv_tokens":[1],"decode_context_length":[1],"decode_itl":[[1,2]]}"#,
                "decode_itl",
            ),
            (
                r#"{"decode_active_kv_tokens":[1],"decode_context_length":[1],"decode_itl":[]}"#,
                "rows",
            ),
        ] {
            let error = Profile::parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn interpolation_stays_between_the_smallest_and_the_largest_time(
            active in 0.0_f64..3e3, context in 0.0_f64..60.0, tokens in 0.0_f64..400.0,
        ) {
            let profile = Profile::parse(WHOLE).unwrap();
            let decode = profile.decode_ms(active, context).unwrap();
            prop_assert!((1.0..=8.0).contains(&decode));
            let prefill = profile.prefill_ms(tokens).unwrap();
            prop_assert!((10.0..=50.0).contains(&prefill));
        }
    }
}
