//! The order of one worker's events: what is new, what was had before, what is missing.
//!
//! Event ids of a worker and rank are consecutive within an *epoch*, one life of its process. A
//! [`Feed`] is told what arrives and answers what to do: apply a batch, clear what the worker held,
//! ask for what is missing. A gap is mended from the worker's replay buffer, else by a snapshot;
//! what arrives meanwhile waits, to a bound. If neither is to be had, what is there is applied and
//! the worker is marked incomplete: routing goes on with what is known.
//!
//! Invariants:
//! - within an epoch a batch is applied once and in order, and nothing is skipped unless the
//!   worker is marked incomplete
//! - a later epoch begins with a clearing, and an earlier one is never gone back to
//! - bounded in events that wait and in questions without an answer

use dynamo_protocols::kv::KvEventBatch;
use serde::Serialize;
use std::collections::VecDeque;

/// Events that wait for what is missing: seconds of a busy worker. Past it a snapshot is asked
/// for, which makes most of them needless.
pub const MAX_WAITING_EVENTS: usize = 4_096;

/// Questions in a row that brought nothing before the worker counts as incomplete: one that is
/// asked may have to restart or to reconnect.
pub const MAX_QUESTIONS: u32 = 4;

/// What to do, in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeedStep {
    /// Forget all that the worker holds.
    Clear,
    /// Put the snapshot that was just told of in place of all that the worker holds.
    Restore,
    /// Apply these events.
    Apply(KvEventBatch),
    /// Ask the worker for what is missing.
    Ask(Question),
}

/// What to ask a worker for. Every question is to be answered, if only by its failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// The events `first..end` once more. They are told as they come; then
    /// [`Feed::replayed`].
    Replay {
        /// The first missing event.
        first: u64,
        /// The first one after it that is there.
        end: u64,
    },
    /// All that it holds: [`Feed::snapshot`] or [`Feed::no_snapshot`].
    Snapshot,
}

/// What happened to a feed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct FeedCounters {
    /// Events that had been there before.
    pub duplicates: u64,
    /// Times that events were missing.
    pub gaps: u64,
    /// Events that were never seen and that no snapshot stood in for.
    pub lost: u64,
    /// Lives of the worker after the first.
    pub restarts: u64,
    /// Batches of an earlier life.
    pub stale: u64,
    /// Snapshots taken in.
    pub snapshots: u64,
    /// Times that too many events waited.
    pub overflows: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// What arrives in order is applied.
    Live,
    /// Events are missing that the worker may still have.
    Replaying,
    /// Events are missing that only a snapshot stands in for.
    AwaitingSnapshot,
}

/// See the module's description.
#[derive(Debug)]
pub struct Feed {
    epoch: Option<u64>,
    state: State,
    /// Id of the next event to apply.
    next: u64,
    /// Later batches, in order, without overlap.
    waiting: VecDeque<KvEventBatch>,
    waiting_events: usize,
    /// Questions since one last brought anything.
    questions: u32,
    incomplete: bool,
    counters: FeedCounters,
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}

impl Feed {
    /// Nothing arrived yet.
    pub fn new() -> Self {
        Self {
            epoch: None,
            state: State::Live,
            next: 0,
            waiting: VecDeque::new(),
            waiting_events: 0,
            questions: 0,
            incomplete: false,
            counters: FeedCounters::default(),
        }
    }

    /// Whether events are missing for good, so that the worker may hold more or less than known.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Whether it waits for an answer.
    pub fn is_waiting(&self) -> bool {
        self.state != State::Live
    }

    /// Id of the next event to apply.
    pub fn next_event_id(&self) -> u64 {
        self.next
    }

    /// What happened so far.
    pub fn counters(&self) -> FeedCounters {
        self.counters
    }

    /// A batch arrived, new or replayed. A later `epoch` is a later life of the worker. A batch
    /// without events tells that those before its id exist.
    pub fn batch(&mut self, epoch: u64, batch: KvEventBatch) -> Vec<FeedStep> {
        let mut steps = Vec::new();
        if !self.enter(epoch, &mut steps) {
            self.counters.stale += 1;
            return steps;
        }
        match self.state {
            State::Live => {
                self.take(batch, &mut steps);
            }
            State::Replaying => {
                if batch.first_event_id <= self.next {
                    self.take(batch, &mut steps);
                    self.drain(&mut steps);
                } else {
                    self.wait(batch, &mut steps);
                }
            }
            State::AwaitingSnapshot => self.wait(batch, &mut steps),
        }
        steps
    }

    /// A replay is over: all events that the worker still had were told. If some are still
    /// missing, a snapshot is asked for.
    pub fn replayed(&mut self) -> Vec<FeedStep> {
        let mut steps = Vec::new();
        if self.state == State::Replaying {
            self.ask_for_snapshot(&mut steps);
        }
        steps
    }

