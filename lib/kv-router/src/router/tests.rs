//! Tests of the router as a whole: what a shell sees of it.

use super::*;
use crate::book::{Load, STALE_AFTER};
use crate::choice::Rule;
use crate::config::AffinityMode;
use crate::decision_log::End;
use crate::request::{Standing, Target};
use dynamo_protocols::{ErrorCode, RequestError};
use proptest::prelude::*;
use std::collections::BTreeSet;

const BLOCK: NonZeroU32 = NonZeroU32::new(16).unwrap();

const FINISHED: Outcome = Outcome {
    cached_tokens: Some(0),
    output_tokens: 1,
    end: End::Finished,
};

fn key(instance: u64) -> WorkerKey {
    WorkerKey {
        instance,
        dp_rank: 0,
    }
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn worker(instance: u64, slot: u32) -> WorkerState {
    WorkerState {
        max_batched_tokens: Some(1_000),
        ..WorkerState::new(key(instance), Slot(slot))
    }
}

fn request(hashes: &[u64]) -> RouteRequest<'_> {
    RouteRequest {
        isl_tokens: hashes.len() as u64 * 16,
        hashes,
        ..RouteRequest::default()
    }
}

fn of_tenant<'a>(hashes: &'a [u64], tenant: &'a str) -> RouteRequest<'a> {
    RouteRequest {
        standing: Standing {
            tenant: Some(tenant),
            ..Standing::default()
        },
        ..request(hashes)
    }
}

/// A router of `workers` workers with slots 0.. and instances 0...
fn router(options: &RouterOptions, workers: u32) -> Router {
    let mut router = Router::new(options, BLOCK, 1);
    for slot in 0..workers {
        router.put_worker(worker(u64::from(slot), slot));
    }
    router
}

fn kv() -> RouterOptions {
    RouterOptions {
        router_mode: RouterMode::Kv,
        ..RouterOptions::default()
    }
}

/// One request per worker is as much as it takes before others wait.
fn queueing() -> RouterOptions {
    RouterOptions {
        router_queue_threshold: Some(0.001),
        ..kv()
    }
}

fn submit(router: &mut Router, request: &RouteRequest<'_>) -> Result<Submitted, Refusal> {
    router.submit(request, &[], seconds(0), &mut || 0)
}

fn placed(submitted: Result<Submitted, Refusal>) -> Placed {
    match submitted {
        Ok(Submitted::Placed(placed)) => placed,
        other => panic!("not placed: {other:?}"),
    }
}

fn waits(submitted: Result<Submitted, Refusal>) -> Place {
    match submitted {
        Ok(Submitted::Waits { place, .. }) => place,
        other => panic!("does not wait: {other:?}"),
    }
}

fn tick(router: &mut Router, now: Duration) -> Option<Released> {
    router.tick(now, &mut || 0, &mut |_, _| {})
}

#[test]
fn a_request_is_booked_logged_and_counted_until_it_ends() {
    let mut router = router(&kv(), 2);
    let overlaps = [WorkerOverlap {
        device: 2,
        ..WorkerOverlap::none(Slot(1))
    }];
    let hashes = [1, 2, 3];
    let submitted = router.submit(&request(&hashes), &overlaps, seconds(1), &mut || 0);
    let placed = placed(submitted);
    assert_eq!((placed.worker, placed.slot), (key(1), Slot(1)));
    assert_eq!(placed.ticket.predicted_tokens, 32);
    let load = router.book().load(Slot(1));
    assert_eq!(
        (load.prefill_tokens, load.blocks, load.requests),
        (16, 3, 1)
    );

    router.first_token(&placed.ticket, seconds(3));
    assert_eq!(router.book().load(Slot(1)).prefill_tokens, 0);
    let outcome = Outcome {
        cached_tokens: Some(32),
        ..FINISHED
    };
    router.end(&placed.ticket, outcome);
    router.end(&placed.ticket, outcome);
    assert_eq!(router.book().load(Slot(1)), Load::default());
    let decision = router.decisions().get(placed.ticket.decision).unwrap();
    assert_eq!(decision.time_to_first_token, Some(seconds(2)));
    assert_eq!(decision.outcome, Some(outcome));
    let rates = router.hit_rate().all().rates();
    assert_eq!(rates.achieved, rates.predicted);
}

