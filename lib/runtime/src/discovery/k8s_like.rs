//! A double of the Kubernetes way to discover, for the contract suite: if it fits the trait, the
//! real one does.
//!
//! One object per pod holds the pod's record and is replaced as a whole; it belongs to the pod
//! and is collected with it. Readiness is another kind of object, judged by the kubelet; a pod is
//! visible while it has a record and is ready. Both kinds are listed and then watched from the
//! listing's resource version; watches deliver late, in any order between the kinds, and answer
//! "gone" (410) when their version was compacted away, upon which everything is listed again.
//! A process's id is a hash of its pod's name, so that a restarted pod of that name has it again.

use super::feed::{DiscoveryWatch, Feed};
use super::view::{DiscoveryEvent, Processes};
use super::{Discovery, DiscoveryError, ProcessId, ProcessRecord};
use crate::Tasks;
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Changes that a watch can still be given; real servers keep minutes, the double keeps few so
/// that compaction is met.
const CHANGES_KEPT: usize = 8;

/// How late watches deliver.
const DELIVERY_DELAY: Duration = Duration::from_millis(2);

/// The cluster: API server and kubelet in one. Cheap to clone; clones are the same cluster.
#[derive(Debug, Clone)]
pub struct K8sCluster {
    api: Arc<Api>,
}

/// Discovery as a process in a pod does it.
pub struct K8sLike {
    shared: Arc<Shared>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Api {
    state: Mutex<ApiState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct ApiState {
    records: Store<Arc<ProcessRecord>>,
    ready: Store<()>,
    off: bool,
}

/// The objects of one kind, by pod.
#[derive(Debug)]
struct Store<T> {
    objects: BTreeMap<Arc<str>, T>,
    /// Resource version of the last change.
    version: u64,
    changes: VecDeque<(u64, Arc<str>, Option<T>)>,
}

/// The version that a watch asks for was compacted away: status 410.
#[derive(Debug, PartialEq)]
struct Gone;

#[derive(Debug)]
struct Shared {
    api: Arc<Api>,
    pod: Arc<str>,
    feed: Feed,
    /// What the API server refused to take in an outage: `Some(None)` is a withdrawal.
    pending: Mutex<Option<Option<Arc<ProcessRecord>>>>,
}

/// What a client knows of one kind.
#[derive(Debug)]
struct Mirror<T> {
    objects: BTreeMap<Arc<str>, T>,
    version: Option<u64>,
}

// === impl K8sCluster ===

impl K8sCluster {
    /// A cluster without pods.
    pub fn new() -> Self {
        Self {
            api: Arc::new(Api {
                state: Mutex::default(),
                changed: watch::Sender::new(()),
            }),
        }
    }

    /// Starts a pod, which is ready at once. Its tasks run below `tasks`.
    pub fn start(&self, pod: &str, tasks: &Tasks) -> K8sLike {
        let shared = Arc::new(Shared {
            api: Arc::clone(&self.api),
            pod: pod.into(),
            feed: Feed::new(),
            pending: Mutex::default(),
        });
        self.api
            .change(|state| state.ready.set(Arc::clone(&shared.pod), Some(())));
        let tasks = tasks.child();
        tasks.spawn_until_cancelled("k8s-like watch", reflect(Arc::clone(&shared)));
        K8sLike { shared, tasks }
    }

    /// Makes the API server unreachable, or reachable again.
    pub fn set_available(&self, available: bool) {
        self.api.change(|state| state.off = !available);
    }
}

impl Default for K8sCluster {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Api ===

impl Api {
    fn change<T>(&self, change: impl FnOnce(&mut ApiState) -> T) -> T {
        let changed = change(&mut self.state.lock());
        self.changed.send_replace(());
        changed
    }

    /// Replaces a pod's object, if the server can be reached.
    fn apply(&self, pod: &Arc<str>, record: Option<Arc<ProcessRecord>>) -> bool {
        self.change(|state| {
            if !state.off {
                state.records.set(Arc::clone(pod), record);
            }
            !state.off
        })
    }
}

// === impl Store ===

impl<T: Clone> Store<T> {
    fn set(&mut self, pod: Arc<str>, object: Option<T>) {
        match object.clone() {
            Some(object) => drop(self.objects.insert(Arc::clone(&pod), object)),
            None => drop(self.objects.remove(&pod)),
        }
        self.version += 1;
        self.changes.push_back((self.version, pod, object));
        if self.changes.len() > CHANGES_KEPT {
            self.changes.pop_front();
        }
    }

    /// The changes after `version`.
    fn since(&self, version: u64) -> Result<impl Iterator<Item = (Arc<str>, Option<T>)>, Gone> {
        let oldest = self
            .changes
            .front()
            .map_or(self.version + 1, |change| change.0);
        if version + 1 < oldest {
            return Err(Gone);
        }
        Ok(self
            .changes
            .iter()
            .filter(move |change| change.0 > version)
            .map(|(_, pod, object)| (Arc::clone(pod), object.clone())))
    }
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: 0,
            changes: VecDeque::new(),
        }
    }
}

// === impl Mirror ===

impl<T: Clone> Mirror<T> {
    fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            version: None,
        }
    }

    /// Lists first, and after a version that is gone; else takes in the changes. The server's
    /// current version is noted even without changes, as its bookmarks tell it.
    fn sync(&mut self, store: &Store<T>) {
        match self.version.map(|version| store.since(version)) {
            Some(Ok(changes)) => {
                for (pod, object) in changes {
                    match object {
                        Some(object) => drop(self.objects.insert(pod, object)),
                        None => drop(self.objects.remove(&pod)),
                    }
                }
            }
            Some(Err(Gone)) | None => self.objects = store.objects.clone(),
        }
        self.version = Some(store.version);
    }
}

