//! What happened in a run, in order: virtual time, host, event.
//!
//! The hash covers every event; only the last ones are kept as text, to be shown when a run fails.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::Xxh3;

/// Events kept as text. What led to a broken invariant is within the last seconds before it;
/// a run has some thousands of events.
const KEPT_EVENTS: usize = 400;

/// The events of one run. Cheap to clone; clones are the same trace.
#[derive(Clone, Default)]
pub struct Trace {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    hasher: Xxh3,
    events: u64,
    last: VecDeque<String>,
}

impl Trace {
    /// A trace without events.
    pub fn new() -> Self {
        Self::default()
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
        let line = format!("{:>12.6} {host}: {event}\n", at.as_secs_f64());
        let mut state = self.state.lock();
        state.hasher.update(line.as_bytes());
        state.events += 1;
        if state.last.len() == KEPT_EVENTS {
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
    fn what_happens_outside_a_simulation_is_not_recorded() {
        let trace = Trace::new();
        trace.record("a", format_args!("late"));
        assert_eq!(trace.events(), 0);
    }
}
