//! How one backend feeds any number of watchers.
//!
//! A [`Feed`] holds the backend's view and a bounded queue per watcher. Snapshot and deltas are
//! taken under one lock, so that nothing is lost or doubled between them. A watcher whose queue
//! is full loses the queue and gets a snapshot instead: memory does not depend on how slow it is.

use super::view::{DiscoveryEvent, View};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// Deltas that wait for one watcher. A rolling restart of a hundred workers fits; beyond that a
/// snapshot is smaller than its deltas.
pub const WATCH_BUFFER: usize = 256;

/// The backend's side: cheap to clone, clones are the same feed.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

/// One watcher's side. Dropping it ends the watch.
pub struct DiscoveryWatch {
    shared: Arc<Shared>,
    id: u64,
    wake: Arc<Notify>,
}

struct Shared {
    state: Mutex<State>,
    watchers: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    view: View,
    queues: BTreeMap<u64, Queue>,
    next_id: u64,
    closed: bool,
}

struct Queue {
    events: VecDeque<DiscoveryEvent>,
    /// The watcher gets a snapshot next, and nothing is queued until it has it.
    resync: bool,
    wake: Arc<Notify>,
}

// === impl Feed ===

impl Feed {
    /// A feed that knows nothing yet: watchers wait for the first snapshot.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                watchers: watch::Sender::new(0),
            }),
        }
    }

    /// Takes an event into the view and passes on what changed.
    pub fn publish(&self, event: DiscoveryEvent) {
        let mut state = self.shared.state.lock();
        let first = !state.view.is_known();
        let deltas = state.view.apply(event);
        if deltas.is_empty() && !first {
            return;
        }
        for queue in state.queues.values_mut() {
            queue.push(&deltas);
        }
    }

    /// Forgets the view: watchers get a snapshot of what is published next.
    pub fn forget(&self) {
        let mut state = self.shared.state.lock();
        state.view = View::default();
        for queue in state.queues.values_mut() {
            queue.restart();
        }
    }

    /// Ends every watch, now and later.
    pub fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        for queue in state.queues.values() {
            queue.wake.notify_one();
        }
    }

    /// What the feed's watchers will know.
    pub fn view(&self) -> View {
        self.shared.state.lock().view.clone()
    }

    /// The number of watchers, to work only while somebody watches.
    pub fn watchers(&self) -> watch::Receiver<usize> {
        self.shared.watchers.subscribe()
    }

    /// A new watcher.
    pub fn watch(&self) -> DiscoveryWatch {
        let wake = Arc::new(Notify::new());
        let mut state = self.shared.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.queues.insert(
            id,
            Queue {
                events: VecDeque::new(),
                resync: true,
                wake: Arc::clone(&wake),
            },
        );
        self.shared.watchers.send_modify(|count| *count += 1);
        drop(state);
        DiscoveryWatch {
            shared: Arc::clone(&self.shared),
            id,
            wake,
        }
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("watchers", &*self.shared.watchers.borrow())
            .finish_non_exhaustive()
    }
}

// === impl Queue ===

impl Queue {
    fn push(&mut self, deltas: &[DiscoveryEvent]) {
        if !self.resync && self.events.len() + deltas.len() > WATCH_BUFFER {
            self.restart();
        }
        if !self.resync {
            self.events.extend(deltas.iter().cloned());
        }
        self.wake.notify_one();
    }

    fn restart(&mut self) {
        self.events.clear();
        self.resync = true;
    }
}

// === impl DiscoveryWatch ===

impl DiscoveryWatch {
    /// The next event, or `None` once the backend is gone. A cancelled call loses nothing.
    pub async fn next(&mut self) -> Option<DiscoveryEvent> {
        loop {
            if let Some(ready) = self.try_next() {
                return ready;
            }
            self.wake.notified().await;
        }
    }

    /// Takes the next event into a view, and with it all that are there already: a thousand
    /// processes that come at once are one change to look at and not a thousand. Whether the
    /// backend is still there. A cancelled call loses nothing.
    pub async fn update(&mut self, view: &mut View) -> bool {
        let Some(first) = self.next().await else {
            return false;
        };
        view.apply(first);
        while let Some(Some(event)) = self.try_next() {
            view.apply(event);
        }
        true
    }

