//! Tests of the feed: examples, and a stream that loses, repeats and disorders batches.

use super::{Feed, FeedStep, MAX_QUESTIONS, MAX_WAITING_EVENTS, Question};
use dynamo_protocols::kv::{KvEvent, KvEventBatch};
use proptest::prelude::*;
use std::ops::Range;

/// Events that tell their own ids.
fn batch(ids: Range<u64>) -> KvEventBatch {
    KvEventBatch {
        first_event_id: ids.start,
        events: ids
            .map(|id| KvEvent::Removed { blocks: vec![id] })
            .collect(),
    }
}

fn apply(ids: Range<u64>) -> FeedStep {
    FeedStep::Apply(batch(ids))
}

fn replay(first: u64, end: u64) -> FeedStep {
    FeedStep::Ask(Question::Replay { first, end })
}

const SNAPSHOT: FeedStep = FeedStep::Ask(Question::Snapshot);

#[test]
fn batches_in_order_are_applied_and_what_was_there_is_not_applied_again() {
    let mut feed = Feed::new();
    assert_eq!(feed.batch(1, batch(0..3)), [apply(0..3)]);
    assert_eq!(feed.batch(1, batch(1..3)), []);
    assert_eq!(feed.batch(1, batch(2..5)), [apply(3..5)]);
    assert_eq!(feed.batch(1, batch(5..5)), []);
    assert_eq!((feed.next_event_id(), feed.counters().duplicates), (5, 3));
}

#[test]
fn a_gap_is_replayed_and_what_arrived_meanwhile_follows() {
    let mut feed = Feed::new();
    feed.batch(1, batch(0..2));
    assert_eq!(feed.batch(1, batch(5..6)), [replay(2, 5)]);
    assert_eq!(feed.batch(1, batch(6..8)), []);
    assert_eq!(feed.batch(1, batch(2..4)), [apply(2..4)]);
    assert!(feed.is_waiting());
    assert_eq!(feed.batch(1, batch(4..6)), [apply(4..6), apply(6..8)]);
    assert!(!feed.is_waiting());
    assert_eq!(feed.replayed(), []);
    assert!(!feed.is_incomplete());
}

#[test]
fn a_silent_loss_is_seen_by_the_next_empty_batch() {
    let mut feed = Feed::new();
    feed.batch(1, batch(0..2));
    assert_eq!(feed.batch(1, batch(4..4)), [replay(2, 4)]);
    assert_eq!(feed.batch(1, batch(2..4)), [apply(2..4)]);
    assert!(!feed.is_waiting());
}

#[test]
fn what_cannot_be_replayed_comes_in_a_snapshot() {
    let mut feed = Feed::new();
    assert_eq!(feed.batch(1, batch(10..12)), [replay(0, 10)]);
    assert_eq!(feed.replayed(), [SNAPSHOT]);
    assert_eq!(feed.batch(1, batch(12..14)), []);
    assert_eq!(
        feed.snapshot(1, 11),
        [FeedStep::Restore, apply(11..12), apply(12..14)]
    );
    assert_eq!(feed.batch(1, batch(14..15)), [apply(14..15)]);
    assert!(!feed.is_incomplete());
}

#[test]
fn a_snapshot_older_than_what_waits_leads_to_another_replay() {
    let mut feed = Feed::new();
    feed.batch(1, batch(10..12));
    feed.replayed();
    assert_eq!(feed.snapshot(1, 8), [FeedStep::Restore, replay(8, 10)]);
    assert_eq!(feed.batch(1, batch(8..10)), [apply(8..10), apply(10..12)]);
}

#[test]
fn without_a_snapshot_the_worker_is_incomplete_and_goes_on() {
    let mut feed = Feed::new();
    feed.batch(1, batch(10..12));
    feed.replayed();
    feed.batch(1, batch(20..21));
    assert_eq!(feed.no_snapshot(), [apply(10..12), apply(20..21)]);
    assert!(feed.is_incomplete() && !feed.is_waiting());
    assert_eq!(feed.counters().lost, 18);
    assert_eq!(feed.batch(1, batch(21..22)), [apply(21..22)]);
    assert_eq!(feed.snapshot(1, 22), [FeedStep::Restore]);
    assert!(!feed.is_incomplete());
}