#[test]
fn requests_wait_while_all_are_saturated_and_go_when_one_is_not() {
    let mut router = router(&queueing(), 2);
    let first = placed(submit(&mut router, &request(&[1])));
    placed(submit(&mut router, &request(&[2])));
    let third = waits(submit(&mut router, &request(&[3])));
    assert_eq!((router.waiting(), router.waiting_tokens()), (1, 16));
    assert_eq!(tick(&mut router, seconds(1)), None);

    router.first_token(&first.ticket, seconds(4));
    let mut asked = Vec::new();
    let released = router.tick(seconds(4), &mut || 0, &mut |hashes, _| asked.extend(hashes));
    let released = released.unwrap();
    assert_eq!((released.place, asked), (third, vec![3]));
    let placed = released.result.unwrap();
    assert_eq!(placed.worker, first.worker);
    let decision = router.decisions().get(placed.ticket.decision).unwrap();
    assert_eq!(decision.waited, seconds(4));
    assert_eq!(tick(&mut router, seconds(4)), None);
}

#[test]
fn who_comes_while_others_wait_lines_up_behind_them() {
    let mut router = router(&queueing(), 1);
    let first = placed(submit(&mut router, &request(&[1])));
    let second = waits(submit(&mut router, &request(&[2])));
    router.end(&first.ticket, FINISHED);
    let third = waits(submit(&mut router, &request(&[3])));
    let released = tick(&mut router, seconds(0)).unwrap();
    assert_eq!(released.place, second);
    assert_eq!(tick(&mut router, seconds(0)), None);
    router.end(&released.result.unwrap().ticket, FINISHED);
    assert_eq!(tick(&mut router, seconds(0)).unwrap().place, third);
}

#[test]
fn a_flood_of_one_tenant_does_not_keep_another_waiting() {
    let mut router = router(&queueing(), 1);
    let mut running = placed(submit(&mut router, &of_tenant(&[1], "flood"))).ticket;
    for nth in 0..100 {
        waits(submit(&mut router, &of_tenant(&[nth], "flood")));
    }
    let late = waits(submit(&mut router, &of_tenant(&[7], "late")));
    let mut turns = 0;
    loop {
        turns += 1;
        router.end(&running, FINISHED);
        let released = tick(&mut router, seconds(0)).unwrap();
        running = released.result.unwrap().ticket;
        if released.place == late {
            break;
        }
    }
    assert!(turns <= 2, "{turns}");
}

#[test]
fn who_waits_too_long_goes_away_or_is_displaced_is_told_so_once() {
    let options = RouterOptions {
        router_queue_limit: 3,
        router_queue_timeout: seconds(10),
        ..queueing()
    };
    let mut router = router(&options, 1);
    placed(submit(&mut router, &request(&[1])));
    let patient = waits(submit(&mut router, &of_tenant(&[2], "a")));
    let last = waits(submit(&mut router, &of_tenant(&[3], "a")));
    let gone = waits(submit(&mut router, &of_tenant(&[4], "b")));
    let submitted = submit(&mut router, &of_tenant(&[5], "c"));
    let Ok(Submitted::Waits { displaced, .. }) = submitted else {
        panic!("{submitted:?}");
    };
    assert_eq!(displaced, Some(last));
    let refused = submit(&mut router, &of_tenant(&[6], "c")).unwrap_err();
    assert_eq!(RequestError::from(refused).code, ErrorCode::NoCapacity);
    assert!(router.cancel(gone));
    assert!(!router.cancel(gone));
    assert_eq!(router.next_expiry(), Some(seconds(10)));
    let released = tick(&mut router, seconds(10)).unwrap();
    assert_eq!(released.place, patient);
    let refused = RequestError::from(released.result.unwrap_err());
    assert_eq!(refused.code, ErrorCode::QueueTimeout);
    assert_eq!(router.waiting(), 1);
}