    /// The next event if it is there: `None` when there is nothing yet.
    fn try_next(&mut self) -> Option<Option<DiscoveryEvent>> {
        let mut state = self.shared.state.lock();
        let State {
            view,
            queues,
            closed,
            ..
        } = &mut *state;
        let queue = queues.get_mut(&self.id)?;
        if queue.resync && view.is_known() {
            queue.resync = false;
            return Some(Some(view.snapshot()));
        }
        match queue.events.pop_front() {
            Some(event) => Some(Some(event)),
            None => closed.then_some(None),
        }
    }
}

impl Drop for DiscoveryWatch {
    fn drop(&mut self) {
        self.shared.state.lock().queues.remove(&self.id);
        self.shared.watchers.send_modify(|count| *count -= 1);
    }
}

impl fmt::Debug for DiscoveryWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DiscoveryWatch")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{ProcessId, ProcessRecord};
    use futures_util::FutureExt;

    fn snapshot(ids: &[u64]) -> DiscoveryEvent {
        DiscoveryEvent::Snapshot {
            processes: ids
                .iter()
                .map(|id| (process(*id), Arc::default()))
                .collect(),
            stale: None,
        }
    }

    #[tokio::test]
    async fn what_is_there_already_is_one_update() {
        let feed = Feed::new();
        let mut watch = feed.watch();
        let mut view = View::default();
        feed.publish(snapshot(&[1]));
        feed.publish(snapshot(&[1, 2]));
        feed.publish(snapshot(&[2, 3]));
        assert!(watch.update(&mut view).await);
        let ids: Vec<u64> = view.processes().keys().map(|id| id.get()).collect();
        assert_eq!(ids, [2, 3]);
        assert!(watch.update(&mut view).now_or_never().is_none());
        feed.close();
        assert!(!watch.update(&mut view).await);
    }

    fn process(id: u64) -> ProcessId {
        ProcessId::new(id).unwrap()
    }

    fn added(id: u64) -> DiscoveryEvent {
        DiscoveryEvent::Added(process(id), Arc::new(ProcessRecord::default()))
    }

    #[tokio::test]
    async fn a_watcher_waits_for_the_first_snapshot() {
        let feed = Feed::new();
        let mut watch = feed.watch();
        feed.publish(DiscoveryEvent::Stale {
            since: tokio::time::Instant::now(),
        });
        assert!(watch.next().now_or_never().is_none());
        feed.publish(snapshot(&[]));
        assert_eq!(watch.next().await, Some(snapshot(&[])));
        assert!(watch.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn deltas_follow_the_snapshot_without_gap_or_double() {
        let feed = Feed::new();
        feed.publish(snapshot(&[1]));
        let mut watch = feed.watch();
        feed.publish(added(2));
        // The watcher had not read yet: one snapshot says it all.
        assert_eq!(watch.next().await, Some(snapshot(&[1, 2])));
        feed.publish(added(3));
        feed.publish(added(3));
        assert_eq!(watch.next().await, Some(added(3)));
        assert!(watch.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_slow_watcher_gets_a_snapshot_instead_of_a_backlog() {
        let feed = Feed::new();
        feed.publish(snapshot(&[]));
        let mut slow = feed.watch();
        assert_eq!(slow.next().await, Some(snapshot(&[])));
        let last = WATCH_BUFFER as u64 + 1;
        (1..=last).for_each(|id| feed.publish(added(id)));
        let all: Vec<u64> = (1..=last).collect();
        assert_eq!(slow.next().await, Some(snapshot(&all)));
        assert!(slow.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn what_was_forgotten_is_not_given_to_later_watchers() {
        let feed = Feed::new();
        feed.publish(snapshot(&[1]));
        let mut early = feed.watch();
        assert_eq!(early.next().await, Some(snapshot(&[1])));
        feed.forget();
        let mut late = feed.watch();
        assert!(late.next().now_or_never().is_none());
        feed.publish(snapshot(&[2]));
        assert_eq!(late.next().await, Some(snapshot(&[2])));
        assert_eq!(early.next().await, Some(snapshot(&[2])));
    }

    #[tokio::test]
    async fn the_number_of_watchers_is_known() {
        let feed = Feed::new();
        let count = feed.watchers();
        let (one, two) = (feed.watch(), feed.watch());
        assert_eq!(*count.borrow(), 2);
        drop((one, two));
        assert_eq!(*count.borrow(), 0);
    }

    #[tokio::test]
    async fn a_closed_feed_gives_what_it_has_and_ends() {
        let feed = Feed::new();
        feed.publish(snapshot(&[1]));
        let mut watch = feed.watch();
        feed.close();
        assert_eq!(watch.next().await, Some(snapshot(&[1])));
        assert_eq!(watch.next().await, None);
    }
}
