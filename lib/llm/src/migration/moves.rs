//! Whether a request whose attempt failed is tried again, and after how long. Pure: time and
//! randomness are arguments.
//!
//! - **A worker did not take it** (it is gone, drains, is late, is not there yet): another one is asked, for
//!   as long as a request may wait for a worker.
//! - **A worker took it and failed**: the answer moves, so often as is allowed. A request after
//!   which worker upon worker fails without a token may be the reason: it ends.
//! - **Workers are full**: an answer that has begun waits for one; one that has not is refused, so
//!   that clients and balancers hear of it.
//! - **Anything else** is final.

use dynamo_protocols::error::{ErrorCode, RequestError};
use std::time::Duration;
use tokio::time::Instant;

/// Attempts in a row that workers took and failed at without a token. More than two workers rarely
/// fail at once for reasons of their own; the request that makes them fail must not reach them all.
const MAX_FRUITLESS: u32 = 4;

/// First pause before an attempt that follows a fruitless one: discovery hears of a change within
/// a few of these.
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Longest pause: a worker that has come back is used within this time.
const LONGEST_PAUSE: Duration = Duration::from_millis(640);

/// The bounds of one request's moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoveLimits {
    /// How often it may move from a worker that had taken it; `None` if it is tried once at all.
    pub moves: Option<u32>,
    /// How long it waits for a worker.
    pub wait: Option<Duration>,
}

/// How often one request was tried.
#[derive(Debug)]
pub struct Moves {
    limits: MoveLimits,
    moves: u32,
    fruitless: u32,
    /// Attempts since the last token.
    attempts: u32,
    /// Since when it has been without a worker that gives it tokens.
    since: Instant,
    /// Whether it ever gave a token.
    has_begun: bool,
}

/// What to do after an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Try again.
    Again {
        /// After so long.
        wait: Duration,
        /// Whether a worker had taken it.
        moved: bool,
    },
    /// The error is the answer's end.
    GiveUp,
}

/// What an error says of an attempt.
enum Failure {
    NotTaken,
    Taken,
    Full,
    Final,
}

impl Failure {
    fn of(error: &RequestError) -> Self {
        match error.code {
            ErrorCode::WorkerUnreachable
            | ErrorCode::DispatchTimeout
            | ErrorCode::Draining
            | ErrorCode::ModelNotReady => Self::NotTaken,
            ErrorCode::WorkerLost | ErrorCode::WorkerProtocol | ErrorCode::EngineFailed => {
                Self::Taken
            }
            ErrorCode::NoCapacity => Self::Full,
            _ => Self::Final,
        }
    }
}

impl Moves {
    /// A request that was not tried yet.
    pub fn new(limits: MoveLimits, now: Instant) -> Self {
        Self {
            limits,
            moves: 0,
            fruitless: 0,
            attempts: 0,
            since: now,
            has_begun: false,
        }
    }

    /// It has given a token.
    pub fn progressed(&mut self) {
        self.has_begun = true;
        self.fruitless = 0;
        self.attempts = 0;
    }

    /// An attempt failed, after it had given a token or not. `bits` are random.
    pub fn judge(
        &mut self,
        error: &RequestError,
        now: Instant,
        progressed: bool,
        bits: u64,
    ) -> Verdict {
        if progressed {
            self.since = now;
        }
        let moved = match Failure::of(error) {
            // What has begun was taken, whatever the worker says of its end.
            Failure::NotTaken => progressed,
            Failure::Taken => true,
            Failure::Full if self.has_begun => progressed,
            Failure::Full | Failure::Final => return Verdict::GiveUp,
        };
        if moved {
            self.moves += 1;
            self.fruitless += u32::from(!progressed);
        }
        let waited = now.saturating_duration_since(self.since);
        let is_over = self.limits.wait.is_some_and(|limit| waited >= limit);
        let has_moves = self.limits.moves.is_some_and(|limit| self.moves <= limit);
        if !has_moves || self.fruitless >= MAX_FRUITLESS || is_over {
            return Verdict::GiveUp;
        }
        let wait = pause(self.attempts, bits);
        self.attempts = self.attempts.saturating_add(1);
        Verdict::Again { wait, moved }
    }
}

