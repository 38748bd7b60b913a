//! Whether a server is asked: a state machine over polls and requests. Pure.
//!
//! - a poll that is answered with a list of models brings a server in
//! - [`POLL_FAILURES`] polls in a row that are not take it out
//! - a connection that is refused takes it out at once: nobody listens there
//! - [`REQUEST_FAILURES`] other failures of requests in a row take it out
//!
//! What takes a server out is told once, and so is what brings it in.

use std::fmt;

/// Polls in a row that must fail. One may fail because the server's only thread is busy with a
/// long prompt.
pub const POLL_FAILURES: u32 = 2;

/// Failures of requests in a row: one may be the request's own doing.
pub const REQUEST_FAILURES: u32 = 3;

/// What is wrong with a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody listens.
    Refused,
    /// It does not answer in time.
    Slow,
    /// It broke off.
    Closed,
    /// What it says is not what such a server says.
    Nonsense(String),
}

/// What was seen of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// It said what it serves.
    Listed,
    /// It did not.
    PollFailed(Trouble),
    /// A request got an answer's head.
    Answered,
    /// A request got none, or a broken one.
    RequestFailed(Trouble),
}

/// A change of state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is asked from now on.
    In,
    /// It is not.
    Out(Trouble),
}

/// The state of a server. One that was never heard of is out.
#[derive(Debug, Clone, Default)]
pub struct Health {
    is_in: bool,
    /// Its first trouble was told.
    is_told: bool,
    polls_failed: u32,
    requests_failed: u32,
}

impl Health {
    /// Whether the server is asked.
    pub fn is_in(&self) -> bool {
        self.is_in
    }

    /// Takes in a sign; says if it changed anything.
    pub fn see(&mut self, sign: Sign) -> Option<Change> {
        match sign {
            Sign::Listed => {
                self.polls_failed = 0;
                // Of whoever is back, nothing is held against it.
                if !self.is_in {
                    self.requests_failed = 0;
                }
                self.is_told = true;
                (!std::mem::replace(&mut self.is_in, true)).then_some(Change::In)
            }
            Sign::Answered => {
                self.requests_failed = 0;
                None
            }
            Sign::PollFailed(trouble) => {
                self.polls_failed = self.polls_failed.saturating_add(1);
                let enough = trouble == Trouble::Refused || self.polls_failed >= POLL_FAILURES;
                self.fail(enough, trouble)
            }
            Sign::RequestFailed(trouble) => {
                self.requests_failed = self.requests_failed.saturating_add(1);
                let enough =
                    trouble == Trouble::Refused || self.requests_failed >= REQUEST_FAILURES;
                self.fail(enough, trouble)
            }
        }
    }

    fn fail(&mut self, enough: bool, trouble: Trouble) -> Option<Change> {
        if !enough {
            return None;
        }
        let was_in = std::mem::replace(&mut self.is_in, false);
        // That a server was never there is worth saying once.
        let is_news = was_in || !std::mem::replace(&mut self.is_told, true);
        is_news.then_some(Change::Out(trouble))
    }
}

impl Trouble {
    /// The name in labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Slow => "timeout",
            Self::Closed => "closed",
            Self::Nonsense(_) => "nonsense",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("it cannot be connected to"),
            Self::Slow => f.write_str("it does not answer in time"),
            Self::Closed => f.write_str("it broke off"),
            Self::Nonsense(what) => f.write_str(what),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_poll_is_forgiven_and_two_are_not() {
        let mut health = Health::default();
        assert_eq!(health.see(Sign::Listed), Some(Change::In));
        assert_eq!(health.see(Sign::PollFailed(Trouble::Slow)), None);
        assert_eq!(health.see(Sign::Listed), None);
        assert_eq!(health.see(Sign::PollFailed(Trouble::Slow)), None);
        assert!(health.is_in());
        let out = health.see(Sign::PollFailed(Trouble::Slow));
        assert_eq!(out, Some(Change::Out(Trouble::Slow)));
        assert_eq!(health.see(Sign::PollFailed(Trouble::Slow)), None);
        assert_eq!(health.see(Sign::Listed), Some(Change::In));
    }

    #[test]
    fn whoever_refuses_connections_is_out_at_once() {
        for refused in [
            Sign::PollFailed(Trouble::Refused),
            Sign::RequestFailed(Trouble::Refused),
        ] {
            let mut health = Health::default();
            health.see(Sign::Listed);
            assert_eq!(health.see(refused), Some(Change::Out(Trouble::Refused)));
        }
    }

    #[test]
    fn requests_that_fail_one_after_the_other_take_a_server_out() {
        let mut health = Health::default();
        health.see(Sign::Listed);
        let failed = Sign::RequestFailed(Trouble::Closed);
        for _ in 0..10 {
            assert_eq!(health.see(failed.clone()), None);
            assert_eq!(health.see(failed.clone()), None);
            health.see(Sign::Answered);
        }
        health.see(failed.clone());
        health.see(failed.clone());
        assert_eq!(health.see(failed), Some(Change::Out(Trouble::Closed)));
    }

    #[test]
    fn a_server_that_never_was_there_is_told_once() {
        let mut health = Health::default();
        let refused = || Sign::PollFailed(Trouble::Refused);
        assert_eq!(health.see(refused()), Some(Change::Out(Trouble::Refused)));
        assert_eq!(health.see(refused()), None);
        assert!(!health.is_in());
    }
}
