//! A cluster under faults: seeds that keep every invariant, repeat exactly, and notice what is
//! broken on purpose.

use dynamo_sim::cluster::sweep::sweep;
use dynamo_sim::cluster::{Broken, Ending, run, run_broken};

/// Seeds that are always run.
const SEEDS: u64 = 40;

/// Seeds that once broke an invariant.
const FOUND_SEEDS: &[u64] = &[];

/// Seeds within which a broken variant must be noticed.
const BITE_SEEDS: u64 = 200;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[test]
fn every_seed_keeps_the_invariants() {
    let total = sweep(0, SEEDS, threads(), |_| ());
    for seed in FOUND_SEEDS {
        run(*seed).unwrap_or_else(|failure| panic!("{failure}"));
    }
    if let Some((_, failure)) = total.failures.first_key_value() {
        let seeds: Vec<_> = total.failures.keys().collect();
        panic!("{failure}\nseeds that fail: {seeds:?}");
    }
    assert!(total.requests >= 100 * SEEDS);
}

#[test]
fn a_seed_repeats_exactly() {
    for seed in 0..4 {
        let first = run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        let second = run(seed).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(first, second, "seed {seed} does not repeat");
        let complete = first.endings.iter().filter(|it| **it == Ending::Complete);
        assert!(complete.count() > 50, "{first}");
    }
}

#[test]
fn what_is_broken_on_purpose_is_noticed() {
    for broken in Broken::ALL {
        let noticed = (0..BITE_SEEDS).find(|seed| run_broken(*seed, *broken).is_err());
        assert!(noticed.is_some(), "{broken:?} is not noticed");
        println!("{broken:?} is noticed by seed {noticed:?}");
    }
}
