//! Requests that wait for a worker, and the task that lets them go.
//!
//! Invariant: a request whose client left before it began is ended by whoever notices last, the
//! waiting side or the task.

use crate::router::{CANCELLED, Shared};
use dynamo_kv_router::cost::WorkerOverlap;
use dynamo_kv_router::index::Matches;
use dynamo_kv_router::queue::Place;
use dynamo_kv_router::router::{Placed, Refusal, Released};
use dynamo_protocols::{ErrorCode, RequestError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::sleep;

/// A place in the queue. Dropping it gives the place up.
pub(super) struct Waiting {
    pub(super) shared: Arc<Shared>,
    pub(super) place: Place,
    pub(super) answer: oneshot::Receiver<Result<Placed, Refusal>>,
}

impl Shared {
    /// Lets go whoever can, and refuses whoever has waited for too long. Says when to look again.
    fn release_waiting(&self) -> Option<Duration> {
        let now = self.now();
        let mut random = || self.environment.random.next_u64();
        let mut matches = Matches::new();
        let mut find = |hashes: &[u64], list: &mut Vec<WorkerOverlap>| {
            self.index.find(hashes, &mut matches);
            list.extend_from_slice(matches.overlaps());
        };
        let mut core = self.core.lock();
        let core = &mut *core;
        while let Some(Released { place, result }) = core.router.tick(now, &mut random, &mut find) {
            let waiter = core.waiters.remove(&place);
            let unheard = match waiter {
                Some(waiter) => waiter.send(result).err(),
                None => Some(result),
            };
            if let Some(Ok(placed)) = unheard {
                core.router.end(&placed.ticket, CANCELLED);
            }
        }
        self.tell(&core.router);
        let next = core.router.next_expiry()?;
        Some(next.saturating_sub(now))
    }
}

/// Lets waiting requests go when something happened, and refuses them when their time is up.
pub(super) async fn pump(shared: Arc<Shared>) {
    loop {
        let next = shared.release_waiting();
        let expiry = async {
            match next {
                Some(wait) => sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = shared.pump.notified() => {}
            () = expiry => {}
        }
    }
}

// === impl Waiting ===

impl Waiting {
    pub(super) async fn wait(mut self) -> Result<Placed, RequestError> {
        match (&mut self.answer).await {
            Ok(answer) => answer.map_err(RequestError::from),
            // The queue's task ends with the process.
            Err(_) => Err(RequestError::new(
                ErrorCode::Draining,
                "this process is stopping; try again",
            )),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut core = self.shared.core.lock();
        core.waiters.remove(&self.place);
        core.router.cancel(self.place);
        // Placed in the moment that its client left.
        if let Ok(Ok(placed)) = self.answer.try_recv() {
            core.router.end(&placed.ticket, CANCELLED);
            self.shared.wake(&core);
        }
    }
}
