//! Discovery among machines, through etcd.
//!
//! One key per process, `/dynamo/v1/processes/ID`, holds the process's record as JSON, under a lease
//! of the same id that the process renews. When it dies the lease ends, and the key with it. A
//! process that withdrew has the value `null`.
//!
//! Two tasks, each with a connection of its own: one keeps this process's entry
//! (`etcd_keeper`, whose decisions are `etcd_lease`'s), one follows everybody's
//! while somebody watches (`etcd_follower`, whose decisions are `etcd_mirror`'s).
//! The client is [`crate::etcd`].
//!
//! # When etcd is out of reach
//!
//! The last known view is kept and marked stale, and both tasks try again, each endpoint in turn,
//! for as long as it takes. Back in reach, processes announce themselves under the ids that they
//! had, and who was known and is not there yet is kept for a grace: a lease's time and some seconds
//! more. It makes no difference whether etcd comes back with its data, without, or from the past:
//! what it holds is read anew with each connection.
//!
//! # Liveness of etcd
//!
//! A server that stopped answering, or one that is cut off from the other members, can keep its
//! connections open. So a watch is believed only while a small read that needs the whole cluster is
//! answered in time, several times within a lease's time: an outage that is long enough for leases
//! to end is noticed before their end is.

use super::etcd_keeper::{Keeper, Outcome};
use super::feed::{DiscoveryWatch, Feed};
use super::metrics::{DiscoveryMetrics, HandleMetrics};
use super::{Discovery, DiscoveryError, ProcessId, ProcessRecord, etcd_follower};
use crate::etcd::{CallError, EtcdSettings, Meaning};
use crate::{Environment, Tasks};
use bytes::Bytes;
use futures_core::future::BoxFuture;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::timeout;

/// Lease time unless one is given: a dead machine is noticed within it (a dead process sooner, by
/// its connections), and an etcd that elects a leader or is restarted has time to.
pub const DEFAULT_LEASE_TTL: Duration = Duration::from_secs(10);

/// The shortest lease time that can be asked for: renewals and probes are fractions of it.
pub const LEAST_LEASE_TTL: Duration = Duration::from_secs(5);

/// What the processes' keys begin with.
pub const PREFIX: &str = "/dynamo/v1/processes/";

/// How long an announcement waits for etcd before it says that etcd is unavailable.
const ANNOUNCE_PATIENCE: Duration = Duration::from_secs(10);

/// What a process has in the place of a record when it withdrew.
pub(super) const WITHDRAWN: &[u8] = b"null";

/// Waits and bounds, all made of the lease's time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timings {
    /// The lease's time.
    pub(super) ttl: Duration,
    /// How long a call may take: as long as until the next renewal is due.
    pub(super) call: Duration,
    /// How often a watch's server is probed.
    pub(super) probe_every: Duration,
    /// How long a probe's answer may take.
    pub(super) probe: Duration,
    /// How long the missing are kept after an outage.
    pub(super) grace: Duration,
}

/// The `etcd` backend, seen from one process.
pub struct EtcdDiscovery {
    shared: Arc<Shared>,
    outcomes: watch::Receiver<Outcome>,
    tasks: Tasks,
}

/// What the tasks and the handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) settings: Arc<EtcdSettings>,
    pub(super) environment: Environment,
    pub(super) tasks: Tasks,
    pub(super) timings: Timings,
    pub(super) feed: Feed,
    pub(super) metrics: HandleMetrics,
    pub(super) wish: watch::Sender<Wish>,
    /// The process is to look as if it had been killed.
    pub(super) is_abandoned: AtomicBool,
}

/// What this process wants etcd to hold.
#[derive(Debug, Clone, Default)]
pub(super) struct Wish {
    /// Counts wishes; 0: nothing was wished yet.
    pub(super) number: u64,
    pub(super) value: Bytes,
}

// === impl Timings ===

