//! How long a step takes: a model of a real engine's speed. Pure.
//!
//! A step costs the time of its prompt tokens plus, if any sequence decodes, the time of a
//! decode step. Without measurements the published formulas hold, in milliseconds:
//!
//! - prefill: `4.209989e-07 t^2 + 1.518344e-02 t + 16.50142`, where `t` is the number of prompt
//!   tokens that the step computes
//! - decode: `max(1, -25.74 p^2 + 54.01 p + 5.74)`, where `p` is the share of the KV cache that
//!   running sequences use, at most 1
//!
//! With a [`Profile`] they are interpolated from what was measured.

mod profile;

pub use profile::Profile;

use std::sync::Arc;
use std::time::Duration;

/// Longest time of one step. No engine is that slow: it bounds what a wrong profile can do.
const MAX_STEP_MS: f64 = 3_600_000.0;

/// What a step works on, as far as it takes time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StepWork {
    /// Prompt tokens computed.
    pub prefill_tokens: u64,
    /// Sequences that decode.
    pub decodes: u64,
    /// Lengths of those sequences, summed.
    pub decode_kv_tokens: u64,
    /// Tokens that the blocks of running sequences have room for, shared ones counted once.
    pub active_kv_tokens: u64,
    /// Tokens that the whole cache has room for.
    pub total_kv_tokens: u64,
}

/// How much faster than the real engine the simulated one is. A ratio of 0 takes no time at all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speedup {
    /// Of everything.
    pub all: f64,
    /// Of decoding, beside `all`.
    pub decode: f64,
}

/// The model of an engine's speed.
#[derive(Debug, Clone)]
pub struct Timing {
    profile: Option<Arc<Profile>>,
    prefill_factor: f64,
    decode_factor: f64,
}

impl Default for Speedup {
    fn default() -> Self {
        Self {
            all: 1.0,
            decode: 1.0,
        }
    }
}

impl Timing {
    /// The published formulas, or a profile in their place.
    pub fn new(profile: Option<Arc<Profile>>, speedup: Speedup) -> Self {
        Self {
            profile,
            prefill_factor: factor(speedup.all),
            decode_factor: factor(speedup.all) * factor(speedup.decode),
        }
    }

    /// How long the step takes.
    pub fn duration(&self, work: &StepWork) -> Duration {
        let mut ms = 0.0;
        if work.prefill_tokens > 0 {
            ms += self.prefill_factor * self.prefill_ms(work.prefill_tokens as f64);
        }
        if work.decodes > 0 {
            ms += self.decode_factor * self.decode_ms(work);
        }
        Duration::from_secs_f64(ms.clamp(0.0, MAX_STEP_MS) / 1e3)
    }

    fn prefill_ms(&self, tokens: f64) -> f64 {
        let measured = self.profile.as_ref().and_then(|it| it.prefill_ms(tokens));
        measured.unwrap_or((4.209_989e-7 * tokens + 1.518_344e-2) * tokens + 16.501_42)
    }

    fn decode_ms(&self, work: &StepWork) -> f64 {
        let active = work.active_kv_tokens as f64;
        let context = work.decode_kv_tokens as f64 / work.decodes.max(1) as f64;
        let profile = self.profile.as_ref();
        let measured = profile.and_then(|it| it.decode_ms(active, context));
        measured.unwrap_or_else(|| {
            let p = (active / work.total_kv_tokens.max(1) as f64).min(1.0);
            ((-25.74 * p + 54.01) * p + 5.74).max(1.0)
        })
    }
}

fn factor(ratio: f64) -> f64 {
    if ratio > 0.0 { 1.0 / ratio } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(timing: &Timing, work: StepWork) -> f64 {
        timing.duration(&work).as_secs_f64() * 1e3
    }

    fn decode(active: u64) -> StepWork {
        StepWork {
            decodes: 2,
            decode_kv_tokens: 2 * 100,
            active_kv_tokens: active,
            total_kv_tokens: 1_000,
            ..StepWork::default()
        }
    }

    fn prefill(tokens: u64) -> StepWork {
        StepWork {
            prefill_tokens: tokens,
            ..StepWork::default()
        }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-4, "{a} is not {b}");
    }

    #[test]
    fn the_formulas_are_the_published_ones() {
        let timing = Timing::new(None, Speedup::default());
        close(ms(&timing, prefill(1_000)), 32.105_859);
        close(ms(&timing, decode(0)), 5.74);
        close(ms(&timing, decode(500)), 26.31);
        close(ms(&timing, decode(5_000)), 34.01);
        close(ms(&timing, StepWork::default()), 0.0);
        let mixed = StepWork {
            prefill_tokens: 1_000,
            ..decode(500)
        };
        close(ms(&timing, mixed), 32.105_859 + 26.31);
    }

    #[test]
    fn speedups_divide_and_zero_takes_no_time() {
        let speedup = |all, decode| Timing::new(None, Speedup { all, decode });
        close(ms(&speedup(10.0, 2.0), prefill(1_000)), 3.210_586);
        close(ms(&speedup(10.0, 2.0), decode(500)), 1.315_5);
        close(ms(&speedup(0.0, 2.0), decode(500)), 0.0);
        close(ms(&speedup(1.0, 0.0), decode(500)), 0.0);
        close(ms(&speedup(0.0, 1.0), prefill(1_000)), 0.0);
    }

    #[test]
    fn a_profile_replaces_what_it_measured() {
        let profile =
            Profile::parse(r#"{"prefill_isl":[100,200],"prefill_ttft_ms":[10,30]}"#).unwrap();
        let timing = Timing::new(Some(Arc::new(profile)), Speedup::default());
        close(ms(&timing, prefill(150)), 20.0);
        close(ms(&timing, decode(0)), 5.74);
    }
}
