//! How long the parts of a request may take. Pure data: whoever carries a part out keeps to it.

use std::time::Duration;

/// The bounds of one request. What is not given is not bounded here.
///
/// Each ends the request with an error code of its own:
///
/// | part | from | to | code |
/// |---|---|---|---|
/// | `queue` | the request wants a worker | it has one | `queue_timeout`, or `model_not_ready` if there was none |
/// | `dispatch` | it has one | that worker took it; a late one is followed by another while `queue` allows | `dispatch_timeout` |
/// | `first_token` | that | the first token | `first_token_timeout` |
/// | `inter_token` | a token was asked for | it came | `inter_token_timeout` |
///
/// The bound on the whole request belongs to whoever talks to the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadlines {
    /// Until a worker is chosen, and chosen again after it was lost.
    pub queue: Option<Duration>,
    /// Until a chosen worker has taken the request.
    pub dispatch: Option<Duration>,
    /// Until the first token.
    pub first_token: Option<Duration>,
    /// Between tokens.
    pub inter_token: Option<Duration>,
}

impl Deadlines {
    /// These, and where one is not given, that of `others`.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            queue: self.queue.or(others.queue),
            dispatch: self.dispatch.or(others.dispatch),
            first_token: self.first_token.or(others.first_token),
            inter_token: self.inter_token.or(others.inter_token),
        }
    }
}
