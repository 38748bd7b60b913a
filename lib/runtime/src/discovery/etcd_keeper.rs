//! Keeps this process's entry in etcd: the shell around [`Tenancy`], which decides.

use super::etcd::{Shared, WITHDRAWN, Wish, key, lease};
use super::etcd_lease::{Step, Tenancy};
use super::{DiscoveryError, ProcessId};
use crate::etcd::{Attempts, CallError, Dialer, Link, Meaning};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a process that ends waits for etcd to take its leave: a dead etcd must not hold it, and
/// its lease ends by itself.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// What became of the wishes so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// The last wish that etcd holds, and under which id.
    settled: Option<(u64, ProcessId)>,
    /// The last wish that every endpoint was asked to take, in vain, and the last error.
    failed: Option<(u64, Arc<CallError>)>,
}

/// The task.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    dialer: Dialer,
    tenancy: Tenancy,
    attempts: Attempts,
    outcomes: watch::Sender<Outcome>,
    /// The wish that was there when the endpoints began to be tried.
    tried: u64,
    /// It was said that etcd is out of reach.
    is_troubled: bool,
    was_connected: bool,
}

// === impl Outcome ===

impl Outcome {
    /// Whether the wish of this number is settled, one way or the other.
    pub(super) fn settles(&self, number: u64) -> bool {
        let settled = self.settled.is_some_and(|(wish, _)| wish >= number);
        settled
            || self
                .failed
                .as_ref()
                .is_some_and(|(wish, _)| *wish >= number)
    }

    /// What became of the wish.
    pub(super) fn result(&self, number: u64, shared: &Shared) -> Result<ProcessId, DiscoveryError> {
        match (&self.settled, &self.failed) {
            (Some((wish, id)), _) if *wish >= number => Ok(*id),
            (_, Some((_, error))) => Err(shared.failure(error)),
            (_, None) => Err(DiscoveryError::Unavailable {
                backend: "etcd",
                reason: "it was not asked yet".to_owned(),
            }),
        }
    }
}

