//! What the engine's thread and the rest of the process share: commands in, reports out.
//!
//! The thread sleeps on the inbox when there is nothing to compute. Nothing here blocks for
//! longer than it takes to move a few values.

use super::stream::Link;
use crate::constraint::Matching;
use dynamo_protocols::engine::EngineRequest;
use dynamo_protocols::kv::{Block, KvEventBatch};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::{ErrorCode, RequestError};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{broadcast, oneshot, watch};

use super::transfer::{Exported, Imported};

/// Embedding and transfer jobs that may wait for the thread. Each is heavy: a second of work in
/// the queue is better refused than kept.
const MAX_WAITING_JOBS: usize = 64;

/// Event batches that a subscriber may lag behind. One step makes at most one batch.
const EVENT_BACKLOG: usize = 4_096;

/// How long to tell a refused client to wait: about the time of a short answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A check of the streams that does not depend on anybody waking the thread.
const IDLE_CHECK: Duration = Duration::from_millis(500);

/// A request that was taken.
#[derive(Debug)]
pub(super) struct Submission {
    pub(super) request: EngineRequest,
    /// Its constraint, at the place where the answer goes on.
    pub(super) matching: Option<Box<Matching>>,
    pub(super) link: Link,
    pub(super) open: Open,
}

type Reply<T> = oneshot::Sender<Result<T, RequestError>>;

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Command {
    Generate(Box<Submission>),
    Embed {
        inputs: Vec<Vec<u32>>,
        reply: Reply<Vec<Vec<f32>>>,
    },
    Export {
        blocks: Vec<Block>,
        reply: Reply<Exported>,
    },
    Import {
        prefix: Imported,
        reply: Reply<usize>,
    },
}

/// Both sides' view of each other.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    load: Mutex<LoadReport>,
    /// Turns of the thread's loop.
    steps: AtomicU64,
    /// `None` once the engine has ended: then event streams end too.
    events: Mutex<Option<broadcast::Sender<KvEventBatch>>>,
    open: watch::Sender<usize>,
}

#[derive(Debug, Default)]
struct State {
    inbox: VecDeque<Command>,
    /// Requests in the inbox.
    submitted: usize,
    /// Other commands in the inbox.
    jobs: usize,
    /// Of those taken, the ones not done yet.
    jobs_in_work: usize,
    /// Requests that wait in the scheduler.
    waiting: usize,
    woken: bool,
    stopping: bool,
    ended: Option<RequestError>,
}

/// Counts a request as open for as long as it lives.
#[derive(Debug)]
pub(super) struct Open(watch::Sender<usize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::default(),
            wake: Condvar::new(),
            load: Mutex::default(),
            steps: AtomicU64::new(0),
            events: Mutex::new(Some(broadcast::Sender::new(EVENT_BACKLOG))),
            open: watch::Sender::new(0),
        }
    }

    // Called by the process.

    pub(super) fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }

    pub(super) fn open(&self) -> Open {
        self.open.send_modify(|open| *open += 1);
        Open(self.open.clone())
    }

    pub(super) async fn all_closed(&self) {
        let mut open = self.open.subscribe();
        // The sender lives as long as this value.
        drop(open.wait_for(|open| *open == 0).await);
    }

    /// Takes a request in, or refuses it because too many wait.
    pub(super) fn submit(
        &self,
        submission: Submission,
        max_waiting: usize,
    ) -> Result<(), RequestError> {
        let mut state = self.state.lock();
        state.check()?;
        if state.submitted + state.waiting >= max_waiting {
            let message = format!(
                "{max_waiting} requests wait for this engine already; try again later, or raise \
                 --max-queued-requests"
            );
            let error = RequestError::new(ErrorCode::RateLimited, message);
            return Err(error.with_retry_after(RETRY_AFTER));
        }
        state.submitted += 1;
        state
            .inbox
            .push_back(Command::Generate(Box::new(submission)));
        self.wake.notify_one();
        Ok(())
    }

    /// Takes another command in.
    pub(super) fn send(&self, command: Command) -> Result<(), RequestError> {
        let mut state = self.state.lock();
        state.check()?;
        if state.jobs + state.jobs_in_work >= MAX_WAITING_JOBS {
            let message = format!("{MAX_WAITING_JOBS} jobs wait for this engine; try again later");
            let error = RequestError::new(ErrorCode::NoCapacity, message);
            return Err(error.with_retry_after(RETRY_AFTER));
        }
        state.jobs += 1;
        state.inbox.push_back(command);
        self.wake.notify_one();
        Ok(())
    }

    /// Makes the thread look at its streams again.
    pub(super) fn wake(&self) {
        self.state.lock().woken = true;
        self.wake.notify_one();
    }

    pub(super) fn stop(&self) {
        self.state.lock().stopping = true;
        self.wake.notify_one();
    }

    pub(super) fn load(&self) -> LoadReport {
        self.load.lock().clone()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<KvEventBatch> {
        match self.events.lock().as_ref() {
            Some(events) => events.subscribe(),
            // A receiver whose sender is gone: a stream that ends at once.
            None => broadcast::Sender::new(1).subscribe(),
        }
    }

    /// Why the thread did not answer.
    pub(super) fn gone(&self) -> RequestError {
        let state = self.state.lock();
        state.ended.clone().unwrap_or_else(lost)
    }

    // Called by the thread.

    /// The commands since the last call.
    pub(super) fn take(&self) -> VecDeque<Command> {
        let mut state = self.state.lock();
        state.woken = false;
        // Until the thread has reported on them, all of them count as waiting.
        state.jobs_in_work += std::mem::take(&mut state.jobs);
        state.waiting += std::mem::take(&mut state.submitted);
        std::mem::take(&mut state.inbox)
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.state.lock().stopping
    }

    /// Sleeps until there is a command or a reason to look at the streams.
    pub(super) fn sleep(&self, streams: bool) {
        let mut state = self.state.lock();
        if !state.inbox.is_empty() || state.woken || state.stopping {
            return;
        }
        if streams {
            self.wake.wait_for(&mut state, IDLE_CHECK);
        } else {
            self.wake.wait(&mut state);
        }
    }

    /// The thread has come round once more.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// What the thread still has to do, and how it stands.
    pub(super) fn report(&self, waiting: usize, jobs: usize, load: LoadReport) {
        let mut state = self.state.lock();
        state.waiting = waiting;
        state.jobs_in_work = jobs;
        drop(state);
        *self.load.lock() = load;
    }

    pub(super) fn publish(&self, batch: KvEventBatch) {
        if let Some(events) = self.events.lock().as_ref() {
            // Nobody listening is no error.
            drop(events.send(batch));
        }
    }

    /// No command is taken from now on; gives back those that still wait.
    pub(super) fn end(&self, error: &RequestError) -> VecDeque<Command> {
        self.events.lock().take();
        let mut state = self.state.lock();
        state.ended = Some(error.clone());
        std::mem::take(&mut state.inbox)
    }
}

impl State {
    fn check(&self) -> Result<(), RequestError> {
        match &self.ended {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }
}

/// The engine ended without saying why.
pub(super) fn lost() -> RequestError {
    RequestError::new(
        ErrorCode::EngineFailed,
        "the engine ended before the request did; its log says why",
    )
}
