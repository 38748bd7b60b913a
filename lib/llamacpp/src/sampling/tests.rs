//! The sampler against a naive implementation that sorts everything.

use super::*;
use proptest::prelude::*;

/// The same rules, written for clarity.
fn naive(logits: &[f32], draw: &Draw<'_>, prompt: &[u32], generated: &[u32]) -> u32 {
    let params = draw.params;
    let mut logits = logits.to_vec();
    for (id, logit) in (0_u32..).zip(logits.iter_mut()) {
        let count = generated.iter().filter(|&&g| g == id).count() as f32;
        if count > 0.0 || prompt.contains(&id) {
            let penalty = params.repetition_penalty;
            *logit = if *logit > 0.0 {
                *logit / penalty
            } else {
                *logit * penalty
            };
        }
        if count > 0.0 {
            *logit -= params.presence_penalty + params.frequency_penalty * count;
        }
        for (biased, bias) in &params.logit_bias {
            if *biased == id {
                *logit += bias;
            }
        }
        let word = draw.allowed.map(|allowed| allowed[id as usize / 32]);
        let is_taken_out = word.is_some_and(|word| word >> (id % 32) & 1 == 0);
        if draw.forbidden.contains(&id) || is_taken_out {
            *logit = f32::NEG_INFINITY;
        }
    }
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    order.sort_by(|&a, &b| {
        logits[b as usize]
            .total_cmp(&logits[a as usize])
            .then(a.cmp(&b))
    });
    if params.temperature <= 0.0 {
        return order[0];
    }
    let largest = logits[order[0] as usize];
    let scaled = |id: u32| (logits[id as usize] - largest) / params.temperature;
    let weight = |id: u32| f64::from(scaled(id)).exp();
    order.retain(|&id| scaled(id) >= -30.0);
    if params.min_p > 0.0 {
        order.retain(|&id| scaled(id) >= params.min_p.ln());
    }
    if params.top_k > 0 {
        order.truncate(params.top_k as usize);
    }
    if params.top_p < 1.0 {
        // The goal is summed in the order in which the sampler holds its candidates, which is
        // not defined; tests keep logits apart enough for rounding not to matter.
        let goal = f64::from(params.top_p) * order.iter().map(|&id| weight(id)).sum::<f64>();
        let mut reached = 0.0;
        let keep = order.iter().position(|&id| {
            reached += weight(id);
            reached >= goal
        });
        order.truncate(keep.map_or(order.len(), |keep| keep + 1));
    }
    order.sort_unstable();
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut left = uniform(params.seed, draw.choice, draw.position) * total;
    for &id in &order {
        left -= weight(id);
        if left < 0.0 {
            return id;
        }
    }
    *order.last().unwrap()
}

