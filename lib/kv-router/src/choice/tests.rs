//! Tests of choosing and booking together.

use super::*;
use crate::fleet::WorkerState;
use crate::request::Target;
use proptest::prelude::*;

const BLOCK: NonZeroU32 = NonZeroU32::new(16).unwrap();

fn key(instance: u64) -> WorkerKey {
    WorkerKey {
        instance,
        dp_rank: 0,
    }
}

fn fleet(n: u32) -> Fleet {
    let mut fleet = Fleet::default();
    for slot in 0..n {
        fleet.put(WorkerState {
            max_batched_tokens: Some(1_000),
            ..WorkerState::new(key(u64::from(slot)), Slot(slot))
        });
    }
    fleet
}

fn request(hashes: &[u64]) -> RouteRequest<'_> {
    RouteRequest {
        isl_tokens: hashes.len() as u64 * 16,
        hashes,
        ..RouteRequest::default()
    }
}

fn overlap(slot: u32, device: u32) -> WorkerOverlap {
    WorkerOverlap {
        device,
        ..WorkerOverlap::none(Slot(slot))
    }
}

/// A chooser with its book and a fleet.
struct Router {
    chooser: Chooser,
    book: Book,
    fleet: Fleet,
    now: Duration,
    bits: u64,
}

impl Router {
    fn new(policy: Policy, workers: u32) -> Self {
        Self {
            chooser: Chooser::new(policy),
            book: Book::new(0),
            fleet: fleet(workers),
            now: Duration::ZERO,
            bits: 0,
        }
    }

    fn of(mode: RouterMode, workers: u32) -> Self {
        Self::new(Policy::new(mode, BLOCK), workers)
    }

    fn route(
        &mut self,
        request: &RouteRequest<'_>,
        overlaps: &[WorkerOverlap],
    ) -> Result<Choice, NoChoice> {
        let situation = Situation {
            fleet: &self.fleet,
            overlaps,
            now: self.now,
        };
        let bits = &mut self.bits;
        let mut random = || {
            *bits = bits.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
            *bits
        };
        self.chooser
            .pick_and_book(&mut self.book, &situation, request, &mut random)
    }

    fn instance(&mut self, request: &RouteRequest<'_>, overlaps: &[WorkerOverlap]) -> u64 {
        self.route(request, overlaps).unwrap().worker.instance
    }
}

#[test]
fn a_burst_spreads_because_each_choice_is_booked_before_the_next() {
    let mut router = Router::of(RouterMode::Kv, 4);
    let mut seen: Vec<u64> = (0..4_u64)
        .map(|nth| router.instance(&request(&[100 * nth, 100 * nth + 1]), &[]))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 3]);
}

#[test]
fn the_cache_draws_until_the_load_outweighs_it() {
    let mut router = Router::of(RouterMode::Kv, 2);
    let hashes: Vec<u64> = (0..10).collect();
    let choice = router.route(&request(&hashes), &[overlap(1, 8)]).unwrap();
    assert_eq!((choice.worker, choice.cached_tokens), (key(1), 128));
    assert_eq!((choice.reachable_blocks, choice.margin()), (8, Some(8.0)));
    let load = router.book.load(Slot(1));
    assert_eq!((load.prefill_tokens, load.blocks), (32, 10));
    let other: Vec<u64> = (100..110).collect();
    // 12 blocks ahead by load, 8 by cache.
    assert_eq!(router.instance(&request(&other), &[overlap(1, 8)]), 0);
}

#[test]
fn blocks_in_use_by_an_equal_prefix_draw_without_any_cache() {
    let mut router = Router::of(RouterMode::Kv, 2);
    let hashes: Vec<u64> = (0..10).collect();
    let first = router.route(&request(&hashes), &[]).unwrap();
    router.book.first_token(first.booking, Duration::ZERO);
    let again = router.route(&request(&hashes), &[]).unwrap();
    // Either costs 10 blocks to compute; here 10 are active, there 10 would become so.
    assert_eq!(again.rivals[0].logit, again.parts.logit);
}

#[test]
fn without_reuse_nothing_is_shared() {
    let policy = Policy {
        assume_kv_reuse: false,
        ..Policy::new(RouterMode::Kv, BLOCK)
    };
    let mut router = Router::new(policy, 1);
    for _ in 0..2 {
        router.route(&request(&[1, 2, 3]), &[]).unwrap();
    }
    assert_eq!(router.book.load(Slot(0)).blocks, 6);
}