#[test]
fn a_worker_that_restarts_is_cleared_and_its_earlier_life_is_over() {
    let mut feed = Feed::new();
    feed.batch(1, batch(0..7));
    feed.batch(1, batch(9..10));
    assert_eq!(feed.batch(2, batch(0..2)), [FeedStep::Clear, apply(0..2)]);
    assert_eq!(feed.batch(1, batch(7..9)), []);
    assert_eq!(feed.snapshot(1, 10), []);
    assert_eq!((feed.next_event_id(), feed.counters().stale), (2, 2));
    assert_eq!(feed.counters().restarts, 1);
}

#[test]
fn what_waits_is_bounded_and_a_snapshot_takes_its_place() {
    let mut feed = Feed::new();
    let most = MAX_WAITING_EVENTS as u64;
    assert_eq!(feed.batch(1, batch(1..most + 1)), [replay(0, 1)]);
    assert_eq!(feed.batch(1, batch(most + 1..most + 2)), [SNAPSHOT]);
    assert_eq!(
        feed.snapshot(1, most),
        [FeedStep::Restore, replay(most, most + 1)]
    );
    assert_eq!(
        feed.batch(1, batch(most..most + 1)),
        [apply(most..most + 1), apply(most + 1..most + 2)]
    );
    assert_eq!(feed.counters().overflows, 1);
}

#[test]
fn questions_that_bring_nothing_end() {
    let mut feed = Feed::new();
    let mut asked = 0;
    let mut steps = feed.batch(1, batch(9..10));
    while steps.iter().any(|step| matches!(step, FeedStep::Ask(_))) {
        asked += 1;
        steps = if feed.state == super::State::Replaying {
            feed.replayed()
        } else {
            // Answers that never catch up with what waits.
            feed.snapshot(1, 0)
        };
    }
    assert_eq!((asked, feed.is_incomplete()), (MAX_QUESTIONS, true));
    assert_eq!(feed.next_event_id(), 10);
}

/// A stream that loses, repeats and disorders batches, and a worker that answers truly. Answers
/// what the worker is known to hold in the end.
fn deliver(arrivals: &[(u64, u8)], total: u64, kept: u64) -> (Vec<u64>, Feed) {
    let mut feed = Feed::new();
    let mut seen = Vec::new();
    let mut snapshot = 0;
    let mut sent = 0;
    for (first, kind) in arrivals.iter().copied().chain([(total, 0)]) {
        let end = (first + u64::from(kind % 5)).min(total);
        sent = sent.max(end);
        let mut steps = VecSteps(Vec::new());
        steps.push(feed.batch(1, batch(first..end)));
        while let Some(step) = steps.0.pop() {
            match step {
                FeedStep::Clear => seen.clear(),
                FeedStep::Restore => seen = (0..snapshot).collect(),
                FeedStep::Apply(batch) => {
                    assert_eq!(batch.first_event_id, seen.len() as u64);
                    seen.extend((batch.first_event_id..).take(batch.events.len()));
                }
                FeedStep::Ask(Question::Replay { first, end }) => {
                    let from = first.max(end.saturating_sub(kept));
                    let mut more = feed.batch(1, batch(from..end));
                    more.extend(feed.replayed());
                    steps.push(more);
                }
                FeedStep::Ask(Question::Snapshot) => {
                    snapshot = (sent + u64::from(kind / 64)).min(total);
                    steps.push(feed.snapshot(1, snapshot));
                }
            }
        }
    }
    (seen, feed)
}

/// Steps still to do, the next one last.
struct VecSteps(Vec<FeedStep>);

impl VecSteps {
    fn push(&mut self, steps: Vec<FeedStep>) {
        self.0.extend(steps.into_iter().rev());
    }
}

proptest! {
    #[test]
    fn whatever_is_lost_repeated_or_late_every_event_counts_once(
        arrivals in prop::collection::vec((0_u64..60, any::<u8>()), 0..40),
        kept in 0_u64..30,
    ) {
        let (seen, feed) = deliver(&arrivals, 60, kept);
        prop_assert!(!feed.is_incomplete());
        prop_assert_eq!(seen, (0..60).collect::<Vec<u64>>());
    }
}
