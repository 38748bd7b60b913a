//! Whether an engine works, judged by what it does and by small requests of its own. Pure: time is
//! an argument.
//!
//! - **It has requests**: its own work is the proof. An engine that has some and takes no step for
//!   the stall timeout stands still.
//! - **It has none**: after a while a canary is sent, and judged to its end. Two that fail in a row
//!   are the proof: one may have been unlucky on a busy machine.
//!
//! An engine that does not work is taken out; canaries go on, and one that succeeds brings it back.

use std::time::Duration;
use tokio::time::Instant;

/// Canaries that fail in a row before an engine is taken out.
const MOST_FAILURES: u32 = 2;

/// How soon a canary that failed is followed by the next one, and an engine that is out is asked
/// again.
const AGAIN: Duration = Duration::from_secs(2);

/// How long what may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Without work for so long, it gets a canary.
    pub(super) wait: Duration,
    /// With requests and without a step for so long, it stands still.
    pub(super) stall: Duration,
}

/// What an engine has and did, at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pulse {
    /// Requests that it has.
    pub(super) in_flight: usize,
    /// Grows while it works.
    pub(super) steps: u64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Nothing; look again then.
    Look(Instant),
    /// Send a canary, and say how it went.
    Send,
    /// Take the engine out: it stands still.
    TakeOut,
}

/// What a canary changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The engine is to be taken out.
    Out,
    /// It works again.
    Back,
}

/// What is known of an engine.
#[derive(Debug)]
pub(super) struct Vigil {
    limits: Limits,
    pulse: Pulse,
    /// When it was last seen to work, or to have nothing to do.
    worked: Instant,
    /// When a canary may be sent at the earliest.
    next_canary: Instant,
    failures: u32,
    is_out: bool,
}

impl Vigil {
    pub(super) fn new(limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            pulse: Pulse::default(),
            worked: now,
            next_canary: now + limits.wait,
            failures: 0,
            is_out: false,
        }
    }

    /// What to do, seeing this.
    pub(super) fn look(&mut self, now: Instant, pulse: Pulse) -> Duty {
        let had_none = self.pulse.in_flight == 0;
        let worked = pulse.steps != self.pulse.steps;
        self.pulse = pulse;
        if self.is_out {
            return self.canary_or_wait(now);
        }
        if worked || (had_none && pulse.in_flight > 0) {
            self.worked = now;
        }
        if worked {
            self.failures = 0;
            self.next_canary = now + self.limits.wait;
        }
        if pulse.in_flight == 0 {
            return self.canary_or_wait(now);
        }
        let stalled = self.worked + self.limits.stall;
        if now >= stalled {
            self.is_out = true;
            self.next_canary = now;
            return Duty::TakeOut;
        }
        Duty::Look(stalled.min(now + self.limits.wait))
    }

    /// A canary ended, well or not.
    pub(super) fn ended(&mut self, now: Instant, is_well: bool) -> Change {
        if is_well {
            self.failures = 0;
            self.worked = now;
            self.next_canary = now + self.limits.wait;
            return match std::mem::take(&mut self.is_out) {
                true => Change::Back,
                false => Change::None,
            };
        }
        self.failures = self.failures.saturating_add(1);
        self.next_canary = now + AGAIN.min(self.limits.wait);
        if self.is_out || self.failures < MOST_FAILURES {
            return Change::None;
        }
        self.is_out = true;
        Change::Out
    }

    fn canary_or_wait(&self, now: Instant) -> Duty {
        match now >= self.next_canary {
            true => Duty::Send,
            false => Duty::Look(self.next_canary),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        wait: Duration::from_secs(10),
        stall: Duration::from_secs(60),
    };

    fn pulse(in_flight: usize, steps: u64) -> Pulse {
        Pulse { in_flight, steps }
    }

    #[test]
    fn an_engine_with_nothing_to_do_gets_a_canary_now_and_then() {
        let start = Instant::now();
        let mut vigil = Vigil::new(LIMITS, start);
        let due = start + LIMITS.wait;
        assert_eq!(vigil.look(start, pulse(0, 0)), Duty::Look(due));
        assert_eq!(vigil.look(due, pulse(0, 0)), Duty::Send);
        // Its own steps do not count as work of others once it has ended.
        assert_eq!(vigil.ended(due, true), Change::None);
        assert_eq!(vigil.look(due, pulse(0, 3)), Duty::Look(due + LIMITS.wait));
    }

    #[test]
    fn an_engine_that_works_gets_none() {
        let mut now = Instant::now();
        let mut vigil = Vigil::new(LIMITS, now);
        for step in 1..100 {
            let Duty::Look(next) = vigil.look(now, pulse(4, step)) else {
                panic!("it works");
            };
            assert!(next > now);
            now = next;
        }
    }

    #[test]
    fn one_that_stands_still_with_requests_is_taken_out_and_brought_back_by_a_canary() {
        let start = Instant::now();
        let mut vigil = Vigil::new(LIMITS, start);
        // Long after it was last seen, but the request has just come.
        let mut now = start + 10 * LIMITS.stall;
        vigil.look(now, pulse(1, 7));
        let came = now;
        let out = loop {
            match vigil.look(now, pulse(1, 7)) {
                Duty::Look(next) => now = next,
                duty => break duty,
            }
        };
        assert_eq!(out, Duty::TakeOut);
        assert_eq!(now - came, LIMITS.stall);
        assert_eq!(vigil.look(now, pulse(0, 7)), Duty::Send);
        assert_eq!(vigil.ended(now, false), Change::None);
        assert_eq!(vigil.look(now, pulse(0, 7)), Duty::Look(now + AGAIN));
        assert_eq!(vigil.look(now + AGAIN, pulse(0, 7)), Duty::Send);
        assert_eq!(vigil.ended(now + AGAIN, true), Change::Back);
        assert!(matches!(
            vigil.look(now + AGAIN, pulse(0, 9)),
            Duty::Look(_)
        ));
    }

    #[test]
    fn two_canaries_that_fail_in_a_row_take_an_engine_out_and_one_does_not() {
        let mut now = Instant::now();
        let mut vigil = Vigil::new(LIMITS, now);
        for _ in 0..5 {
            now += LIMITS.wait;
            assert_eq!(vigil.look(now, pulse(0, 0)), Duty::Send);
            assert_eq!(vigil.ended(now, false), Change::None);
            now += AGAIN;
            assert_eq!(vigil.look(now, pulse(0, 0)), Duty::Send);
            assert_eq!(vigil.ended(now, true), Change::None);
        }
        now += LIMITS.wait;
        assert_eq!(vigil.ended(now, false), Change::None);
        assert_eq!(vigil.ended(now, false), Change::Out);
        assert_eq!(vigil.ended(now, false), Change::None);
        assert_eq!(vigil.ended(now, true), Change::Back);
    }
}