// === impl Keeper ===

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> (Self, watch::Receiver<Outcome>) {
        let dialer = Dialer::new(
            Arc::clone(&shared.settings),
            shared.environment.clone(),
            shared.tasks.clone(),
        );
        let (outcomes, receiver) = watch::channel(Outcome::default());
        let id = ProcessId::from_bits(shared.environment.random.next_u64());
        let keeper = Self {
            shared,
            dialer,
            tenancy: Tenancy::new(id),
            attempts: Attempts::default(),
            outcomes,
            tried: 0,
            is_troubled: false,
            was_connected: false,
        };
        (keeper, receiver)
    }

    /// Keeps the entry until cancelled, then takes leave.
    pub(super) async fn run(mut self) {
        let cancel = self.shared.tasks.cancellation().clone();
        let mut link = None;
        let keeping = Box::pin(self.keep(&mut link));
        cancel.run_until_cancelled(keeping).await;
        if let Some(link) = link
            && self.tenancy.holds_lease()
            && !self.shared.is_abandoned.load(Ordering::Relaxed)
        {
            // In vain: the lease ends by itself.
            drop(timeout(LEAVE_TIMEOUT, leave(&link, self.tenancy.id())).await);
        }
    }

    async fn keep(&mut self, link: &mut Option<Link>) {
        let mut wishes = self.shared.wish.subscribe();
        // Who announces nothing needs no lease.
        if wishes.wait_for(|wish| wish.number > 0).await.is_err() {
            return;
        }
        self.tried = wishes.borrow_and_update().number;
        loop {
            let error = match self.dialer.dial().await {
                Ok(dialled) => {
                    if self.was_connected {
                        self.shared.metrics.figures().reconnects.inc();
                    }
                    self.was_connected = true;
                    self.serve(link.insert(dialled), &mut wishes).await
                }
                Err(error) => error,
            };
            *link = None;
            self.failed(error, &mut wishes).await;
        }
    }

    /// Does what there is to do over one connection, until it fails.
    async fn serve(&mut self, link: &Link, wishes: &mut watch::Receiver<Wish>) -> CallError {
        loop {
            let wish = wishes.borrow_and_update().clone();
            let now = Instant::now();
            let step = self.tenancy.step(wish.number, now);
            if let Step::Rest(until) = step {
                tokio::select! {
                    biased;
                    changed = wishes.changed() => {
                        if changed.is_err() {
                            return CallError::Broken("the process is ending".to_owned());
                        }
                    }
                    () = sleep_until(until) => {}
                }
                continue;
            }
            if let Err(error) = self.take(step, link, &wish, now).await {
                return error;
            }
        }
    }

    async fn take(
        &mut self,
        step: Step,
        link: &Link,
        wish: &Wish,
        now: Instant,
    ) -> Result<(), CallError> {
        let (limit, id) = (self.shared.timings.call, self.tenancy.id());
        match step {
            Step::Grant => match link.grant(lease(id), self.shared.timings.ttl, limit).await {
                Ok(ttl) => self.tenancy.granted(ttl, now),
                Err(error) if error.meaning() == Meaning::LeaseTaken => {
                    let other = self.shared.environment.random.next_u64();
                    if self.tenancy.taken(ProcessId::from_bits(other), now) {
                        // It may be about to end: looked at after a pause.
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            },
            Step::Renew => match link.renew(lease(id), limit).await? {
                Some(ttl) => self.tenancy.renewed(ttl, now),
                None => self.lease_lost(),
            },
            Step::Write => match link
                .ensure(&key(id), wish.value.clone(), lease(id), limit)
                .await
            {
                Ok(()) => self.wrote(wish.number),
                Err(error) if error.meaning() == Meaning::LeaseMissing => self.lease_lost(),
                Err(error) => return Err(error),
            },
            Step::Rest(_) => {}
        }
        Ok(())
    }

    fn lease_lost(&mut self) {
        self.tenancy.lost();
        self.shared.metrics.figures().leases_lost.inc();
        self.shared.metrics.set_announced(false);
        tracing::warn!(
            instance_id = %self.tenancy.id(),
            "this process's etcd lease ended, announcing it again under the same id"
        );
    }

    fn wrote(&mut self, number: u64) {
        self.tenancy.wrote(number);
        self.attempts.succeeded();
        if self.is_troubled {
            self.is_troubled = false;
            tracing::info!(instance_id = %self.tenancy.id(), "announced this process again in etcd");
        }
        let id = self.tenancy.id();
        self.outcomes.send_modify(|outcome| {
            outcome.settled = Some((number, id));
            outcome.failed = None;
        });
        let wished = self.shared.wish.borrow().number;
        self.shared.metrics.set_announced(wished == number);
    }

    /// Says so, and pauses when each endpoint was tried. A new wish ends the pause: whoever wishes
    /// waits for an attempt.
    async fn failed(&mut self, error: CallError, wishes: &mut watch::Receiver<Wish>) {
        self.shared.metrics.set_announced(false);
        let endpoints = self.shared.settings.endpoints.len();
        let random = self.shared.environment.random.next_u64();
        let Some(pause) = self.attempts.failed(endpoints, random) else {
            return;
        };
        if !self.is_troubled {
            self.is_troubled = true;
            tracing::warn!(
                endpoints = %self.shared.settings.shown(), %error,
                "cannot announce this process in etcd, trying again until it works: {}", self.shared.settings.hint(&error)
            );
        }
        let (error, tried) = (Arc::new(error), self.tried);
        self.outcomes
            .send_modify(|outcome| outcome.failed = Some((tried, error)));
        let waiting = wishes.borrow().number > tried;
        tokio::select! {
            biased;
            () = std::future::ready(()), if waiting => {}
            _ = wishes.changed() => {}
            () = sleep(pause) => {}
        }
        self.tried = wishes.borrow_and_update().number;
    }
}

/// Says that this process is gone, in a way that others believe also after an outage.
async fn leave(link: &Link, id: ProcessId) {
    let withdrawn = Bytes::from_static(WITHDRAWN);
    let written = link
        .ensure(&key(id), withdrawn, lease(id), LEAVE_TIMEOUT)
        .await;
    let revoked = link.revoke(lease(id), LEAVE_TIMEOUT).await;
    if let Err(error) = written.and(revoked) {
        tracing::debug!(%error, "could not take this process out of etcd");
    }
}
