//! What happened in a run, in order: virtual time, host, event.
//!
//! The hash covers every event; only the last ones are kept as text, to be shown when a run fails.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Events kept as text. What led to a broken invariant is within the last seconds before it;
/// a run has some thousands of events.
const KEPT_EVENTS: usize = 400;

/// The events of one run. Cheap to clone; clones are the same trace.
#[derive(Clone)]
pub struct Trace {
    state: Arc<Mutex<State>>,
}

struct State {
    hasher: Xxh3,
    events: u64,
    /// How many events are kept as text.
    kept: usize,
    last: VecDeque<String>,
}

impl Default for Trace {
    fn default() -> Self {
        Self::keeping(KEPT_EVENTS)
    }
}

/// Text that is hashed as it is written.
struct Hashing<'a>(&'a mut Xxh3);

impl Write for Hashing<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

impl Trace {
    /// A trace without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// A trace that keeps no text, where something else tells the story.
    pub fn hash_only() -> Self {
        Self::keeping(0)
    }

    fn keeping(kept: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                hasher: Xxh3::new(),
                events: 0,
                kept,
                last: VecDeque::new(),
            })),
        }
    }

    /// Records an event of the host that runs now, at its virtual time. What happens outside the
    /// simulation (hosts being dropped after it ended) is not part of the run.
    pub fn record(&self, host: &str, event: fmt::Arguments<'_>) {
        if let Some(at) = turmoil::sim_elapsed() {
            self.record_at(at, host, event);
        }
    }

    /// Records an event at this virtual time.
    pub fn record_at(&self, at: Duration, host: &str, event: fmt::Arguments<'_>) {
        let state = &mut *self.state.lock();
        state.events += 1;
        if state.kept == 0 {
            state.hasher.update(&at.as_nanos().to_le_bytes());
            state.hasher.update(host.as_bytes());
            // Hashing cannot fail, and the events' parts know how to be written.
            Hashing(&mut state.hasher).write_fmt(event).ok();
            return;
        }
        let line = format!("{:>12.6} {host}: {event}\n", at.as_secs_f64());
        state.hasher.update(line.as_bytes());
        if state.last.len() == state.kept {
            state.last.pop_front();
        }
        state.last.push_back(line);
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.state.lock().hasher.digest()
    }

    /// The number of events so far.
    pub fn events(&self) -> u64 {
        self.state.lock().events
    }

    /// The last events as text, one a line.
    pub fn tail(&self) -> String {
        self.state.lock().last.iter().map(String::as_str).collect()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("events", &self.events())
            .field("hash", &self.hash())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(events: &[(u64, &str, &str)]) -> Trace {
        let trace = Trace::new();
        for (at, host, event) in events {
            trace.record_at(Duration::from_micros(*at), host, format_args!("{event}"));
        }
        trace
    }

    #[test]
    fn time_host_event_and_order_all_count() {
        let base = [(1, "a", "x"), (2, "b", "y")];
        let hash = trace(&base).hash();
        assert_eq!(hash, trace(&base).hash());
        for other in [
            [(1, "a", "x"), (3, "b", "y")],
            [(1, "a", "x"), (2, "a", "y")],
            [(1, "a", "x"), (2, "b", "z")],
            [(2, "b", "y"), (1, "a", "x")],
        ] {
            assert_ne!(hash, trace(&other).hash(), "{other:?}");
        }
    }

    #[test]
    fn old_events_count_in_the_hash_and_take_no_memory() {
        let (long, other) = (Trace::new(), Trace::new());
        other.record_at(Duration::ZERO, "a", format_args!("first"));
        for event in 0..KEPT_EVENTS {
            long.record_at(Duration::ZERO, "a", format_args!("{event}"));
            other.record_at(Duration::ZERO, "a", format_args!("{event}"));
        }
        assert_eq!(long.tail(), other.tail());
        assert_ne!(long.hash(), other.hash());
        assert_eq!(other.events(), KEPT_EVENTS as u64 + 1);
    }

    #[test]
    fn without_text_everything_counts_in_the_hash_as_well() {
        let hash = |at: u64, host, event: &str| {
            let trace = Trace::hash_only();
            trace.record_at(Duration::from_micros(at), host, format_args!("{event}"));
            assert!(trace.tail().is_empty() && trace.events() == 1);
            trace.hash()
        };
        let base = hash(1, "a", "x");
        assert_eq!(base, hash(1, "a", "x"));
        for other in [hash(2, "a", "x"), hash(1, "b", "x"), hash(1, "a", "y")] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn what_happens_outside_a_simulation_is_not_recorded() {
        let trace = Trace::new();
        trace.record("a", format_args!("late"));
        assert_eq!(trace.events(), 0);
    }
}
