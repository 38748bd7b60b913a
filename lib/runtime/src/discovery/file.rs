//! Discovery among the processes of one user on one machine, through a folder.
//!
//! Needs nothing running and survives any death. Whose file is whose, and what happens when two
//! meet, is in [`super::file_folder`]; here are the tasks around it: one that polls the folder
//! while somebody watches, and one that puts this process's files back if they disappear (by a
//! cleaner of temporary files, or with the whole folder).
//!
//! Polling instead of file-system notifications works on every file system, costs tens of
//! microseconds per look, and cannot lose an event.

use super::feed::{DiscoveryWatch, Feed};
use super::file_folder::{Claim, Folder, FolderError};
use super::file_record::ScanCache;
use super::view::{DiscoveryEvent, Processes};
use super::{Discovery, DiscoveryError, ProcessId, ProcessRecord};
use crate::{Environment, Tasks};
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often a watched folder is looked at: a new worker is found faster than a person notices,
/// and an idle process spends less than a thousandth of a core on it.
pub const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often a process sees whether its own files are still there.
pub const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// After an outage, processes whose files are not back are kept for as long: each puts its own
/// files back within [`KEEP_INTERVAL`] of finding the folder, and a busy machine may be late.
pub const REJOIN_GRACE: Duration = Duration::from_secs(3);

/// Tries to find a free id. Of 2^53 ids a second try is a defect of the random source.
const CLAIM_TRIES: usize = 8;

/// The intervals, for tests that cannot wait.
#[derive(Debug, Clone, Copy)]
pub struct FileTimings {
    /// See [`POLL_INTERVAL`].
    pub poll: Duration,
    /// See [`KEEP_INTERVAL`].
    pub keep: Duration,
    /// See [`REJOIN_GRACE`].
    pub rejoin_grace: Duration,
}

/// The `file` backend, seen from one process.
pub struct FileDiscovery {
    shared: Arc<Shared>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    environment: Environment,
    timings: FileTimings,
    feed: Feed,
    own: Mutex<Own>,
}

/// What this process wants the others to see, and holds for it.
#[derive(Debug, Default)]
struct Own {
    id: Option<ProcessId>,
    record: Option<ProcessRecord>,
    claim: Option<Claim>,
    /// The record in the folder is not the one above.
    dirty: bool,
    /// The process is over: nothing is put back.
    ended: bool,
}

/// Decides what a scan means when the folder was out of reach before. Pure.
#[derive(Debug, Default)]
struct Outage {
    since: Option<Instant>,
    grace_ends: Option<Instant>,
}

impl Default for FileTimings {
    fn default() -> Self {
        Self {
            poll: POLL_INTERVAL,
            keep: KEEP_INTERVAL,
            rejoin_grace: REJOIN_GRACE,
        }
    }
}

// === impl FileDiscovery ===

impl FileDiscovery {
    /// Opens the folder, creating it if need be. Its tasks run below `tasks`.
    pub fn open(
        path: impl Into<PathBuf>,
        environment: Environment,
        tasks: &Tasks,
        timings: FileTimings,
    ) -> Result<Self, FolderError> {
        let path = path.into();
        Folder::open(&path)?;
        let shared = Arc::new(Shared {
            path,
            environment,
            timings,
            feed: Feed::new(),
            own: Mutex::default(),
        });
        let tasks = tasks.child();
        tasks.spawn_until_cancelled("file discovery poll", poll(Arc::clone(&shared)));
        tasks.spawn_until_cancelled("file discovery keep", keep(Arc::clone(&shared)));
        Ok(Self { shared, tasks })
    }

    /// Ends as a process that was killed: locks are freed, files stay. For tests.
    pub fn abandon(self) {
        let mut own = self.shared.own.lock();
        own.ended = true;
        own.claim = None;
    }

    /// Sets what the others are to see, and waits until they can.
    async fn set(
        &self,
        record: Option<ProcessRecord>,
    ) -> Result<Option<ProcessId>, DiscoveryError> {
        {
            let mut own = self.shared.own.lock();
            own.record = record;
            own.dirty = true;
        }
        let shared = Arc::clone(&self.shared);
        let settled = self
            .shared
            .environment
            .compute(move || shared.settle())
            .await
            .map_err(|error| unavailable(&error))?;
        settled.map_err(|error| unavailable(&error))
    }
}

