//! Rules by example; `model.rs` checks every history.

use super::*;
use dynamo_protocols::kv::{Block, KvEvent, KvEventBatch};
use dynamo_protocols::load::{LoadReport, WorkLoad};
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};

pub(super) fn endpoint(name: &str) -> EndpointId {
    name.parse().unwrap()
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(super) fn load(dp_rank: u32, active: u32, prompt_tokens: u64) -> WorkerEvent {
    let scheduled = WorkLoad {
        num_decode_requests: active,
        ..WorkLoad::default()
    };
    let load = LoadReport {
        scheduled,
        used_blocks: u64::from(active) * 2,
        total_blocks: 100,
        block_size: 16,
        max_sequences: 8,
        prompt_tokens,
        cached_prompt_tokens: prompt_tokens / 2,
        ..LoadReport::default()
    };
    WorkerEvent {
        dp_rank,
        sent_at_ms: 0,
        news: WorkerNews::Load(load),
    }
}

/// So many stored blocks, and one removed.
pub(super) fn kv(dp_rank: u32, first_event_id: u64, stored: u64) -> WorkerEvent {
    let blocks = (0..stored).map(|hash| Block::from((hash, hash))).collect();
    let events = vec![
        KvEvent::Stored {
            parent: None,
            blocks,
        },
        KvEvent::Removed { blocks: vec![1] },
    ];
    WorkerEvent {
        dp_rank,
        sent_at_ms: 0,
        news: WorkerNews::Kv(KvEventBatch {
            first_event_id,
            events,
        }),
    }
}

pub(super) const BOUNDS: Bounds = Bounds {
    max_endpoints: 2,
    max_workers: 3,
    stale_after: Duration::from_secs(10),
};

/// A fleet with workers 1 and 2 at one endpoint, and where their news come from.
fn fleet() -> (Fleet, EndpointId) {
    let mut fleet = Fleet::new(BOUNDS);
    fleet.set_present(&present(&[("a.b.generate", &[1, 2])]), false, seconds(0));
    (fleet, endpoint("a.b.events"))
}

fn present(workers: &[(&str, &[u64])]) -> Present {
    let of = |(name, ids): &(&str, &[u64])| (endpoint(name), ids.iter().copied().collect());
    workers.iter().map(of).collect()
}

/// Known, reporting and stale workers of the first endpoint.
fn states(fleet: &Fleet, now: u64) -> (usize, usize, usize) {
    let figures = fleet.figures(seconds(now));
    let first = &figures.endpoints[0];
    (first.known, first.reporting, first.stale)
}

#[test]
fn a_worker_reports_once_it_tells_its_load_and_is_stale_when_it_does_not() {
    let (mut fleet, news) = fleet();
    assert_eq!(states(&fleet, 9), (2, 0, 0));
    fleet.hear(&news, 1, &Heard::Snapshot(vec![load(0, 3, 0)]), seconds(9));
    assert_eq!(states(&fleet, 9), (2, 1, 0));
    assert_eq!(states(&fleet, 10), (2, 1, 1));
    // One that is followed and has nothing to tell is well.
    assert_eq!(states(&fleet, 1_000), (2, 1, 1));
    fleet.hear(&news, 1, &Heard::Lost, seconds(1_000));
    assert_eq!(states(&fleet, 1_009), (2, 1, 1));
    assert_eq!(
        fleet.figures(seconds(1_009)).endpoints[0].sum.active_slots,
        3
    );
    assert_eq!(states(&fleet, 1_010), (2, 0, 2));
    assert_eq!(
        fleet.figures(seconds(1_010)).endpoints[0].sum.active_slots,
        0
    );
    // It is back: with events alone, as nothing was missed.
    fleet.hear(
        &news,
        1,
        &Heard::Events(vec![load(0, 1, 0)]),
        seconds(1_020),
    );
    assert_eq!(states(&fleet, 1_020), (2, 1, 1));
    assert_eq!(fleet.figures(seconds(1_020)).counts.losses, 1);
}

#[test]
fn a_worker_that_leaves_is_gone_at_once_and_its_endpoint_stays() {
    let (mut fleet, news) = fleet();
    let heard = Heard::Snapshot(vec![load(0, 3, 0)]);
    fleet.hear(&news, 1, &heard, seconds(1));
    fleet.set_present(&present(&[("a.b.generate", &[2])]), false, seconds(2));
    assert_eq!(states(&fleet, 2), (1, 0, 0));
    fleet.set_present(&present(&[]), true, seconds(3));
    let figures = fleet.figures(seconds(3));
    assert_eq!((figures.workers.len(), figures.endpoints[0].known), (0, 0));
    assert!(figures.counts.discovery_stale);
    assert!(fleet.followed().is_empty());
    assert!(
        fleet.components.is_empty(),
        "nothing is kept of who is gone"
    );
}

#[test]
fn news_may_come_before_discovery_names_their_publisher() {
    let (mut fleet, news) = fleet();
    let heard = Heard::Snapshot(vec![load(0, 5, 0)]);
    fleet.hear(&news, 3, &heard, seconds(1));
    assert_eq!(states(&fleet, 1).0, 2);
    fleet.set_present(&present(&[("a.b.generate", &[1, 2, 3])]), false, seconds(2));
    assert_eq!(states(&fleet, 2), (3, 1, 0));
    fleet.set_present(&present(&[("a.b.generate", &[1])]), false, seconds(3));
    assert!(fleet.components[&news].contains_key(&3), "it may come back");
    fleet.hear(&news, 3, &Heard::Gone, seconds(4));
    assert_eq!(fleet.components[&news].len(), 1);
}

#[test]
fn missing_events_are_counted_between_events_and_at_snapshots() {
    let (mut fleet, news) = fleet();
    let mut hear = |heard: Heard| {
        fleet.hear(&news, 1, &heard, seconds(1));
        let figures = fleet.figures(seconds(1));
        let kv = figures.endpoints[0].kv;
        assert_eq!(kv, figures.workers[0].kv);
        (
            kv.stored_blocks,
            kv.removed_blocks,
            kv.gaps,
            kv.missed_events,
        )
    };
    // What is held already did not happen now.
    let held = vec![kv(0, 10, 4), load(0, 0, 0)];
    assert_eq!(hear(Heard::Snapshot(held)), (0, 0, 0, 0));
    assert_eq!(hear(Heard::Events(vec![kv(0, 12, 3)])), (3, 1, 0, 0));
    assert_eq!(hear(Heard::Events(vec![kv(0, 20, 1)])), (4, 2, 1, 6));
    // The event plane had to give up on 3 events.
    assert_eq!(hear(Heard::Snapshot(vec![kv(0, 23, 9)])), (4, 2, 2, 9));
}

#[test]
fn prompts_count_from_the_second_report_on() {
    let (mut fleet, news) = fleet();
    let mut hear = |heard: Heard| {
        fleet.hear(&news, 1, &heard, seconds(1));
        let figures = fleet.figures(seconds(1));
        let endpoint = &figures.endpoints[0];
        (endpoint.prompt_tokens, endpoint.sum.prompt_tokens)
    };
    assert_eq!(hear(Heard::Snapshot(vec![load(0, 0, 100)])), (0, 100));
    assert_eq!(hear(Heard::Events(vec![load(0, 0, 160)])), (60, 160));
    // A worker whose engine began anew.
    assert_eq!(hear(Heard::Events(vec![load(0, 0, 10)])), (60, 10));
}

#[test]
fn endpoints_beyond_the_bound_are_counted_and_take_the_place_of_empty_ones() {
    let mut fleet = Fleet::new(BOUNDS);
    let three = present(&[("a.b.one", &[1]), ("a.b.two", &[2]), ("a.c.one", &[3, 4])]);
    fleet.set_present(&three, false, seconds(1));
    let counts = fleet.figures(seconds(1)).counts;
    assert_eq!((counts.left_out_endpoints, counts.left_out_workers), (1, 2));
    assert_eq!(fleet.followed(), [endpoint("a.b.events")].into());
    let two = present(&[("a.b.two", &[2]), ("a.c.one", &[3, 4])]);
    fleet.set_present(&two, false, seconds(2));
    let figures = fleet.figures(seconds(2));
    assert_eq!(figures.counts.left_out_endpoints, 0);
    let names: Vec<_> = figures.endpoints.iter().map(|it| &it.endpoint).collect();
    assert_eq!(names, [&endpoint("a.b.two"), &endpoint("a.c.one")]);
}

#[test]
fn workers_beyond_the_bound_are_in_the_sums_and_who_was_first_stays() {
    let (mut fleet, news) = fleet();
    fleet.set_present(&present(&[("a.b.generate", &[2, 3])]), false, seconds(1));
    let all = present(&[("a.b.generate", &[1, 2, 3])]);
    fleet.set_present(&all, false, seconds(2));
    for worker in 1..=3 {
        let heard = Heard::Snapshot(vec![load(0, 1, 0), load(1, 1, 0)]);
        fleet.hear(&news, worker, &heard, seconds(2));
    }
    let figures = fleet.figures(seconds(2));
    assert_eq!(figures.endpoints[0].sum.active_slots, 6);
    let shown: Vec<_> = figures
        .workers
        .iter()
        .map(|it| (it.worker, it.dp_rank))
        .collect();
    assert_eq!(shown, [(2, 0), (2, 1), (3, 0)]);
    assert_eq!(figures.left_out_ranks, 3);
}

#[test]
fn ranks_beyond_the_bound_cost_nothing() {
    let (mut fleet, news) = fleet();
    let heard = Heard::Events(vec![load(MAX_RANKS, 1, 0), load(u32::MAX, 1, 0)]);
    fleet.hear(&news, 1, &heard, seconds(1));
    assert!(fleet.components[&news][&1].ranks.is_empty());
}
