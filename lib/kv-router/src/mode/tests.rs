//! Tests of the ways to pick: what each prefers, and that ties are even.

use super::*;
use proptest::prelude::*;

/// Random bits for tests: a counter, mixed.
fn bits(seed: u64) -> impl FnMut() -> u64 {
    let mut count = seed;
    move || {
        count = count.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed(count)
    }
}

fn candidates(of: &[(u32, f64)]) -> Vec<Candidate> {
    let numbered = of.iter().enumerate();
    let candidate = |(at, (requests, logit)): (usize, &(u32, f64))| Candidate {
        at: at as u32,
        slot: Slot(at as u32),
        requests: *requests,
        logit: *logit,
    };
    numbered.map(candidate).collect()
}

fn key(instance: u64) -> WorkerKey {
    WorkerKey {
        instance,
        dp_rank: 0,
    }
}

/// How often each of `n` is picked in 10,000 draws.
fn counts(n: usize, mut pick: impl FnMut(Random<'_>) -> usize) -> Vec<u32> {
    let mut random = bits(1);
    let mut counts = vec![0; n];
    for _ in 0..10_000 {
        counts[pick(&mut random)] += 1;
    }
    counts
}

/// Within five standard deviations of a binomial with 10,000 draws.
fn is_near(count: u32, share: f64) -> bool {
    let deviation = (10_000.0 * share * (1.0 - share)).sqrt();
    (f64::from(count) - 10_000.0 * share).abs() <= 5.0 * deviation
}

#[test]
fn auto_follows_events_and_other_modes_stay() {
    assert_eq!(RouterMode::Auto.resolve(true), RouterMode::Kv);
    assert_eq!(RouterMode::Auto.resolve(false), RouterMode::LeastLoaded);
    assert_eq!(RouterMode::Random.resolve(true), RouterMode::Random);
}

#[test]
fn the_least_cost_wins_and_ties_are_even() {
    let of = candidates(&[(0, 3.0), (0, 1.0), (0, 2.0), (0, 1.0), (0, 1.0)]);
    let counts = counts(5, |random| by_cost(&of, 0.0, random));
    assert_eq!((counts[0], counts[2]), (0, 0));
    for nth in [1, 3, 4] {
        assert!(is_near(counts[nth], 1.0 / 3.0), "{counts:?}");
    }
}

#[test]
fn temperature_draws_by_softmax_over_scaled_costs() {
    let of = candidates(&[(0, 10.0), (0, 20.0), (0, 30.0)]);
    let expected = probabilities(&of, 0.5);
    // exp(0), exp(-1), exp(-2) over their sum.
    assert!((expected[0] - 0.665).abs() < 0.001, "{expected:?}");
    let counts = counts(3, |random| by_cost(&of, 0.5, random));
    for (count, share) in counts.iter().zip(&expected) {
        assert!(is_near(*count, *share), "{counts:?} {expected:?}");
    }
}

#[test]
fn equal_costs_are_drawn_evenly_at_any_temperature() {
    let of = candidates(&[(0, 5.0), (0, 5.0)]);
    assert_eq!(probabilities(&of, 0.0), [0.5, 0.5]);
    assert_eq!(probabilities(&of, 0.7), [0.5, 0.5]);
    let counts = counts(2, |random| by_cost(&of, 0.7, random));
    assert!(is_near(counts[0], 0.5), "{counts:?}");
}

#[test]
fn least_loaded_takes_the_fewest_requests() {
    let of = candidates(&[(3, 0.0), (1, 9.0), (1, 0.0)]);
    let counts = counts(3, |random| least_loaded(&of, random));
    assert_eq!(counts[0], 0);
    assert!(is_near(counts[1], 0.5), "{counts:?}");
}

#[test]
fn power_of_two_never_takes_the_busiest_and_takes_the_idlest_most() {
    let of = candidates(&[(9, 0.0), (5, 0.0), (1, 0.0)]);
    let counts = counts(3, |random| power_of_two(&of, random));
    assert_eq!(counts[0], 0);
    // The idlest is in two of three pairs.
    assert!(is_near(counts[2], 2.0 / 3.0), "{counts:?}");
    assert_eq!(power_of_two(&of[..1], &mut bits(1)), 0);
}

#[test]
fn turns_go_on_after_the_last_one_taken_even_if_it_is_gone() {
    let keys = [key(1), key(4), key(6)];
    let next = |last| in_turn(keys.into_iter(), last);
    assert_eq!(next(None), 0);
    assert_eq!(next(Some(key(1))), 1);
    assert_eq!(next(Some(key(5))), 2);
    assert_eq!(next(Some(key(6))), 0);
}

#[test]
fn prompts_shorter_than_a_block_have_no_prefix_to_hash() {
    assert_eq!(by_prefix(&candidates(&[(0, 0.0)]), |_| key(1), &[]), None);
}

#[test]
fn equal_prefixes_go_to_one_worker_until_it_is_far_busier() {
    let at = |requests: u32| {
        let mut of = candidates(&[(0, 0.0); 8]);
        let first = by_prefix(&of, |it| key(it.at.into()), &[1, 2, 3, 4, 5]).unwrap();
        of[first].requests = requests;
        let second = by_prefix(&of, |it| key(it.at.into()), &[1, 2, 3, 4, 99]).unwrap();
        (first, second)
    };
    let (first, second) = at(0);
    assert_eq!(first, second);
    let (first, second) = at(50);
    assert_ne!(first, second);
}

proptest! {
    #[test]
    fn a_worker_that_goes_moves_only_its_own_prefixes(gone in 0_usize..8, prefix: u64) {
        let of = candidates(&[(0, 0.0); 8]);
        let pick = |of: &[Candidate]| {
            let nth = by_prefix(of, |it| key(it.at.into()), &[prefix]).unwrap();
            of[nth].at
        };
        let mut fewer = of.clone();
        fewer.remove(gone);
        let before = pick(&of);
        if before != gone as u32 {
            prop_assert_eq!(pick(&fewer), before);
        }
    }

    #[test]
    fn every_way_answers_a_candidate(
        of in prop::collection::vec((0_u32..9, 0.0_f64..1e6), 1..20),
        temperature in prop_oneof![Just(0.0), 0.001_f64..10.0],
        seed: u64,
    ) {
        let of = candidates(&of);
        let mut random = bits(seed);
        prop_assert!(by_cost(&of, temperature, &mut random) < of.len());
        prop_assert!(least_loaded(&of, &mut random) < of.len());
        prop_assert!(power_of_two(&of, &mut random) < of.len());
        prop_assert!(at_random(&of, &mut random) < of.len());
        let sum: f64 = probabilities(&of, temperature).iter().sum();
        prop_assert!((sum - 1.0).abs() < 1e-9);
    }
}
