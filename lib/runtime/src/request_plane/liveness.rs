//! When a peer counts as gone. Pure; time is an argument.
//!
//! Each side pings at a fixed interval and takes anything it hears as a sign of life. A peer that
//! was silent for longer than the bound is gone, even if its kernel still acknowledges bytes: it
//! is frozen, cut off, or starved beyond use.
//!
//! A process that was stopped itself hears nothing meanwhile and must not blame its peers when it
//! wakes: a tick that comes far too late only asks again.

use std::time::Duration;
use tokio::time::Instant;

/// How often a peer is asked.
pub(super) const PING_INTERVAL: Duration = Duration::from_millis(500);

/// How long a peer may be silent: five pings. With the last interval it makes three seconds in
/// which a frozen worker is noticed, the default that the stream contract promises.
pub(super) const SILENCE_BOUND: Duration = Duration::from_millis(2500);

/// A tick this much late says that this process did not run, not that the peer was silent.
const OWN_STALL: Duration = Duration::from_millis(1500);

/// What to do at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Ask again.
    Ping,
    /// The peer is gone.
    Gone,
}

/// One side's view of its peer.
#[derive(Debug)]
pub(super) struct Liveness {
    last_tick: Instant,
    /// Silence is counted from here if nothing was heard since.
    counted_from: Instant,
}

impl Liveness {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last_tick: now,
            counted_from: now,
        }
    }

    /// Counts silence from now: what was not heard until now is not the peer's fault.
    pub(super) fn excuse(&mut self, now: Instant) {
        self.counted_from = now;
    }

    /// Judges the peer, which was last heard at `heard`.
    pub(super) fn tick(&mut self, now: Instant, heard: Instant) -> Verdict {
        let late = now.saturating_duration_since(self.last_tick + PING_INTERVAL);
        self.last_tick = now;
        if late > OWN_STALL {
            self.counted_from = now;
        }
        let silent_since = self.counted_from.max(heard);
        if now.saturating_duration_since(silent_since) > SILENCE_BOUND {
            return Verdict::Gone;
        }
        Verdict::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ticks every interval until the verdict, at most for a minute.
    fn gone_after(
        start: Instant,
        liveness: &mut Liveness,
        heard: impl Fn(Instant) -> Instant,
    ) -> Option<Duration> {
        let mut now = start;
        for _ in 0..120 {
            now += PING_INTERVAL;
            if liveness.tick(now, heard(now)) == Verdict::Gone {
                return Some(now - start);
            }
        }
        None
    }

    #[test]
    fn a_silent_peer_is_gone_within_three_seconds_and_not_before_the_bound() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let after = gone_after(start, &mut liveness, |_| start).unwrap();
        assert!(
            after > SILENCE_BOUND && after <= Duration::from_secs(3),
            "{after:?}"
        );
    }

    #[test]
    fn a_peer_that_answers_late_stays() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let heard = |now: Instant| now - Duration::from_secs(2);
        assert_eq!(
            gone_after(start + Duration::from_secs(2), &mut liveness, heard),
            None
        );
    }

    #[test]
    fn silence_that_is_excused_does_not_count() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let mut now = start;
        for _ in 0..100 {
            now += PING_INTERVAL;
            liveness.excuse(now);
            assert_eq!(liveness.tick(now, start), Verdict::Ping);
        }
        let after = gone_after(now, &mut liveness, |_| start).unwrap();
        assert!(after > SILENCE_BOUND, "a full bound: {after:?}");
    }

    #[test]
    fn a_process_that_was_stopped_does_not_blame_its_peer() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        let woken = start + Duration::from_secs(60);
        assert_eq!(liveness.tick(woken, start), Verdict::Ping);
        let after = gone_after(woken, &mut liveness, |_| start).unwrap();
        assert!(
            after > SILENCE_BOUND,
            "a full bound counted from the wake-up: {after:?}"
        );
    }
}
