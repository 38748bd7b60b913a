//! How patient the hub's client is. Pure.

use std::time::Duration;

/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);

/// How often to try again, how long to wait; the defaults are meant for everybody but tests that
/// cannot wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HubLimits {
    /// Attempts without progress; five spread over about eight seconds outlast a short failure
    /// and do not make a person wait for a long one.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles from there.
    pub first_pause: Duration,
    /// How long the server may send nothing, or next to nothing.
    pub stall: Duration,
    /// Pause between two looks at another process's lock.
    pub lock_pause: Duration,
    /// Looks at a lock, without seeing the other's file grow, before giving up. With the pause
    /// ten minutes: the other may be hashing a very large file.
    pub lock_looks: u32,
}

// === impl HubLimits ===

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            attempts: 5,
            first_pause: Duration::from_millis(500),
            stall: Duration::from_secs(30),
            lock_pause: Duration::from_millis(200),
            lock_looks: 3_000,
        }
    }
}

impl HubLimits {
    /// The pause after so many failed attempts.
    pub(super) fn pause(&self, failed: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failed.saturating_sub(1));
        self.first_pause.saturating_mul(doubled).min(LONGEST_PAUSE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let limits = HubLimits::default();
        let pauses: Vec<u128> = (1..=6).map(|n| limits.pause(n).as_millis()).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
        assert_eq!(limits.pause(u32::MAX), LONGEST_PAUSE);
    }
}