/// Keeps the feed like the server, until cancelled.
async fn reflect(shared: Arc<Shared>) {
    let mut changed = shared.api.changed.subscribe();
    let mut records = Mirror::new();
    let mut ready = Mirror::new();
    loop {
        changed.mark_unchanged();
        let reachable = {
            let state = shared.api.state.lock();
            if !state.off {
                records.sync(&state.records);
                ready.sync(&state.ready);
            }
            !state.off
        };
        if reachable {
            shared.apply_pending();
            shared.feed.publish(DiscoveryEvent::Snapshot {
                processes: visible(&records, &ready),
                stale: None,
            });
        } else {
            let since = Instant::now();
            shared.feed.publish(DiscoveryEvent::Stale { since });
        }
        if changed.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(DELIVERY_DELAY).await;
    }
}

fn visible(records: &Mirror<Arc<ProcessRecord>>, ready: &Mirror<()>) -> Processes {
    records
        .objects
        .iter()
        .filter(|(pod, _)| ready.objects.contains_key(*pod))
        .map(|(pod, record)| (pod_id(pod), Arc::clone(record)))
        .collect()
}

/// The id of the process in a pod.
fn pod_id(pod: &str) -> ProcessId {
    ProcessId::from_bits(xxhash_rust::xxh3::xxh3_64(pod.as_bytes()))
}

// === impl Shared ===

impl Shared {
    fn apply_pending(&self) {
        let mut pending = self.pending.lock();
        if let Some(record) = pending.take()
            && !self.api.apply(&self.pod, record.clone())
        {
            *pending = Some(record);
        }
    }

    fn set(&self, record: Option<Arc<ProcessRecord>>) -> Result<(), DiscoveryError> {
        let mut pending = self.pending.lock();
        *pending = None;
        if self.api.apply(&self.pod, record.clone()) {
            return Ok(());
        }
        *pending = Some(record);
        Err(DiscoveryError::Unavailable {
            backend: "k8s-like",
            reason: "no answer from the API server".to_owned(),
        })
    }
}

// === impl K8sLike ===

impl Discovery for K8sLike {
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>> {
        Box::pin(async move {
            record.validate()?;
            self.shared.set(Some(Arc::new(record)))?;
            Ok(pod_id(&self.shared.pod))
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move { self.shared.set(None) })
    }

    fn watch(&self) -> DiscoveryWatch {
        self.shared.feed.watch()
    }
}

impl Drop for K8sLike {
    fn drop(&mut self) {
        self.tasks.cancel();
        self.shared.feed.close();
        let pod = &self.shared.pod;
        // The kubelet notices first; the object is collected with its pod, in a step of its own.
        self.shared
            .api
            .change(|state| state.ready.set(Arc::clone(pod), None));
        self.shared
            .api
            .change(|state| state.records.set(Arc::clone(pod), None));
    }
}

impl fmt::Debug for K8sLike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("K8sLike")
            .field("pod", &self.shared.pod)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_from_a_compacted_version_is_gone_and_a_listing_mends_it() {
        let mut store = Store::default();
        let mut mirror = Mirror::new();
        mirror.sync(&store);
        for n in 0..=CHANGES_KEPT {
            store.set(format!("pod-{n}").into(), Some(()));
        }
        assert_eq!(store.since(0).err(), Some(Gone));
        assert_eq!(store.since(1).map(Iterator::count), Ok(CHANGES_KEPT));
        mirror.sync(&store);
        assert_eq!(mirror.objects, store.objects);
        assert_eq!(store.since(store.version).map(Iterator::count), Ok(0));
    }

    #[test]
    fn a_pod_of_the_same_name_has_the_same_id() {
        assert_eq!(pod_id("worker-0"), pod_id("worker-0"));
        assert_ne!(pod_id("worker-0"), pod_id("worker-1"));
    }
}
