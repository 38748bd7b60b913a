//! How long to wait before the next connection.

use std::time::Duration;

/// The first wait: an engine that restarts its publisher is back at once.
const FIRST: Duration = Duration::from_millis(50);

/// The longest wait: an engine that loads a model for minutes is heard within seconds of its
/// start, and a connection per 5 seconds costs nobody anything.
const LONGEST: Duration = Duration::from_secs(5);

/// Waits that double up to a bound, each shortened by up to a half at random, so that listeners
/// to one engine do not come back together.
#[derive(Debug)]
pub(super) struct Backoff {
    wait: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { wait: FIRST }
    }
}

impl Backoff {
    /// The next wait.
    pub(super) fn next(&mut self, random: u64) -> Duration {
        let half = self.wait / 2;
        self.wait = (2 * self.wait).min(LONGEST);
        half + half.mul_f64(random as f64 / u64::MAX as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(u64::MAX), FIRST);
        assert_eq!(backoff.next(0), FIRST);
        for _ in 0..20 {
            backoff.next(7);
        }
        assert_eq!(backoff.next(u64::MAX), LONGEST);
        assert_eq!(backoff.next(0), LONGEST / 2);
    }
}
