//! A process that can be stopped where it stands, as SIGSTOP does it.
//!
//! While the gate is shut nothing of the process runs: its tasks are not polled, whatever wakes
//! them. Time goes on without it, its sockets take in what is sent to it, and its timers fire late,
//! all together, when the gate is opened. What was woken meanwhile goes on in the order in which it
//! was woken.

use dynamo_runtime::Tasks;
use parking_lot::Mutex;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

/// See the module's description. Cheap to clone; clones are the same gate.
#[derive(Clone, Default)]
pub(super) struct Gate(Arc<State>);

#[derive(Default)]
struct State {
    is_shut: AtomicBool,
    /// Who was woken in vain, in that order.
    held_back: Mutex<Vec<Waker>>,
}

/// A future that the gate stops.
struct Held<F> {
    future: F,
    gate: Gate,
    /// It was woken since the gate was shut.
    is_held_back: bool,
}

impl Gate {
    /// Stops everything behind it.
    pub(super) fn shut(&self) {
        self.0.is_shut.store(true, Ordering::Relaxed);
    }

    /// Lets everything go on. Says how many tasks were woken in vain meanwhile.
    pub(super) fn open(&self) -> usize {
        self.0.is_shut.store(false, Ordering::Relaxed);
        let held_back = std::mem::take(&mut *self.0.held_back.lock());
        let count = held_back.len();
        held_back.into_iter().for_each(Waker::wake);
        count
    }

    /// The tasks of a process behind this gate.
    pub(super) fn tasks(&self) -> Tasks {
        let gate = self.clone();
        Tasks::root_within(move |task| Box::pin(gate.hold(task)))
    }

    /// The same future, behind this gate.
    pub(super) fn hold<F: Future + Unpin>(
        &self,
        future: F,
    ) -> impl Future<Output = F::Output> + use<F> {
        Held {
            future,
            gate: self.clone(),
            is_held_back: false,
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Gate").field(&self.0.is_shut).finish()
    }
}

impl<F: Future + Unpin> Future for Held<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let held = &mut *self;
        if held.gate.0.is_shut.load(Ordering::Relaxed) {
            // Once: the waker of a task stays the same.
            if !std::mem::replace(&mut held.is_held_back, true) {
                let waker = context.waker().clone();
                held.gate.0.held_back.lock().push(waker);
            }
            return Poll::Pending;
        }
        held.is_held_back = false;
        Pin::new(&mut held.future).poll(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;
    use tokio::time::{Instant, sleep};

    #[tokio::test(start_paused = true)]
    async fn nothing_runs_behind_a_shut_gate_and_its_timers_fire_late() {
        let (gate, ticks) = (Gate::default(), Arc::new(AtomicU64::new(0)));
        let tasks = gate.tasks();
        let counter = Arc::clone(&ticks);
        let began = Instant::now();
        tasks.spawn_until_cancelled("ticks", async move {
            loop {
                sleep(Duration::from_secs(1)).await;
                counter.store(began.elapsed().as_secs(), Ordering::Relaxed);
            }
        });
        sleep(Duration::from_millis(2_500)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 2);
        gate.shut();
        sleep(Duration::from_secs(10)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 2);
        assert_eq!(gate.open(), 1);
        sleep(Duration::from_millis(10)).await;
        assert_eq!(ticks.load(Ordering::Relaxed), 12);
        tasks.stop().await;
    }
}
