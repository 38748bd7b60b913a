//! Tests of the cost: its parts by hand, and what must hold for any inputs.

use super::*;
use proptest::prelude::*;

const BLOCK: NonZeroU32 = NonZeroU32::new(16).unwrap();

fn overlap(device: u32, host: u32, disk: u32, external: u32) -> WorkerOverlap {
    WorkerOverlap {
        slot: Slot(0),
        device,
        host,
        disk,
        external,
    }
}

/// A worker that is idle and has nothing cached.
fn idle() -> Facts {
    Facts {
        overlap: overlap(0, 0, 0, 0),
        prefill_tokens: 0,
        active_blocks: 0.0,
        shared_blocks: 0,
        requests: 0,
        sequences: 0,
        max_sequences: 0,
        taint_weight: 0.0,
    }
}

/// The cost of a prompt of ten full blocks.
fn parts(params: CostParams, least_prefill: u64, facts: &Facts) -> Parts {
    let basis = Basis {
        block_size: BLOCK,
        isl_tokens: 160,
        blocks: 10,
        least_prefill,
    };
    Cost::new(params, &basis).parts(facts)
}

#[test]
fn the_published_defaults_by_hand() {
    let facts = Facts {
        overlap: overlap(4, 2, 2, 1),
        prefill_tokens: 160,
        active_blocks: 30.0,
        shared_blocks: 4,
        requests: 3,
        sequences: 0,
        max_sequences: 0,
        taint_weight: 0.0,
    };
    let parts = parts(CostParams::default(), 0, &facts);
    // 4 device blocks in full, 2 at 0.75, 2 at 0.25; the shared cache counts only when asked to.
    assert_eq!(parts.credit, 6.0);
    assert_eq!(parts.raw_prefill, 20.0);
    assert_eq!(parts.prefill_cost, 14.0);
    assert_eq!(parts.decode_cost, 36.0);
    assert_eq!(parts.logit, 50.0);
}

#[test]
fn a_partial_block_counts_as_the_share_that_it_is() {
    let basis = Basis {
        block_size: NonZeroU32::new(64).unwrap(),
        isl_tokens: 400,
        blocks: 6,
        least_prefill: 0,
    };
    let facts = Facts {
        overlap: overlap(5, 0, 0, 0),
        prefill_tokens: 100,
        active_blocks: 2.5,
        ..idle()
    };
    let parts = Cost::new(CostParams::default(), &basis).parts(&facts);
    // 500 / 64 - 5 to compute, and 2.5 + 6 in use.
    assert_eq!((parts.prefill_cost, parts.decode_cost), (2.8125, 8.5));
    assert_eq!(parts.logit, 11.3125);
}

#[test]
fn each_parameter_acts_on_its_own_part() {
    let params = CostParams {
        credit: CreditWeights {
            external: 0.5,
            decay: 2.0,
            ..CostParams::default().credit
        },
        prefill_load_scale: 3.0,
        active_request_weight: 5.0,
        ..CostParams::default()
    };
    let facts = Facts {
        overlap: overlap(4, 0, 0, 2),
        prefill_tokens: 160,
        requests: 2,
        taint_weight: 1.0,
        ..idle()
    };
    let parts = parts(params, 80, &facts);
    // 5 blocks ahead of the least over 10 blocks of request, twice: 1 / (1 + 1).
    assert_eq!(parts.decay, 0.5);
    assert_eq!(parts.credit, 3.0);
    assert_eq!(parts.prefill_cost, 3.0 * 17.0);
    assert_eq!(parts.request_cost, 10.0);
    assert_eq!(parts.taint_factor, (-(1.0_f64.tanh())).exp());
    assert_eq!(parts.logit, (51.0 + 10.0 + 10.0) * parts.taint_factor);
}

#[test]
fn who_finds_all_places_taken_pays_the_turns_that_it_waits() {
    let params = CostParams {
        wait_weight: 100.0,
        ..CostParams::default()
    };
    let wait = |requests, max_sequences| {
        let facts = Facts {
            requests,
            max_sequences,
            ..idle()
        };
        parts(params, 0, &facts).wait_cost
    };
    assert_eq!((wait(0, 4), wait(3, 4)), (0.0, 0.0));
    assert_eq!((wait(4, 4), wait(7, 4), wait(8, 4)), (25.0, 100.0, 125.0));
    assert_eq!(wait(1_000, 0), 0.0);
    // Others send to it too: it says that it has more than this router knows of.
    let crowded = Facts {
        requests: 1,
        sequences: 7,
        max_sequences: 4,
        ..idle()
    };
    assert_eq!(parts(params, 0, &crowded).wait_cost, 100.0);
}