#[test]
fn a_session_that_is_bound_waits_for_its_own_worker() {
    let options = RouterOptions {
        router_session_affinity_ttl_secs: Some(60.0),
        router_session_affinity_mode: AffinityMode::Hard,
        ..queueing()
    };
    let mut router = router(&options, 2);
    let talk = RouteRequest {
        session: Some("talk"),
        ..request(&[1])
    };
    let first = placed(submit(&mut router, &talk));
    let place = waits(submit(&mut router, &talk));
    // The other worker is idle, and still it is not this session's turn.
    assert_eq!(tick(&mut router, seconds(0)), None);
    // Others pass it.
    let other = waits(submit(&mut router, &of_tenant(&[9], "other")));
    let released = tick(&mut router, seconds(0)).unwrap();
    assert_eq!(released.place, other);
    assert_ne!(released.result.unwrap().worker, first.worker);
    router.first_token(&first.ticket, seconds(0));
    let released = tick(&mut router, seconds(0)).unwrap();
    assert_eq!(released.place, place);
    let second = released.result.unwrap();
    assert_eq!((second.worker, second.rule), (first.worker, Rule::Session));
    router.end_session("talk");
    router.end(&second.ticket, FINISHED);
    assert_ne!(placed(submit(&mut router, &talk)).rule, Rule::Session);
}

#[test]
fn workers_that_go_leave_nothing_behind_and_waiting_requests_learn_of_it() {
    let mut router = router(&queueing(), 1);
    let ticket = placed(submit(&mut router, &request(&[1]))).ticket;
    let place = waits(submit(&mut router, &request(&[2])));
    assert_eq!(router.remove_worker(key(0)), Some(Slot(0)));
    assert_eq!(router.remove_worker(key(0)), None);
    assert!(router.book().is_empty());
    let released = tick(&mut router, seconds(0)).unwrap();
    assert_eq!(released.place, place);
    assert_eq!(released.result, Err(Refusal::Choice(NoChoice::NoWorkers)));
    // Its request ends after it.
    router.first_token(&ticket, seconds(0));
    router.end(&ticket, FINISHED);
    assert_eq!(router.book().load(Slot(0)), Load::default());
}

#[test]
fn a_worker_that_restarts_in_another_slot_starts_without_load() {
    let mut router = router(&kv(), 1);
    placed(submit(&mut router, &request(&[1])));
    router.put_worker(worker(0, 5));
    assert_eq!(router.book().load(Slot(0)), Load::default());
    assert_eq!(placed(submit(&mut router, &request(&[1]))).slot, Slot(5));
    // The same slot is the same worker.
    router.put_worker(worker(0, 5));
    assert_eq!(router.book().load(Slot(5)).requests, 1);
}

#[test]
fn auto_follows_events_and_each_placement_names_the_mode() {
    let mut router = router(&RouterOptions::default(), 2);
    assert_eq!(
        placed(submit(&mut router, &request(&[1]))).mode,
        RouterMode::LeastLoaded
    );
    router.set_events(true);
    assert_eq!(
        placed(submit(&mut router, &request(&[1]))).mode,
        RouterMode::Kv
    );
    assert_eq!(router.mode(), RouterMode::Kv);
}

#[test]
fn draining_workers_get_nothing_new() {
    let mut router = router(&kv(), 2);
    router.set_draining(key(0), true);
    for nth in 0..3 {
        assert_eq!(placed(submit(&mut router, &request(&[nth]))).worker, key(1));
    }
}

#[test]
fn busy_workers_are_refused_by_what_they_report() {
    let mut router = router(&kv(), 1);
    router.set_busy_thresholds(BusyThresholds {
        decode_blocks: Some(0.5),
        ..BusyThresholds::default()
    });
    let mut report = LoadReport {
        used_blocks: 60,
        total_blocks: 100,
        ..LoadReport::default()
    };
    router.observe(key(0), &report);
    router.observe(key(9), &report);
    let refused = RequestError::from(submit(&mut router, &request(&[1])).unwrap_err());
    assert_eq!(refused.code, ErrorCode::NoCapacity);
    report.cached_blocks = 20;
    router.observe(key(0), &report);
    placed(submit(&mut router, &request(&[1])));
}