#[test]
fn turns_go_round() {
    let mut router = Router::of(RouterMode::RoundRobin, 3);
    let turns: Vec<u64> = (0..4)
        .map(|_| router.instance(&request(&[]), &[]))
        .collect();
    assert_eq!(turns, [0, 1, 2, 0]);
}

#[test]
fn every_mode_books_a_candidate_and_tells_what_others_would_have_cost() {
    let modes = RouterMode::ALL.iter().copied();
    for mode in modes.filter(|it| *it != RouterMode::Direct) {
        let mut router = Router::of(mode, 5);
        router.fleet.get_mut(key(2)).unwrap().draining = true;
        let mut instances = Vec::new();
        for nth in 0..12 {
            let hashes = [nth, nth + 1];
            let choice = router
                .route(&request(&hashes), &[overlap(1, 1), overlap(2, 2)])
                .unwrap();
            assert_eq!((choice.mode, choice.rule), (mode, Rule::Mode(mode)));
            assert_eq!((choice.candidates, choice.rejected), (4, 1));
            assert!(choice.rivals.len() >= 3 && choice.rivals.is_sorted_by_key(|it| it.logit));
            instances.push(choice.worker.instance);
        }
        assert!(!instances.contains(&2), "{mode}");
        assert_eq!(router.book.len(), 12);
        instances.sort_unstable();
        instances.dedup();
        assert!(instances.len() > 1, "{mode}");
    }
}

#[test]
fn direct_needs_a_target_and_takes_only_that() {
    let mut router = Router::of(RouterMode::Direct, 3);
    assert_eq!(router.route(&request(&[]), &[]), Err(NoChoice::NoTarget));
    let pinned = RouteRequest {
        target: Target {
            allowed: Some(&[2]),
            ..Target::default()
        },
        ..RouteRequest::default()
    };
    let choice = router.route(&pinned, &[]).unwrap();
    assert_eq!((choice.worker, choice.rule), (key(2), Rule::Pinned));
    let unknown = RouteRequest {
        target: Target {
            allowed: Some(&[9]),
            ..Target::default()
        },
        ..RouteRequest::default()
    };
    let refused = router.route(&unknown, &[]).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ModelNotReady);
}

#[test]
fn refusals_tell_missing_workers_from_busy_ones() {
    let mut nobody = Router::of(RouterMode::Kv, 0);
    assert_eq!(nobody.route(&request(&[]), &[]), Err(NoChoice::NoWorkers));

    let mut router = Router::of(RouterMode::Kv, 1);
    router.chooser.set_busy_thresholds(BusyThresholds {
        prefill_tokens: Some(20),
        ..BusyThresholds::default()
    });
    router.route(&request(&[1, 2]), &[]).unwrap();
    let refused = router.route(&request(&[3]), &[]).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::NoCapacity);
    let text = "no worker can take the request (prefill_busy: 1)";
    assert_eq!(refused.to_string(), text);
}

#[test]
fn a_request_waits_only_while_every_candidate_is_saturated() {
    let policy = Policy {
        queue_threshold: Some(0.016),
        ..Policy::new(RouterMode::Kv, BLOCK)
    };
    let mut router = Router::new(policy, 2);
    let first = router.route(&request(&[1, 2]), &[]).unwrap();
    router.route(&request(&[3, 4]), &[]).unwrap();
    let saturated = Err(NoChoice::Saturated { candidates: 2 });
    assert_eq!(router.route(&request(&[5]), &[]), saturated);
    router.book.first_token(first.booking, Duration::ZERO);
    let situation = Situation {
        fleet: &router.fleet,
        overlaps: &[],
        now: Duration::ZERO,
    };
    let room = router
        .chooser
        .room(&router.book, &situation, &request(&[5]));
    assert_eq!(room, 1);
}

fn with_sessions(is_hard: bool) -> Router {
    let policy = Policy {
        affinity: Some(AffinityPolicy {
            time_to_live: Duration::from_secs(60),
            is_hard,
        }),
        ..Policy::new(RouterMode::LeastLoaded, BLOCK)
    };
    Router::new(policy, 2)
}

