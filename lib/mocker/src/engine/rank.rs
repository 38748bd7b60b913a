//! A rank's task: takes what came in, steps, waits until the step is over, hands out what came of
//! it.
//!
//! Time. A step starts when the one before it is over and ends by the timing model, not by when
//! this task gets to run: delays of timers do not add up. Waits that a timer cannot measure are
//! not slept: such steps come early by less than a millisecond, and the time they are ahead adds
//! up to one that can be slept.

use super::handoff::{Pushed, Sender};
use super::inbox::{Drawn, Inbox, Open};
use crate::config::Settings;
use crate::scheduler::{Output, Scheduler, SequenceId, Step};
use dynamo_protocols::kv::{KvEvent, KvEventBatch};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;
use tokio::time::Instant;

/// What the runtime's timers can measure.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

/// How far steps may be late and still be made up for: a few late timers. Beyond it the machine
/// is too slow for the simulated speed, or was suspended; racing would help nobody.
const MAX_LATE: Duration = Duration::from_millis(10);

/// Steps between two looks at who came in and who is to be woken, when steps take no time: fewer
/// would wake consumers for single tokens, more would let newcomers wait.
const BURST: usize = 16;

/// The task's state.
#[derive(Debug)]
pub(super) struct Rank {
    inbox: Arc<Inbox>,
    scheduler: Scheduler,
    /// Consumers by the slots of their sequences.
    consumers: Vec<Option<Consumer>>,
    start: Instant,
    /// When the last step was over, since `start`.
    now: Duration,
    next_event_id: u64,
    /// Not yet published.
    events: Vec<KvEvent>,
    wakes: Vec<Waker>,
    /// Of requests that ended since the last report. They count as open until then, so that
    /// whoever saw all of them end also sees the places they left.
    ended: Vec<Open>,
}

#[derive(Debug)]
struct Consumer {
    sender: Sender<Drawn>,
    open: Open,
}

impl Rank {
    pub(super) fn new(inbox: Arc<Inbox>, settings: &Settings) -> Self {
        Self {
            inbox,
            scheduler: Scheduler::new(settings.scheduler.clone(), settings.timing.clone()),
            consumers: Vec::new(),
            start: Instant::now(),
            now: Duration::ZERO,
            next_event_id: 0,
            events: Vec::new(),
            wakes: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Works for as long as it is polled.
    pub(super) async fn run(mut self) {
        let mut burst = 0;
        loop {
            self.take_arrivals();
            let step = self.scheduler.step(self.now);
            if step.is_idle() {
                self.hand_out(step);
                self.flush();
                self.inbox.arrival().await;
                self.now = self.now.max(self.start.elapsed());
                continue;
            }
            let elapsed = self.start.elapsed();
            self.now = step.ends_at.max(elapsed.saturating_sub(MAX_LATE));
            if self.now >= elapsed + TIMER_GRAIN {
                self.flush();
                burst = 0;
                tokio::time::sleep_until(self.start + self.now).await;
            }
            self.hand_out(step);
            burst += 1;
            if burst == BURST {
                self.flush();
                burst = 0;
                // Nothing here waits: without this, consumers on this thread would never run.
                tokio::task::yield_now().await;
            }
        }
    }

    fn take_arrivals(&mut self) {
        let arrivals = self.inbox.take();
        for submission in arrivals.submissions {
            let id = submission.id;
            self.scheduler.submit(id, &submission.request);
            let Some(slot) = self.slot(id) else { continue };
            if slot >= self.consumers.len() {
                self.consumers.resize_with(slot + 1, || None);
            }
            self.consumers[slot] = Some(Consumer {
                sender: submission.sender,
                open: submission.open,
            });
        }
        for id in arrivals.signals {
            self.look_at(id);
        }
    }

    fn slot(&self, id: SequenceId) -> Option<usize> {
        self.scheduler.slot_of(id).map(|slot| slot as usize)
    }

    /// Ends a sequence whose consumer is gone, or lets it go on.
    fn look_at(&mut self, id: SequenceId) {
        let Some(slot) = self.slot(id) else { return };
        let Some(consumer) = &self.consumers[slot] else {
            return;
        };
        if consumer.sender.is_closed() {
            self.scheduler.cancel(id);
            self.let_go(slot);
        } else {
            self.scheduler.set_stalled(id, consumer.sender.is_full());
        }
    }

    fn let_go(&mut self, slot: usize) {
        if let Some(consumer) = self.consumers[slot].take() {
            self.ended.push(consumer.open);
        }
    }

    /// Puts a step's outcome where its consumers will find it.
    fn hand_out(&mut self, step: Step) {
        for output in &step.outputs {
            self.hand_over(output);
        }
        if self.events.is_empty() {
            self.events = step.kv_events;
        } else {
            self.events.extend(step.kv_events);
        }
    }

    fn hand_over(&mut self, output: &Output) {
        let slot = output.slot as usize;
        let Some(consumer) = &self.consumers[slot] else {
            return;
        };
        let drawn = Drawn {
            token: output.token,
            finish: output.finish,
            cached_tokens: output.cached_tokens,
        };
        let pushed = consumer.sender.push(drawn, &mut self.wakes);
        if output.finish.is_some() {
            self.let_go(slot);
            return;
        }
        match pushed {
            Pushed::Room => {}
            Pushed::Full => self.scheduler.set_stalled(output.id, true),
            // The consumer has said so too.
            Pushed::Closed => self.look_at(output.id),
        }
    }

    /// Tells everybody what happened since the last call.
    fn flush(&mut self) {
        if !self.events.is_empty() {
            let batch = KvEventBatch {
                first_event_id: self.next_event_id,
                events: std::mem::take(&mut self.events),
            };
            self.next_event_id += batch.events.len() as u64;
            self.inbox.publish(&batch, &mut self.wakes);
        }
        self.inbox
            .report(self.scheduler.waiting(), self.scheduler.facts());
        self.ended.clear();
        for waker in self.wakes.drain(..) {
            waker.wake();
        }
    }
}

impl Drop for Rank {
    fn drop(&mut self) {
        self.inbox.end();
    }
}