impl Timings {
    fn new(ttl: Duration) -> Self {
        // On a lease time of 10 s: probes every 2 s that may take 2 s notice a loss within 4 s.
        let probe = (ttl / 5).min(Duration::from_secs(2));
        Self {
            ttl,
            call: (ttl / 3).max(Duration::from_secs(1)),
            probe_every: probe,
            probe: probe.max(Duration::from_secs(1)),
            // Until a process is back: its pause between attempts, a connection, two calls.
            grace: ttl + Duration::from_secs(5),
        }
    }
}

// === impl EtcdDiscovery ===

impl EtcdDiscovery {
    /// Begins to look for etcd, which need not be there. The tasks run below `tasks`.
    pub fn start(
        settings: EtcdSettings,
        environment: Environment,
        tasks: &Tasks,
        metrics: &DiscoveryMetrics,
    ) -> Self {
        let tasks = tasks.child();
        let shared = Arc::new(Shared {
            timings: Timings::new(settings.lease_ttl),
            settings: Arc::new(settings),
            environment,
            tasks: tasks.clone(),
            feed: Feed::new(),
            metrics: metrics.handle(),
            wish: watch::Sender::new(Wish::default()),
            is_abandoned: AtomicBool::new(false),
        });
        let (keeper, outcomes) = Keeper::new(Arc::clone(&shared));
        // It ends by itself: it takes leave first.
        tasks.spawn("etcd lease", keeper.run());
        tasks.spawn_until_cancelled("etcd watch", etcd_follower::follow(Arc::clone(&shared)));
        Self {
            shared,
            outcomes,
            tasks,
        }
    }

    /// Ends as a process that was killed: its lease runs out. For tests.
    pub fn abandon(self) {
        self.shared.is_abandoned.store(true, Ordering::Relaxed);
    }

    /// Wishes a value, and waits until etcd holds it or cannot be reached.
    async fn set(&self, value: Bytes) -> Result<ProcessId, DiscoveryError> {
        let mut number = 0;
        self.shared.wish.send_modify(|wish| {
            wish.number += 1;
            wish.value = value;
            number = wish.number;
        });
        self.shared.metrics.set_announced(false);
        let mut outcomes = self.outcomes.clone();
        let settled = outcomes.wait_for(|outcome| outcome.settles(number));
        let Ok(settled) = timeout(ANNOUNCE_PATIENCE, settled).await else {
            let error = CallError::TimedOut(ANNOUNCE_PATIENCE);
            return Err(self.shared.failure(&error));
        };
        match settled {
            Ok(outcome) => outcome.result(number, &self.shared),
            Err(_) => Err(DiscoveryError::Unavailable {
                backend: "etcd",
                reason: "the process is ending".to_owned(),
            }),
        }
    }
}

impl Discovery for EtcdDiscovery {
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>> {
        Box::pin(async move {
            record.validate()?;
            let value = serde_json::to_vec(&record).map_err(super::RecordError::Json)?;
            self.set(value.into()).await
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move {
            if self.shared.wish.borrow().number == 0 {
                return Ok(());
            }
            self.set(Bytes::from_static(WITHDRAWN)).await.map(drop)
        })
    }

    fn watch(&self) -> DiscoveryWatch {
        self.shared.feed.watch()
    }
}

impl Drop for EtcdDiscovery {
    fn drop(&mut self) {
        self.tasks.cancel();
        self.shared.feed.close();
    }
}

impl fmt::Debug for EtcdDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdDiscovery")
            .field("endpoints", &self.shared.settings.shown())
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// An error as the caller of discovery is told of it.
    pub(super) fn failure(&self, error: &CallError) -> DiscoveryError {
        let reason = format!(
            "{}: {error}; {}",
            self.settings.shown(),
            self.settings.hint(error)
        );
        match error.meaning() {
            Meaning::Refused => DiscoveryError::Refused {
                backend: "etcd",
                reason,
            },
            _ => DiscoveryError::Unavailable {
                backend: "etcd",
                reason,
            },
        }
    }
}

/// The key of a process.
pub(super) fn key(id: ProcessId) -> Vec<u8> {
    format!("{PREFIX}{id}").into_bytes()
}

/// A process's id as a lease's.
pub(super) fn lease(id: ProcessId) -> i64 {
    // Ids have 53 bits.
    i64::try_from(id.get()).unwrap_or(i64::MAX)
}