    /// A snapshot is there that has all events before `next_event_id` in it.
    pub fn snapshot(&mut self, epoch: u64, next_event_id: u64) -> Vec<FeedStep> {
        let mut steps = Vec::new();
        if !self.enter(epoch, &mut steps) || next_event_id < self.next {
            self.counters.stale += 1;
            if self.state == State::AwaitingSnapshot {
                self.ask_for_snapshot(&mut steps);
            }
            return steps;
        }
        self.counters.snapshots += 1;
        self.incomplete = false;
        self.state = State::Live;
        if next_event_id > self.next {
            self.questions = 0;
        }
        self.next = next_event_id;
        steps.push(FeedStep::Restore);
        self.drain(&mut steps);
        steps
    }

    /// No snapshot is to be had: what waits is applied, and the worker marked incomplete.
    pub fn no_snapshot(&mut self) -> Vec<FeedStep> {
        let mut steps = Vec::new();
        if self.state == State::AwaitingSnapshot {
            self.give_up(&mut steps);
        }
        steps
    }

    /// False for an epoch that is over.
    fn enter(&mut self, epoch: u64, steps: &mut Vec<FeedStep>) -> bool {
        match self.epoch {
            Some(current) if epoch < current => return false,
            Some(current) if epoch > current => {
                let mut counters = self.counters;
                counters.restarts += 1;
                *self = Self {
                    counters,
                    ..Self::new()
                };
                steps.push(FeedStep::Clear);
            }
            _ => {}
        }
        self.epoch = Some(epoch);
        true
    }

    /// Applies what is new of a batch; false if events are missing before it.
    fn take(&mut self, mut batch: KvEventBatch, steps: &mut Vec<FeedStep>) -> bool {
        if batch.first_event_id > self.next {
            self.counters.gaps += 1;
            self.wait(batch, steps);
            self.ask_for_replay(steps);
            return false;
        }
        let known = usize::try_from(self.next - batch.first_event_id).unwrap_or(usize::MAX);
        let known = known.min(batch.events.len());
        self.counters.duplicates += known as u64;
        batch.events.drain(..known);
        if !batch.events.is_empty() {
            batch.first_event_id = self.next;
            self.next += batch.events.len() as u64;
            self.questions = 0;
            steps.push(FeedStep::Apply(batch));
        }
        true
    }

    /// Applies what waits, up to the next gap.
    fn drain(&mut self, steps: &mut Vec<FeedStep>) {
        while let Some(first) = self.waiting.front() {
            if first.first_event_id > self.next {
                if self.state == State::Live {
                    self.counters.gaps += 1;
                    self.ask_for_replay(steps);
                }
                return;
            }
            if let Some(batch) = self.waiting.pop_front() {
                self.waiting_events -= weight(&batch);
                self.take(batch, steps);
            }
        }
        self.state = State::Live;
    }

    fn wait(&mut self, batch: KvEventBatch, steps: &mut Vec<FeedStep>) {
        let after = |it: &KvEventBatch| it.first_event_id <= batch.first_event_id;
        let place = self.waiting.partition_point(after);
        self.waiting_events += weight(&batch);
        self.waiting.insert(place, batch);
        if self.waiting_events <= MAX_WAITING_EVENTS {
            return;
        }
        self.counters.overflows += 1;
        while self.waiting_events > MAX_WAITING_EVENTS / 2
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.waiting_events -= weight(&oldest);
        }
        if self.state != State::AwaitingSnapshot {
            self.ask_for_snapshot(steps);
        }
    }

    fn ask_for_replay(&mut self, steps: &mut Vec<FeedStep>) {
        if self.state == State::AwaitingSnapshot {
            return;
        }
        let Some(end) = self.waiting.front().map(|first| first.first_event_id) else {
            return;
        };
        self.state = State::Replaying;
        let first = self.next;
        self.ask(Question::Replay { first, end }, steps);
    }

    fn ask_for_snapshot(&mut self, steps: &mut Vec<FeedStep>) {
        self.state = State::AwaitingSnapshot;
        self.ask(Question::Snapshot, steps);
    }

    fn ask(&mut self, question: Question, steps: &mut Vec<FeedStep>) {
        self.questions += 1;
        if self.questions > MAX_QUESTIONS {
            self.give_up(steps);
        } else {
            steps.push(FeedStep::Ask(question));
        }
    }

    fn give_up(&mut self, steps: &mut Vec<FeedStep>) {
        self.incomplete = true;
        self.questions = 0;
        for batch in std::mem::take(&mut self.waiting) {
            self.counters.lost += batch.first_event_id.saturating_sub(self.next);
            self.next = self.next.max(batch.first_event_id);
            self.take(batch, steps);
        }
        self.waiting_events = 0;
        self.state = State::Live;
    }
}

/// A batch without events waits too.
fn weight(batch: &KvEventBatch) -> usize {
    batch.events.len().max(1)
}

#[cfg(test)]
mod tests;
