//! Discovery within one process, for tests, simulation and single-process runs.
//!
//! A [`MemRegistry`] is the backend; each simulated process joins it. Dropping what
//! [`MemRegistry::join`] gave is that process's death. The registry can be switched off and on
//! to see what an outage does.

use super::feed::{DiscoveryWatch, Feed};
use super::view::{DiscoveryEvent, Processes};
use super::{Discovery, DiscoveryError, ProcessId, ProcessRecord};
use futures_core::future::BoxFuture;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// A shared in-process registry. Cheap to clone; clones are the same registry.
#[derive(Debug, Clone)]
pub struct MemRegistry {
    shared: Arc<Shared>,
}

/// The registry as one process sees it.
pub struct MemDiscovery {
    shared: Arc<Shared>,
    id: ProcessId,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    feed: Feed,
}

#[derive(Debug, Default)]
struct State {
    /// What the living processes want to be known; in an outage, ahead of the feed.
    records: Processes,
    /// Processes that ever joined: ids count up, so that runs repeat.
    joined: u64,
    off: bool,
}

// === impl MemRegistry ===

impl MemRegistry {
    /// An empty registry.
    pub fn new() -> Self {
        let registry = Self {
            shared: Arc::default(),
        };
        registry.shared.publish_all(&registry.shared.state.lock());
        registry
    }

    /// A new process.
    pub fn join(&self) -> MemDiscovery {
        let mut state = self.shared.state.lock();
        state.joined += 1;
        MemDiscovery {
            shared: Arc::clone(&self.shared),
            id: ProcessId::from_bits(state.joined),
        }
    }

    /// Switches the backend off (an outage) or on again.
    pub fn set_available(&self, available: bool) {
        let mut state = self.shared.state.lock();
        state.off = !available;
        if available {
            self.shared.publish_all(&state);
        } else {
            let since = Instant::now();
            self.shared.feed.publish(DiscoveryEvent::Stale { since });
        }
    }
}

impl Default for MemRegistry {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Shared ===

impl Shared {
    fn publish_all(&self, state: &State) {
        self.feed.publish(DiscoveryEvent::Snapshot {
            processes: state.records.clone(),
            stale: None,
        });
    }

    /// Changes a record; the watchers learn of it at once, or when the outage ends.
    fn set(&self, id: ProcessId, record: Option<ProcessRecord>) -> Result<(), DiscoveryError> {
        let mut state = self.state.lock();
        let event = match record.map(Arc::new) {
            Some(record) => {
                state.records.insert(id, Arc::clone(&record));
                DiscoveryEvent::Added(id, record)
            }
            None => {
                state.records.remove(&id);
                DiscoveryEvent::Removed(id)
            }
        };
        if state.off {
            return Err(DiscoveryError::Unavailable {
                backend: "mem",
                reason: "switched off".to_owned(),
            });
        }
        // Under the lock, so that the feed sees changes in their order.
        self.feed.publish(event);
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.feed.close();
    }
}

// === impl MemDiscovery ===

impl Discovery for MemDiscovery {
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>> {
        Box::pin(async move {
            record.validate()?;
            self.shared.set(self.id, Some(record))?;
            Ok(self.id)
        })
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        Box::pin(async move { self.shared.set(self.id, None) })
    }

    fn watch(&self) -> DiscoveryWatch {
        self.shared.feed.watch()
    }
}

impl Drop for MemDiscovery {
    fn drop(&mut self) {
        // In an outage the watchers learn of the death when it ends.
        drop(self.shared.set(self.id, None));
    }
}

impl fmt::Debug for MemDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDiscovery")
            .field("id", &self.id)
            .finish()
    }
}