#[test]
fn without_events_prompts_return_to_where_they_were_sent() {
    let options = RouterOptions {
        router_kv_events: false,
        ..kv()
    };
    let mut router = router(&options, 4);
    let hashes: Vec<u64> = (0..8).collect();
    let first = placed(submit(&mut router, &request(&hashes)));
    assert_eq!(first.mode, RouterMode::KvApproximate);
    router.end(&first.ticket, FINISHED);
    let again = placed(submit(&mut router, &request(&hashes)));
    assert_eq!(
        (again.worker, again.ticket.predicted_tokens),
        (first.worker, 128)
    );
    router.end(&again.ticket, FINISHED);
    router.cache_cleared(first.slot);
    let cold = placed(submit(&mut router, &request(&hashes)));
    assert_eq!(cold.ticket.predicted_tokens, 0);
}

#[test]
fn output_blocks_count_only_when_asked_for_and_always_show_life() {
    for is_tracked in [false, true] {
        let options = RouterOptions {
            router_track_output_blocks: is_tracked,
            ..kv()
        };
        let mut router = router(&options, 1);
        let ticket = placed(submit(&mut router, &request(&[1]))).ticket;
        router.block_filled(&ticket, Some(77), 16, STALE_AFTER / 2);
        assert_eq!(
            router.book().load(Slot(0)).blocks,
            1 + u64::from(is_tracked)
        );
        assert_eq!(tick(&mut router, STALE_AFTER), None);
        assert_eq!(router.book().len(), 1);
        assert_eq!(tick(&mut router, 2 * STALE_AFTER), None);
        assert_eq!((router.book().len(), router.book().dropped().stale), (0, 1));
    }
}

#[test]
fn replicas_come_to_the_same_loads_by_steps_or_by_a_snapshot() {
    let options = RouterOptions {
        router_replica_sync: true,
        router_track_output_blocks: true,
        ..kv()
    };
    let mut here = router(&options, 2);
    // The same workers in other slots.
    let mut there = Router::new(&options, BLOCK, 2);
    there.put_worker(worker(1, 0));
    there.put_worker(worker(0, 1));
    let own = placed(there.submit(&request(&[50, 51]), &[], seconds(0), &mut || 0));

    let first = placed(submit(&mut here, &request(&[1, 2, 3])));
    let second = placed(submit(&mut here, &request(&[1, 2, 4])));
    here.first_token(&first.ticket, seconds(0));
    here.block_filled(&second.ticket, Some(9), 16, seconds(0));
    let taken = here.take_changes(seconds(1));
    assert_eq!((taken.changes.len(), taken.is_complete), (4, true));
    let loads_agree = |here: &Router, there: &Router, extra: WorkerKey| {
        for worker in here.fleet().workers() {
            let other = there.fleet().get(worker.key).unwrap();
            let load = there.book().load(other.slot);
            let own = u64::from(worker.key == extra);
            let mine = here.book().load(worker.slot);
            assert_eq!(load.blocks, mine.blocks + 2 * own);
            assert_eq!(load.prefill_tokens, mine.prefill_tokens + 32 * own);
            assert_eq!(u64::from(load.requests), u64::from(mine.requests) + own);
        }
    };
    for change in &taken.changes {
        there.apply(change, seconds(0));
    }
    loads_agree(&here, &there, own.worker);
    there.apply_snapshot(1, &here.snapshot(seconds(0)).changes, seconds(0));
    loads_agree(&here, &there, own.worker);
    assert_eq!(
        there.snapshot(seconds(0)).changes.len(),
        2,
        "a booking, and that none waits"
    );
    here.end(&first.ticket, FINISHED);
    for change in &here.take_changes(seconds(1)).changes {
        there.apply(change, seconds(0));
    }
    loads_agree(&here, &there, own.worker);
    there.apply_snapshot(1, &[], seconds(0));
    assert_eq!(there.book().len(), 1);
}

fn replica(origin: u64) -> Router {
    let options = RouterOptions {
        router_replica_sync: true,
        router_session_affinity_ttl_secs: Some(60.0),
        ..kv()
    };
    Router::new(&options, BLOCK, origin)
}

