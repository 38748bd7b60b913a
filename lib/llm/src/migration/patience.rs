//! How long to wait for tokens.
//!
//! The time in which nobody asked for a token does not count: a slow reader is not a slow worker.
//! The clock runs from the first time that there was none to the next one that there is.
//!
//! Invariant: a token costs a look at the clock and no timer. The timer stands where it was set
//! and, when it fires too early, is set to where it should stand by now.

use dynamo_protocols::deadline::Deadlines;
use dynamo_protocols::error::{ErrorCode, RequestError};
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until};

/// See the module's description.
pub(super) struct Patience {
    first_token: Option<Duration>,
    inter_token: Option<Duration>,
    /// When the request was first taken by a worker; `None` once it has a token.
    first_since: Option<Instant>,
    has_token: bool,
    /// Since when there was none though one was asked for.
    waiting_since: Option<Instant>,
    timer: Option<Alarm>,
}

/// A timer that was polled, and whom it wakes.
struct Alarm {
    sleep: Pin<Box<Sleep>>,
    waker: Waker,
}

impl Alarm {
    /// Whether there is nothing to do until it fires: it will, by `due`, and wake the one who asks.
    fn is_set(&self, cx: &Context<'_>, due: Instant) -> bool {
        self.sleep.deadline() <= due && self.waker.will_wake(cx.waker()) && !self.sleep.is_elapsed()
    }
}

impl Patience {
    pub(super) fn new(deadlines: &Deadlines) -> Self {
        Self {
            first_token: deadlines.first_token,
            inter_token: deadlines.inter_token,
            first_since: None,
            has_token: false,
            waiting_since: None,
            timer: None,
        }
    }

    /// A worker has the request. Only the first time counts: the client waits all the same.
    pub(super) fn dispatched(&mut self, now: Instant) {
        if !self.has_token {
            self.first_since.get_or_insert(now);
        }
    }

    /// The engine has given something.
    pub(super) fn heard(&mut self) {
        self.waiting_since = None;
    }

    /// It was a token.
    pub(super) fn first_token(&mut self) {
        self.has_token = true;
        self.first_since = None;
    }

    /// There is nothing now. Ready, with what ends the answer, when there was nothing for too
    /// long.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<RequestError> {
        let waiting_since = *self.waiting_since.get_or_insert(now);
        let (since, limit) = match self.has_token {
            true => (Some(waiting_since), self.inter_token),
            false => (self.first_since, self.first_token),
        };
        let (Some(since), Some(limit)) = (since, limit) else {
            return Poll::Pending;
        };
        let due = since + limit;
        if self.timer.as_ref().is_some_and(|it| it.is_set(cx, due)) {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Alarm {
            sleep: Box::pin(sleep_until(due)),
            waker: cx.waker().clone(),
        });
        timer.waker.clone_from(cx.waker());
        let sleep = &mut timer.sleep;
        if sleep.deadline() > due {
            sleep.as_mut().reset(due);
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= due {
                return Poll::Ready(self.over(limit));
            }
            sleep.as_mut().reset(due);
        }
    }

    fn over(&self, limit: Duration) -> RequestError {
        let seconds = limit.as_secs_f64();
        if self.has_token {
            return RequestError::new(
                ErrorCode::InterTokenTimeout,
                format!(
                    "the answer stood still for {seconds}s; allow more with --inter-token-timeout or the x-dynamo-inter-token-timeout-ms header"
                ),
            );
        }
        RequestError::new(
            ErrorCode::FirstTokenTimeout,
            format!(
                "the first token did not come within {seconds}s; allow more with --first-token-timeout or the x-dynamo-first-token-timeout-ms header"
            ),
        )
    }
}