fn unavailable(error: &dyn fmt::Display) -> DiscoveryError {
    DiscoveryError::Unavailable {
        backend: "file",
        reason: error.to_string(),
    }
}

impl Discovery for FileDiscovery {
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>> {
        Box::pin(async move {
            record.validate()?;
            let id = self.set(Some(record)).await?;
            id.ok_or_else(|| unavailable(&"the process is ending"))
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move { self.set(None).await.map(drop) })
    }

    fn watch(&self) -> DiscoveryWatch {
        self.shared.feed.watch()
    }
}

impl Drop for FileDiscovery {
    fn drop(&mut self) {
        self.tasks.cancel();
        self.shared.feed.close();
        let mut own = self.shared.own.lock();
        own.ended = true;
        if let Some(claim) = own.claim.take()
            && let Err(error) = claim.release()
        {
            // The lock is free all the same: whoever looks next sweeps the files.
            tracing::debug!(%error, "could not remove this process's discovery files");
        }
    }
}

impl fmt::Debug for FileDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileDiscovery")
            .field("path", &self.shared.path)
            .finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Makes the folder say what this process wants it to say. Blocks.
    fn settle(&self) -> io::Result<Option<ProcessId>> {
        let mut own = self.own.lock();
        if own.ended || (own.record.is_none() && own.id.is_none()) {
            return Ok(own.id);
        }
        let folder = Folder::open(&self.path).map_err(io::Error::other)?;
        let held = match &own.claim {
            Some(claim) => claim.is_held()?,
            None => false,
        };
        if !held {
            own.claim = None;
            own.dirty = true;
            let claim = self.claim(&folder, own.id)?;
            own.id = Some(claim.id());
            own.claim = Some(claim);
        }
        let Own {
            record,
            claim: Some(claim),
            dirty,
            ..
        } = &mut *own
        else {
            return Ok(None);
        };
        match record {
            Some(record) if *dirty || !claim.has_record()? => claim.write(record)?,
            None if *dirty => claim.clear()?,
            Some(_) | None => {}
        }
        *dirty = false;
        Ok(own.id)
    }

    /// Takes the id this process had, or any free one.
    fn claim(&self, folder: &Folder, had: Option<ProcessId>) -> io::Result<Claim> {
        for _ in 0..CLAIM_TRIES {
            let id =
                had.unwrap_or_else(|| ProcessId::from_bits(self.environment.random.next_u64()));
            if let Some(claim) = folder.claim(id)? {
                return Ok(claim);
            }
        }
        Err(io::Error::other("no free process id"))
    }
}