#[test]
fn without_prefill_tracking_the_credit_lowers_the_decode_cost() {
    let params = CostParams {
        track_prefill_tokens: false,
        ..CostParams::default()
    };
    let logit = |device| {
        let facts = Facts {
            overlap: overlap(device, 0, 0, 0),
            ..idle()
        };
        parts(params, 0, &facts).logit
    };
    assert_eq!((logit(4), logit(40)), (6.0, 0.0));
}

#[test]
fn without_block_tracking_only_the_prompt_to_compute_counts() {
    let params = CostParams {
        track_active_blocks: false,
        ..CostParams::default()
    };
    let facts = Facts {
        active_blocks: 500.0,
        ..idle()
    };
    assert_eq!(parts(params, 0, &facts).logit, 10.0);
}

#[test]
fn a_request_overrides_what_it_may_and_never_with_nonsense() {
    let overrides = Overrides {
        overlap_score_credit: Some(0.0),
        prefill_load_scale: Some(f64::NAN),
        router_temperature: Some(-1.0),
        shared_cache_multiplier: Some(0.5),
    };
    let params = CostParams::default().with(&overrides);
    assert_eq!((params.credit.device, params.credit.external), (0.0, 0.5));
    assert_eq!((params.prefill_load_scale, params.temperature), (1.0, 0.0));
}

proptest! {
    #[test]
    fn more_cache_never_costs_more_and_more_load_never_less(
        device in 0_u32..10,
        prefill in 0_u64..5_000,
        blocks in 0_u32..500,
        more in 1_u32..500,
    ) {
        let logit = |device, prefill, blocks| {
            let facts = Facts {
                overlap: overlap(device, 0, 0, 0),
                prefill_tokens: prefill,
                active_blocks: f64::from(blocks),
                ..idle()
            };
            parts(CostParams::default(), 0, &facts).logit
        };
        let base = logit(device, prefill, blocks);
        prop_assert!(logit(device + 1, prefill, blocks) <= base);
        prop_assert!(logit(device, prefill + u64::from(more), blocks) >= base);
        prop_assert!(logit(device, prefill, blocks + more) > base);
    }

    #[test]
    fn the_parts_add_up_to_the_cost(
        tiers in (0_u32..20, 0_u32..20, 0_u32..20, 0_u32..20),
        load in (0_u64..9_000, 0.0_f64..900.0, 0_u32..10, 0_u32..50),
        taint_weight in -3.0_f64..3.0,
        weights in (0.0_f64..3.0, 0.0_f64..3.0, 0.0_f64..3.0, 0.0_f64..3.0, 0.0_f64..3.0),
        sequences in (0_u32..90, 0_u32..60),
        is_prefill_tracked: bool,
    ) {
        let params = CostParams {
            credit: CreditWeights { device: weights.0, decay: weights.1, ..CostParams::default().credit },
            prefill_load_scale: weights.2,
            active_request_weight: weights.3,
            wait_weight: weights.4,
            track_prefill_tokens: is_prefill_tracked,
            ..CostParams::default()
        };
        let facts = Facts {
            overlap: overlap(tiers.0, tiers.1, tiers.2, tiers.3),
            prefill_tokens: load.0,
            active_blocks: load.1,
            shared_blocks: load.2,
            requests: load.3,
            sequences: sequences.0,
            max_sequences: sequences.1,
            taint_weight,
        };
        let of = parts(params, 0, &facts);
        let computed = if is_prefill_tracked {
            params.prefill_load_scale * (of.raw_prefill - of.credit).max(0.0) + of.decode_cost
        } else {
            (of.decode_cost - of.credit).max(0.0)
        };
        let logit = (computed + of.request_cost + of.wait_cost) * of.taint_factor;
        prop_assert!((of.logit - logit).abs() <= 1e-9 * logit.max(1.0));
        let credit = weights.0 * of.decay * f64::from(tiers.0)
            + 0.75 * f64::from(tiers.1) + 0.25 * f64::from(tiers.2);
        prop_assert!((of.credit - credit).abs() < 1e-9);
    }
}
