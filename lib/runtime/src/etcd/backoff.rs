//! When to try again: each endpoint once without a pause, then a pause that grows up to a bound
//! and is never the same in two processes. Pure.

use std::time::Duration;

/// The first pause is at most this: a member that restarts is back in about as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause: a process is to be back well within the grace that the others give it.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Failures since the last success.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
}

impl Attempts {
    /// Something worked.
    pub fn succeeded(&mut self) {
        self.failed = 0;
    }

    /// Something failed: how long to wait before the next attempt. `None` while there are endpoints
    /// that were not tried since the last pause.
    pub fn failed(&mut self, endpoints: usize, random: u64) -> Option<Duration> {
        let endpoints = u32::try_from(endpoints).unwrap_or(u32::MAX).max(1);
        self.failed = self.failed.saturating_add(1);
        if !self.failed.is_multiple_of(endpoints) {
            return None;
        }
        let doublings = (self.failed / endpoints - 1).min(8);
        let most = (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE);
        // Between half of it and all of it, so that those who lost the same server do not come back
        // at the same moment.
        let share = (random % 1_000) as f64 / 1_000.0;
        Some(most.mul_f64(0.5 + share / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pauses_are_bounded_and_come_after_each_endpoint_was_tried(
            endpoints in 1_usize..6,
            draws in prop::collection::vec(any::<u64>(), 1..60),
        ) {
            let mut attempts = Attempts::default();
            for (n, random) in (1..).zip(draws) {
                let pause = attempts.failed(endpoints, random);
                prop_assert_eq!(pause.is_some(), n % endpoints == 0);
                let pause = pause.unwrap_or(FIRST_PAUSE);
                prop_assert!(pause >= FIRST_PAUSE / 2 && pause <= LONGEST_PAUSE);
            }
        }
    }

    #[test]
    fn a_success_makes_pauses_short_again() {
        let mut attempts = Attempts::default();
        for _ in 0..10 {
            attempts.failed(1, 0);
        }
        assert_eq!(attempts.failed(1, 0), Some(LONGEST_PAUSE / 2));
        attempts.succeeded();
        assert_eq!(attempts.failed(1, 0), Some(FIRST_PAUSE / 2));
    }
}