/// Puts this process's files back when they disappear, until cancelled.
async fn keep(shared: Arc<Shared>) {
    let mut lost = false;
    loop {
        tokio::time::sleep(shared.timings.keep).await;
        let blocking = Arc::clone(&shared);
        let settled = shared.environment.compute(move || blocking.settle()).await;
        // A full compute pool says nothing about the folder: the next look will.
        let Ok(settled) = settled else { continue };
        match settled {
            Err(error) if !lost => {
                lost = true;
                tracing::warn!(path = %shared.path.display(), %error, "cannot announce this process");
            }
            Ok(_) if lost => {
                lost = false;
                tracing::info!(path = %shared.path.display(), "announced this process again");
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Looks at the folder while somebody watches, until cancelled.
async fn poll(shared: Arc<Shared>) {
    let mut watchers = shared.feed.watchers();
    while watchers.wait_for(|count| *count > 0).await.is_ok() {
        poll_while_watched(&shared, &mut watchers).await;
        // Nobody looks from here on: what is known becomes outdated.
        shared.feed.forget();
    }
}

async fn poll_while_watched(shared: &Arc<Shared>, watchers: &mut watch::Receiver<usize>) {
    let cache = Arc::new(Mutex::new(ScanCache::default()));
    let mut outage = Outage::default();
    loop {
        let (folder, cache) = (shared.path.clone(), Arc::clone(&cache));
        let now = shared.environment.clock.unix_time();
        let scanned = shared
            .environment
            .compute(move || scan(&folder, &cache, now));
        // A full compute pool says nothing about the folder: the next look will.
        if let Ok(scanned) = scanned.await {
            publish(shared, &mut outage, scanned);
        }
        tokio::select! {
            biased;
            _ = watchers.wait_for(|count| *count == 0) => return,
            () = tokio::time::sleep(shared.timings.poll) => {}
        }
    }
}

fn scan(path: &Path, cache: &Mutex<ScanCache>, now: Duration) -> io::Result<Processes> {
    let folder = Folder::existing(path).map_err(io::Error::other)?;
    folder.scan(&mut cache.lock(), now)
}

fn publish(shared: &Shared, outage: &mut Outage, scanned: io::Result<Processes>) {
    let now = Instant::now();
    match scanned {
        Ok(living) => {
            let was_lost = outage.since.is_some();
            let view = shared.feed.view();
            let event = outage.listed(living, view.processes(), now, shared.timings.rejoin_grace);
            shared.feed.publish(event);
            if was_lost && outage.since.is_none() {
                tracing::info!(path = %shared.path.display(), "discovery folder is back");
            }
        }
        Err(error) => {
            if outage.since.is_none() {
                tracing::warn!(
                    path = %shared.path.display(), %error,
                    "discovery folder is out of reach, keeping the last known view"
                );
            }
            shared.feed.publish(outage.failed(now));
        }
    }
}

// === impl Outage ===

impl Outage {
    fn failed(&mut self, now: Instant) -> DiscoveryEvent {
        let since = *self.since.get_or_insert(now);
        self.grace_ends = None;
        DiscoveryEvent::Stale { since }
    }

    fn listed(
        &mut self,
        mut living: Processes,
        known: &Processes,
        now: Instant,
        grace: Duration,
    ) -> DiscoveryEvent {
        if self.since.is_some() {
            let ends = *self.grace_ends.get_or_insert(now + grace);
            if now < ends {
                for (id, record) in known {
                    living.entry(*id).or_insert_with(|| Arc::clone(record));
                }
            } else {
                *self = Self::default();
            }
        }
        DiscoveryEvent::Snapshot {
            processes: living,
            stale: self.since,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn processes(ids: &[u64]) -> Processes {
        ids.iter()
            .map(|id| (ProcessId::from_bits(*id), Arc::default()))
            .collect()
    }

    fn snapshot(ids: &[u64], stale: Option<Instant>) -> DiscoveryEvent {
        DiscoveryEvent::Snapshot {
            processes: processes(ids),
            stale,
        }
    }

    #[test]
    fn after_an_outage_the_missing_are_kept_until_they_had_time_to_return() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let grace = Duration::from_secs(3);
        let known = processes(&[1, 2]);
        let mut outage = Outage::default();
        let without = outage.listed(processes(&[1]), &known, at(0), grace);
        assert_eq!(without, snapshot(&[1], None));
        assert_eq!(outage.failed(at(1)), DiscoveryEvent::Stale { since: at(1) });
        assert_eq!(outage.failed(at(2)), DiscoveryEvent::Stale { since: at(1) });
        let returning = outage.listed(processes(&[3]), &known, at(5), grace);
        assert_eq!(returning, snapshot(&[1, 2, 3], Some(at(1))));
        let returned = outage.listed(processes(&[1, 3]), &known, at(8), grace);
        assert_eq!(returned, snapshot(&[1, 3], None));
    }

    #[test]
    fn an_outage_within_the_grace_starts_the_grace_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let grace = Duration::from_secs(3);
        let known = processes(&[1]);
        let mut outage = Outage::default();
        outage.failed(at(0));
        outage.listed(processes(&[]), &known, at(1), grace);
        outage.failed(at(2));
        let kept = outage.listed(processes(&[]), &known, at(4), grace);
        assert_eq!(kept, snapshot(&[1], Some(at(0))));
    }
}