fn in_session(hashes: &[u64]) -> RouteRequest<'_> {
    RouteRequest {
        session: Some("talk"),
        ..request(hashes)
    }
}

#[test]
fn hard_affinity_stays_whatever_the_load_until_the_worker_is_gone() {
    let mut router = with_sessions(true);
    let hashes: Vec<u64> = (0..50).collect();
    let first = router.route(&in_session(&hashes), &[]).unwrap();
    for _ in 0..3 {
        let next = router.route(&in_session(&[999]), &[]).unwrap();
        assert_eq!((next.worker, next.rule), (first.worker, Rule::Session));
    }
    router.fleet.get_mut(first.worker).unwrap().draining = true;
    let moved = router.route(&in_session(&[999]), &[]).unwrap();
    assert_ne!(moved.worker, first.worker);
    router.fleet.get_mut(first.worker).unwrap().draining = false;
    let stays = router.route(&in_session(&[999]), &[]).unwrap();
    assert_eq!(stays.worker, moved.worker);
}

#[test]
fn soft_affinity_leaves_when_computing_the_whole_prompt_elsewhere_is_cheaper() {
    let mut router = with_sessions(false);
    let short: Vec<u64> = (0..4).collect();
    let first = router.route(&in_session(&short), &[]).unwrap();
    // 8 blocks ahead there (4 to compute, 4 in use); a prompt of 8 blocks is worth staying for.
    let long: Vec<u64> = (100..108).collect();
    let kept = router.route(&in_session(&long), &[]).unwrap();
    assert_eq!((kept.worker, kept.rule), (first.worker, Rule::Session));
    // Now 24 blocks ahead.
    let left = router.route(&in_session(&long[..1]), &[]).unwrap();
    assert_ne!(left.worker, first.worker);
    // And the session has moved.
    let next = router.route(&in_session(&long[..1]), &[]).unwrap();
    assert_eq!(next.worker, left.worker);
}

#[test]
fn a_session_is_forgotten_after_its_time_to_live() {
    let mut router = with_sessions(true);
    let first = router.route(&in_session(&[1]), &[]).unwrap();
    router.now = Duration::from_secs(60);
    let next = router.route(&in_session(&[2]), &[]).unwrap();
    assert_eq!(next.rule, Rule::Mode(RouterMode::LeastLoaded));
    assert_ne!(next.worker, first.worker);
}

proptest! {
    #[test]
    fn a_choice_by_cost_is_the_least_of_all_candidates(
        loads in prop::collection::vec((0_u64..2_000, 0_u64..100, 0_u32..12), 1..20),
        seed: u64,
    ) {
        let mut router = Router::of(RouterMode::Kv, loads.len() as u32);
        router.bits = seed;
        let hashes: Vec<u64> = (0..12).collect();
        let mut overlaps = Vec::new();
        let mut expected = Vec::new();
        for (slot, (prefill_tokens, own_blocks, device)) in (0..).zip(&loads) {
            let work = Work {
                prefill_tokens: *prefill_tokens,
                own_blocks: *own_blocks,
                ..Work::default()
            };
            router.book.book(Slot(slot), work, Duration::ZERO);
            if *device > 0 {
                overlaps.push(overlap(slot, *device));
            }
            let raw = (*prefill_tokens as f64 + 192.0) / 16.0 - f64::from(*device);
            expected.push(raw.max(0.0) + *own_blocks as f64 + 12.0);
        }
        let choice = router.route(&request(&hashes), &overlaps).unwrap();
        let least = expected.iter().copied().fold(f64::INFINITY, f64::min);
        prop_assert_eq!(choice.parts.logit, least);
        prop_assert_eq!(expected[choice.worker.instance as usize], least);
        for rival in &choice.rivals {
            prop_assert_eq!(rival.logit, expected[rival.worker.instance as usize]);
        }
        expected.remove(choice.worker.instance as usize);
        expected.sort_by(f64::total_cmp);
        let rivals: Vec<f64> = choice.rivals.iter().map(|it| it.logit).collect();
        let cheapest = expected.len().min(CHEAPEST_RIVALS);
        prop_assert_eq!(&rivals[..cheapest], &expected[..cheapest]);
        prop_assert!(rivals.is_sorted() && rivals.len() <= CHEAPEST_RIVALS + 2);
    }
}
