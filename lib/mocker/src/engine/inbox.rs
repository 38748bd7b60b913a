//! What a rank's task and the rest of the process share: requests and signals in, load and events
//! out.
//!
//! Bounds: requests by the option, signals by the open requests (each stream has at most one of
//! either kind under way), event batches by [`EVENT_BACKLOG`].

use super::handoff::{self, Sender, handoff};
use crate::config::Settings;
use crate::scheduler::{Load, SequenceId};
use dynamo_protocols::engine::{EngineRequest, FinishReason, KvEventStream, TokenId};
use dynamo_protocols::kv::KvEventBatch;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_util::stream;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Waker;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Event batches that a subscriber may lag behind; what comes then is left out, which shows as a
/// gap in the ids. A burst of steps makes one batch: at the shortest real steps this is ten
/// seconds.
const EVENT_BACKLOG: usize = 4_096;

/// How long to tell a refused client to wait: about the time of a short answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A token on its way to the consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Drawn {
    pub(super) token: TokenId,
    pub(super) finish: Option<FinishReason>,
    pub(super) cached_tokens: Option<u32>,
}

/// A request that was taken.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) id: SequenceId,
    pub(super) request: EngineRequest,
    pub(super) sender: Sender<Drawn>,
    pub(super) open: Open,
}

/// Both sides' view of each other.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: Notify,
    load: Mutex<Load>,
    subscribers: Mutex<Vec<Sender<KvEventBatch>>>,
    open: watch::Sender<usize>,
    max_waiting: usize,
}

/// What came in since the task last looked.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    pub(super) submissions: VecDeque<Submission>,
    /// Streams that were dropped, or have room again.
    pub(super) signals: Vec<SequenceId>,
}

#[derive(Debug, Default)]
struct State {
    arrivals: Arrivals,
    next_id: SequenceId,
    /// Requests that wait in the scheduler.
    waiting: usize,
    asleep: bool,
    ended: bool,
}

/// Counts a request as open for as long as it lives.
#[derive(Debug)]
pub(super) struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Inbox {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            load: Mutex::new(Load {
                ranks: 1,
                ..Load::default()
            }),
            subscribers: Mutex::default(),
            open: watch::Sender::new(0),
            max_waiting: settings.max_waiting,
        }
    }

    // Called by the process.

    /// Takes a request in, or refuses it because too many wait; answers its number.
    pub(super) fn submit(
        &self,
        request: EngineRequest,
        sender: Sender<Drawn>,
    ) -> Result<SequenceId, RequestError> {
        let mut state = self.state.lock();
        if state.ended {
            return Err(lost());
        }
        if state.arrivals.submissions.len() + state.waiting >= self.max_waiting {
            let message = format!(
                "{} requests wait for this engine already; try again later, or raise \
                 --max-queued-requests",
                self.max_waiting
            );
            let error = RequestError::new(ErrorCode::RateLimited, message);
            return Err(error.with_retry_after(RETRY_AFTER));
        }
        let id = state.next_id;
        state.next_id += 1;
        self.open.send_modify(|open| *open += 1);
        state.arrivals.submissions.push_back(Submission {
            id,
            request,
            sender,
            open: Open(self.open.clone()),
        });
        self.wake(&mut state);
        Ok(id)
    }

    /// Makes the task look at a stream: it was dropped, or has room again.
    pub(super) fn signal(&self, id: SequenceId) {
        let mut state = self.state.lock();
        if !state.ended {
            state.arrivals.signals.push(id);
            self.wake(&mut state);
        }
    }

    pub(super) fn open_requests(&self) -> usize {
        *self.open.borrow()
    }

    pub(super) async fn all_closed(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as this value.
        drop(open.wait_for(|open| *open == 0).await);
    }

    pub(super) fn load(&self) -> Load {
        *self.load.lock()
    }

    pub(super) fn subscribe(&self) -> KvEventStream {
        let (sender, receiver) = handoff(EVENT_BACKLOG);
        let mut subscribers = self.subscribers.lock();
        // Without a subscriber's sender its stream ends at once.
        if !self.state.lock().ended {
            subscribers.push(sender);
        }
        Box::pin(stream::unfold(receiver, |receiver| async move {
            let received = poll_fn(|context| receiver.poll(context)).await?;
            Some((received.item, receiver))
        }))
    }

    fn wake(&self, state: &mut State) {
        if std::mem::take(&mut state.asleep) {
            self.arrived.notify_one();
        }
    }

    // Called by the task.

    /// What came in since the last call. Until the next report, new requests count as waiting.
    pub(super) fn take(&self) -> Arrivals {
        let mut state = self.state.lock();
        state.waiting += state.arrivals.submissions.len();
        std::mem::take(&mut state.arrivals)
    }

    /// Sleeps until something comes in.
    pub(super) async fn arrival(&self) {
        loop {
            {
                let mut state = self.state.lock();
                if !state.arrivals.submissions.is_empty() || !state.arrivals.signals.is_empty() {
                    return;
                }
                state.asleep = true;
            }
            self.arrived.notified().await;
        }
    }

    /// How the task stands.
    pub(super) fn report(&self, waiting: usize, load: Load) {
        self.state.lock().waiting = waiting;
        *self.load.lock() = load;
    }

    /// Hands events to every subscriber that keeps up.
    pub(super) fn publish(&self, batch: &KvEventBatch, wakes: &mut Vec<Waker>) {
        let mut subscribers = self.subscribers.lock();
        subscribers.retain(|subscriber| {
            subscriber.is_full() || subscriber.push(batch.clone(), wakes) != handoff::Pushed::Closed
        });
    }

    /// Nothing is taken from now on: what still waits gets the error, event streams end.
    pub(super) fn end(&self) {
        let late = {
            let mut state = self.state.lock();
            state.ended = true;
            std::mem::take(&mut state.arrivals)
        };
        drop(late);
        self.subscribers.lock().clear();
    }
}

/// The engine ended without saying why.
pub(super) fn lost() -> RequestError {
    RequestError::new(
        ErrorCode::EngineFailed,
        "the simulated engine ended before the request did",
    )
}