fn params() -> impl Strategy<Value = SamplingParams> {
    (
        prop_oneof![Just(0.0_f32), 0.2_f32..2.0],
        prop_oneof![Just(1.0_f32), 0.05_f32..0.99],
        0_u32..8,
        prop_oneof![Just(0.0_f32), 0.01_f32..0.9],
        prop_oneof![Just(0.0_f32), -1.5_f32..1.5],
        prop_oneof![Just(0.0_f32), -1.5_f32..1.5],
        prop_oneof![Just(1.0_f32), 0.5_f32..2.0],
        any::<u64>(),
        prop::collection::btree_map(0_u32..40, -3.0_f32..3.0, 0..3),
    )
        .prop_map(
            |(temperature, top_p, top_k, min_p, freq, presence, repetition, seed, bias)| {
                SamplingParams {
                    temperature,
                    top_p,
                    top_k,
                    min_p,
                    frequency_penalty: freq,
                    presence_penalty: presence,
                    repetition_penalty: repetition,
                    seed,
                    logit_bias: bias.into_iter().collect(),
                    structured: None,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn draws_equal_the_naive_ones(
        logits in prop::collection::vec(-8.0_f32..8.0, 1..40),
        params in params(),
        prompt in prop::collection::vec(0_u32..40, 0..6),
        generated in prop::collection::vec(0_u32..40, 0..6),
        forbidden in prop::collection::vec(1_u32..40, 0..3),
        allowed in prop::option::of(any::<[u32; 2]>()),
        position in 0_u64..100,
    ) {
        let seen = Seen::new(&params, &prompt, &generated);
        // There is always a token left.
        let allowed = allowed.map(|[low, high]| [low | 1, high]);
        let draw = Draw {
            params: &params,
            choice: 1,
            position,
            seen: &seen,
            forbidden: &forbidden,
            allowed: allowed.as_ref().map(|words| &words[..]),
        };
        let token = Sampler::default().sample(&logits, &draw);
        prop_assert_eq!(token, naive(&logits, &draw, &prompt, &generated));
    }

    #[test]
    fn the_largest_logit_is_found_wherever_it_is(
        logits in prop::collection::vec(-3_i8..3, 1..5000),
    ) {
        let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|&logit| logit == largest).unwrap();
        prop_assert_eq!(argmax(&logits) as usize, first);
    }

    #[test]
    fn top_p_over_many_candidates_keeps_the_fewest_that_reach_it(
        logits in prop::collection::vec(-2.0_f32..2.0, 1..3000),
        top_p in 0.05_f64..0.99,
    ) {
        let mut kept: Vec<Candidate> = (0..).zip(&logits).map(candidate).collect();
        for candidate in &mut kept {
            candidate.weight = f64::from(candidate.logit).exp();
        }
        let total: f64 = kept.iter().map(|c| c.weight).sum();
        keep_top_p(&mut kept, top_p);
        let reached: f64 = kept.iter().map(|c| c.weight).sum();
        let without_last = reached - kept.last().unwrap().weight;
        prop_assert!(reached >= top_p * total * (1.0 - 1e-12));
        prop_assert!(without_last < top_p * total * (1.0 + 1e-12));
    }
}

fn at(temperature: f32, seed: u64) -> SamplingParams {
    SamplingParams {
        temperature,
        seed,
        ..SamplingParams::default()
    }
}

fn sample(logits: &[f32], params: &SamplingParams, position: u64) -> u32 {
    let draw = Draw {
        params,
        choice: 0,
        position,
        seen: &Seen::default(),
        forbidden: &[],
        allowed: None,
    };
    Sampler::default().sample(logits, &draw)
}

#[test]
fn a_constraint_that_leaves_only_forbidden_tokens_is_stronger() {
    let (params, seen) = (at(1.0, 1), Seen::default());
    let draw = |forbidden: &'static [u32], allowed: &'static [u32]| Draw {
        params: &params,
        choice: 0,
        position: 0,
        seen: &seen,
        forbidden,
        allowed: Some(allowed),
    };
    let logits = [f32::NEG_INFINITY, 5.0, 1.0, 9.0];
    let mut sampler = Sampler::default();
    assert_eq!(sampler.sample(&logits, &draw(&[2, 2, 3], &[0b0100])), 2);
    assert_eq!(sampler.sample(&logits, &draw(&[2], &[0b0101])), 0);
    // Words that are left out allow nothing.
    assert_eq!(sampler.sample(&logits, &draw(&[], &[0b0010])), 1);
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [0.0, 1.0_f32.ln(), 2.0_f32.ln()];
    let params = at(1.0, 3);
    let mut counts = [0_u32; 3];
    for position in 0..8_000 {
        counts[sample(&logits, &params, position) as usize] += 1;
    }
    // 2,000, 2,000 and 4,000 are expected; five standard deviations are 225.
    assert!(
        counts[0].abs_diff(2_000) < 225 && counts[2].abs_diff(4_000) < 225,
        "{counts:?}"
    );
}

#[test]
fn the_same_seed_draws_the_same_token_and_the_position_moves_it() {
    let logits = vec![0.0; 1_000];
    let params = at(1.0, 9);
    assert_eq!(sample(&logits, &params, 5), sample(&logits, &params, 5));
    let draws: std::collections::BTreeSet<_> = (0..20)
        .map(|position| sample(&logits, &params, position))
        .collect();
    assert!(draws.len() > 10);
}

#[test]
fn logprobs_are_natural_and_before_temperature_and_penalties() {
    let logits = [1.0_f32.ln(), 2.0_f32.ln(), 5.0_f32.ln()];
    let logprobs = Sampler::default().logprobs(&logits, 0, 2);
    assert!((logprobs.logprob - 0.125_f32.ln()).abs() < 1e-6);
    assert_eq!(logprobs.top.iter().map(|t| t.0).collect::<Vec<_>>(), [2, 1]);
    assert!((logprobs.top[0].1 - 0.625_f32.ln()).abs() < 1e-6);
    let alone = Sampler::default().logprobs(&logits, 1, 0);
    assert!(alone.top.is_empty());
}

#[test]
fn logits_that_are_not_numbers_do_not_panic() {
    let logits = [f32::NAN; 5];
    assert_eq!(sample(&logits, &at(0.0, 1), 0), 0);
    assert_eq!(sample(&logits, &at(1.0, 1), 0), 0);
    assert_eq!(sample(&[f32::NEG_INFINITY; 3], &at(1.0, 1), 0), 0);
}