#[test]
fn bookings_with_a_worker_that_is_not_known_yet_count_when_it_comes() {
    let (mut here, mut there) = (replica(1), replica(2));
    here.put_worker(worker(0, 0));
    let first = placed(submit(&mut here, &request(&[1, 2, 3])));
    let second = placed(submit(&mut here, &request(&[4, 5])));
    let third = placed(submit(&mut here, &request(&[6])));
    here.first_token(&second.ticket, seconds(1));
    here.end(&third.ticket, FINISHED);
    for change in &here.take_changes(seconds(1)).changes {
        there.apply(change, seconds(1));
    }
    assert!(there.book().is_empty());
    there.put_worker(worker(0, 7));
    let (known, made) = (there.book().load(Slot(7)), here.book().load(Slot(0)));
    assert_eq!(known, made);
    assert_eq!((known.requests, known.blocks), (2, 5));
    here.end(&first.ticket, FINISHED);
    there.apply(&here.take_changes(seconds(1)).changes[0], seconds(1));
    assert_eq!(there.book().load(Slot(7)).requests, 1);
    // A replica that is gone by then leaves nothing.
    let mut late = replica(3);
    late.apply_snapshot(1, &here.snapshot(seconds(1)).changes, seconds(1));
    late.apply_snapshot(1, &[], seconds(1));
    late.put_worker(worker(0, 7));
    assert!(late.book().is_empty());
}

#[test]
fn a_conversation_stays_with_its_worker_on_any_replica() {
    let (mut here, mut there, mut late) = (replica(1), replica(2), replica(3));
    for replica in [&mut here, &mut there, &mut late] {
        for nth in 0..4 {
            replica.put_worker(worker(nth, u32::try_from(nth).unwrap()));
        }
    }
    let of_session = |session, hashes: &'static [u64]| RouteRequest {
        session: Some(session),
        ..request(hashes)
    };
    let chosen = placed(here.submit(&of_session("a", &[1]), &[], seconds(0), &mut || 2)).worker;
    let taken = here.take_changes(seconds(1));
    for change in &taken.changes {
        there.apply(change, seconds(0));
    }
    let again = there.submit(&of_session("a", &[2]), &[], seconds(1), &mut || 1);
    assert_eq!(placed(again).worker, chosen);
    // Whoever starts late hears it from anybody, with the rest it has had.
    let told = there.snapshot(seconds(40));
    late.apply_snapshot(2, &told.changes, seconds(0));
    let again = late.submit(&of_session("a", &[3]), &[], seconds(19), &mut || 1);
    assert_eq!(placed(again).worker, chosen);
    here.end_session("a");
    let ended = here.take_changes(seconds(1));
    late.apply(&ended.changes[0], seconds(20));
    assert_eq!(
        late.snapshot(seconds(20)).changes.len(),
        2,
        "its booking, and that none waits"
    );
}