/// None before the first attempt that follows a failure: mostly another worker is there. Longer
/// ones are spread, so that a thousand answers of one worker do not ask the next one at once.
fn pause(attempts: u32, bits: u64) -> Duration {
    if attempts == 0 {
        return Duration::ZERO;
    }
    let doubled = FIRST_PAUSE * (1 << (attempts - 1).min(10));
    let longest = doubled.min(LONGEST_PAUSE);
    // Between a half and the whole of it.
    let share = (bits >> 48) as u32;
    longest / 2 + longest / 2 * share / (1 << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: MoveLimits = MoveLimits {
        moves: Some(3),
        wait: Some(Duration::from_secs(10)),
    };

    fn judge(moves: &mut Moves, code: ErrorCode, now: Instant, progressed: bool) -> Verdict {
        moves.judge(&RequestError::new(code, "it failed"), now, progressed, 0)
    }

    fn moved(verdict: Verdict) -> Option<bool> {
        match verdict {
            Verdict::Again { moved, .. } => Some(moved),
            Verdict::GiveUp => None,
        }
    }

    #[test]
    fn an_answer_moves_as_often_as_is_allowed() {
        let now = Instant::now();
        let mut moves = Moves::new(LIMITS, now);
        for _ in 0..3 {
            moves.progressed();
            let verdict = judge(&mut moves, ErrorCode::WorkerLost, now, true);
            assert_eq!(moved(verdict), Some(true));
        }
        moves.progressed();
        let verdict = judge(&mut moves, ErrorCode::WorkerLost, now, true);
        assert_eq!(verdict, Verdict::GiveUp);
    }

    #[test]
    fn without_a_worker_it_waits_for_one_and_no_longer_than_its_deadline() {
        let start = Instant::now();
        let (mut moves, mut now, mut attempts) = (Moves::new(LIMITS, start), start, 0);
        while let Verdict::Again { wait, moved } =
            judge(&mut moves, ErrorCode::ModelNotReady, now, false)
        {
            assert!(!moved && wait <= LONGEST_PAUSE);
            now += wait;
            attempts += 1;
        }
        assert!(now - start >= Duration::from_secs(10), "{:?}", now - start);
        assert!(now - start < Duration::from_secs(11));
        assert!(attempts < 60, "{attempts} attempts");
    }

    #[test]
    fn a_request_that_makes_workers_fail_does_not_reach_them_all() {
        let now = Instant::now();
        let limits = MoveLimits {
            moves: Some(16),
            ..LIMITS
        };
        let mut moves = Moves::new(limits, now);
        let mut failed = 1;
        while judge(&mut moves, ErrorCode::EngineFailed, now, false) != Verdict::GiveUp {
            failed += 1;
        }
        assert_eq!(failed, MAX_FRUITLESS);
    }

    #[test]
    fn full_workers_refuse_what_has_not_begun_and_keep_waiting_what_has() {
        let now = Instant::now();
        let mut moves = Moves::new(LIMITS, now);
        let verdict = judge(&mut moves, ErrorCode::NoCapacity, now, false);
        assert_eq!(verdict, Verdict::GiveUp);
        moves.progressed();
        judge(&mut moves, ErrorCode::WorkerLost, now, true);
        for _ in 0..20 {
            let verdict = judge(&mut moves, ErrorCode::NoCapacity, now, false);
            assert_eq!(moved(verdict), Some(false));
        }
    }

    #[test]
    fn what_only_the_client_can_mend_is_final() {
        let now = Instant::now();
        for code in ErrorCode::ALL {
            let verdict = judge(&mut Moves::new(LIMITS, now), *code, now, false);
            let goes_on = verdict != Verdict::GiveUp;
            let expected = code.may_retry_elsewhere() && *code != ErrorCode::NoCapacity;
            assert_eq!(
                goes_on,
                expected || *code == ErrorCode::ModelNotReady,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_request_that_is_tried_once_ends_with_its_first_error() {
        let now = Instant::now();
        for code in [ErrorCode::WorkerLost, ErrorCode::ModelNotReady] {
            let limits = MoveLimits {
                moves: None,
                ..LIMITS
            };
            let verdict = judge(&mut Moves::new(limits, now), code, now, false);
            assert_eq!(verdict, Verdict::GiveUp);
        }
    }

    #[test]
    fn without_moves_it_still_waits_for_a_worker_that_takes_it() {
        let now = Instant::now();
        let limits = MoveLimits {
            moves: Some(0),
            ..LIMITS
        };
        let mut moves = Moves::new(limits, now);
        let verdict = judge(&mut moves, ErrorCode::Draining, now, false);
        assert_eq!(moved(verdict), Some(false));
        let verdict = judge(&mut moves, ErrorCode::WorkerLost, now, false);
        assert_eq!(verdict, Verdict::GiveUp);
    }
}
