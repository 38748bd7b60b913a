//! The publisher's side of a channel: a state, the events that made it, and who waits for more.
//!
//! State and events change under one lock, so that a snapshot holds exactly the events before its
//! cursor. It knows no transport.

use super::log::{Cursor, EventLog, Since};
use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// What a channel's events add up to.
pub trait ChannelState: Send + fmt::Debug + 'static {
    /// The state as pieces of at most some tens of kilobytes, in the subscribers' form.
    fn snapshot(&self) -> Vec<Bytes>;
}

/// A channel as backends read it.
pub trait ReadChannel: Send + Sync + fmt::Debug + 'static {
    /// What there is for a subscriber at a cursor, or for a new one.
    fn read(&self, cursor: Option<Cursor>, max_bytes: usize) -> Read;

    /// The events from a cursor on, without a snapshot if they are forgotten.
    fn since(&self, cursor: Cursor, max_bytes: usize) -> Since;

    /// Where a subscriber stands who knows everything.
    fn end(&self) -> Cursor;

    /// Changes with every event.
    fn watch(&self) -> ChannelWatch;
}

/// What there is for a subscriber, and where it stands afterwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Read {
    /// All that is so.
    Snapshot(Vec<Bytes>, Cursor),
    /// What happened since its cursor; nothing, if it knows everything.
    Events(Vec<Bytes>, Cursor),
}

/// How far a channel is. Those who wait for more are woken in the order in which they began to
/// wait, unlike with tokio's `watch`, which chooses at random: a simulation could not be repeated.
#[derive(Debug, Default)]
struct Progress {
    next: AtomicU64,
    moved: Notify,
}

/// Tells when a channel has events that were not seen.
#[derive(Debug)]
pub struct ChannelWatch {
    progress: Arc<Progress>,
    seen: u64,
}

/// A channel whose events add up to an `S`.
#[derive(Debug)]
pub struct Channel<S> {
    inner: Mutex<Inner<S>>,
    progress: Arc<Progress>,
}

#[derive(Debug)]
struct Inner<S> {
    state: S,
    log: EventLog,
}

impl Progress {
    fn set(&self, next: u64) {
        self.next.store(next, Ordering::Release);
        self.moved.notify_waiters();
    }

    fn get(&self) -> u64 {
        self.next.load(Ordering::Acquire)
    }
}

impl ChannelWatch {
    /// How many events the channel has had.
    pub fn events(&self) -> u64 {
        self.progress.get()
    }

    /// Counts all events so far as seen.
    pub fn mark_seen(&mut self) {
        self.seen = self.progress.get();
    }

    /// Resolves when there are events that were not seen, and counts them as seen.
    pub async fn changed(&mut self) {
        loop {
            // Before the look: what is published in between wakes it.
            let moved = self.progress.moved.notified();
            let next = self.progress.get();
            if next != std::mem::replace(&mut self.seen, next) {
                return;
            }
            moved.await;
        }
    }
}

impl<S: ChannelState> Channel<S> {
    /// A channel that begins with this state. The epoch is to be one that no channel of the same
    /// name had: a random number.
    pub fn new(epoch: u64, state: S) -> Self {
        Self {
            inner: Mutex::new(Inner {
                state,
                log: EventLog::new(epoch),
            }),
            progress: Arc::default(),
        }
    }

    /// Changes the state and publishes the event that tells of it, if there is anything to tell.
    pub fn publish(&self, change: impl FnOnce(&mut S) -> Option<Bytes>) {
        let mut inner = self.inner.lock();
        let Some(event) = change(&mut inner.state) else {
            return;
        };
        inner.log.append(event);
        // Under the lock, so that the number never goes back.
        self.progress.set(inner.log.end().next);
    }

    /// Looks at the state.
    pub fn with_state<T>(&self, look: impl FnOnce(&S) -> T) -> T {
        look(&self.inner.lock().state)
    }
}

impl<S: ChannelState> ReadChannel for Channel<S> {
    fn read(&self, cursor: Option<Cursor>, max_bytes: usize) -> Read {
        let inner = self.inner.lock();
        let since = cursor.map(|cursor| inner.log.since(cursor, max_bytes));
        match since {
            Some(Since::Events(events, cursor)) => Read::Events(events, cursor),
            Some(Since::Missed) | None => Read::Snapshot(inner.state.snapshot(), inner.log.end()),
        }
    }

    fn since(&self, cursor: Cursor, max_bytes: usize) -> Since {
        self.inner.lock().log.since(cursor, max_bytes)
    }

    fn end(&self) -> Cursor {
        self.inner.lock().log.end()
    }

    fn watch(&self) -> ChannelWatch {
        ChannelWatch {
            seen: self.progress.get(),
            progress: Arc::clone(&self.progress),
        }
    }
}