#[test]
fn the_same_bits_give_the_same_choices_at_any_temperature() {
    let options = RouterOptions {
        router_temperature: 0.7,
        ..kv()
    };
    let run = |seed: u64| {
        let mut router = router(&options, 8);
        let mut bits = seed;
        let mut random = || {
            bits = bits
                .wrapping_mul(0x5851_F42D_4C95_7F2D)
                .wrapping_add(0x9E37);
            bits
        };
        let mut workers = Vec::new();
        for nth in 0..50 {
            let submitted = router.submit(&request(&[nth, nth + 1]), &[], seconds(0), &mut random);
            workers.push(placed(submitted).worker.instance);
        }
        workers
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[derive(Debug, Clone)]
enum Step {
    Submit {
        prompt: Vec<u64>,
        tenant: u8,
        pinned: Option<u64>,
    },
    Tick,
    FirstToken(usize),
    End(usize),
    Cancel(usize),
    Remove(u64),
    Put(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let prompt = prop::collection::vec(0_u64..6, 0..6);
    let pinned = prop::option::weighted(0.2, 0_u64..3);
    prop_oneof![
        6 => (prompt, 0_u8..3, pinned)
            .prop_map(|(prompt, tenant, pinned)| Step::Submit { prompt, tenant, pinned }),
        4 => Just(Step::Tick),
        3 => any::<usize>().prop_map(Step::FirstToken),
        3 => any::<usize>().prop_map(Step::End),
        1 => any::<usize>().prop_map(Step::Cancel),
        1 => (0_u64..3).prop_map(Step::Remove),
        2 => (0_u64..3).prop_map(Step::Put),
    ]
}

/// Who runs where and who waits, by what the router answered.
#[derive(Debug, Default)]
struct Model {
    running: Vec<Placed>,
    waiting: BTreeSet<Place>,
}

impl Model {
    fn submit(&mut self, router: &mut Router, request: &RouteRequest<'_>, now: Duration) {
        let told = router.explain(request, &[], now, &mut || 0);
        let before = router.book().len();
        match router.submit(request, &[], now, &mut || 0) {
            Ok(Submitted::Placed(placed)) => {
                assert_eq!(told.winner, Some(placed.worker));
                let weighed = told.candidates.iter().find(|it| it.worker == placed.worker);
                assert_eq!(weighed.unwrap().cost, placed.parts);
                self.running.push(placed);
            }
            Ok(Submitted::Waits { place, displaced }) => {
                assert_eq!(router.book().len(), before);
                assert!(displaced.is_none_or(|it| self.waiting.remove(&it)));
                assert!(self.waiting.insert(place));
            }
            Err(_) => assert!(told.refusal.is_some() || !self.waiting.is_empty()),
        }
    }

    fn tick(&mut self, router: &mut Router, now: Duration) {
        while let Some(released) = tick(router, now) {
            assert!(self.waiting.remove(&released.place));
            self.running.extend(released.result.ok());
        }
    }
}

proptest! {
    #[test]
    fn every_request_is_answered_once_and_the_book_is_what_runs(
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let options = RouterOptions { router_queue_limit: 6, router_queue_tenant_limit: 4, ..queueing() };
        let mut router = router(&options, 2);
        let mut model = Model::default();
        for (now, step) in (0_u64..).zip(steps) {
            let now = seconds(now);
            match step {
                Step::Submit { prompt, tenant, pinned } => {
                    let tenant = tenant.to_string();
                    let allowed = pinned.map(|it| [it]);
                    let allowed = allowed.as_ref().map(|it| &it[..]);
                    let target = Target { allowed, ..Target::default() };
                    let request = RouteRequest { target, ..of_tenant(&prompt, &tenant) };
                    model.submit(&mut router, &request, now);
                }
                Step::Tick => model.tick(&mut router, now),
                Step::FirstToken(nth) => if !model.running.is_empty() {
                    let nth = nth % model.running.len();
                    router.first_token(&model.running[nth].ticket, now);
                },
                Step::End(nth) => if !model.running.is_empty() {
                    let ended = model.running.swap_remove(nth % model.running.len());
                    router.end(&ended.ticket, FINISHED);
                },
                Step::Cancel(nth) => {
                    let nth = nth % model.waiting.len().max(1);
                    if let Some(place) = model.waiting.iter().nth(nth).copied() {
                        model.waiting.remove(&place);
                        prop_assert!(router.cancel(place));
                    }
                }
                Step::Remove(instance) => {
                    router.remove_worker(key(instance));
                    model.running.retain(|it| it.worker != key(instance));
                }
                Step::Put(instance) => router.put_worker(worker(instance, instance as u32)),
            }
            prop_assert_eq!(router.book().len(), model.running.len());
            prop_assert_eq!(router.waiting(), model.waiting.len());
            for worker in router.fleet().workers() {
                let running = model.running.iter().filter(|it| it.slot == worker.slot);
                let load = router.book().load(worker.slot);
                prop_assert_eq!(load.requests as usize, running.count());
            }
        }
        // Whoever is left goes once everything else has ended.
        while !model.running.is_empty() || !model.waiting.is_empty() {
            for placed in std::mem::take(&mut model.running) {
                router.end(&placed.ticket, FINISHED);
            }
            let before = model.waiting.len();
            model.tick(&mut router, seconds(200));
            prop_assert!(model.waiting.len() < before || before == 0);
        }
        prop_assert!(router.book().is_empty());
    }
}
