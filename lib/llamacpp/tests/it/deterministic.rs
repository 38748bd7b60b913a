//! Deterministic mode: the text depends on the request alone.

use crate::prompts::PROMPTS;
use crate::support::tokenize;
use crate::support::{engine, generate, long_prompt, options, outputs, request, start, tokens};
use dynamo_llamacpp::{LlamacppEngine, LlamacppOptions};
use dynamo_protocols::engine::{Engine, EngineRequest};
use futures_util::future::{Either, join_all, select};
use futures_util::{StreamExt, stream};
use std::pin::pin;

/// Tokens of each answer.
const OUTPUT_TOKENS: u32 = 12;

/// Requests that generate beside those looked at.
const OTHERS: u32 = 8;

/// Tokens that the others may generate: more than they come to while the rest is answered.
const ENDLESS: u32 = 800;

/// Room for all at once, so that nobody waits for a place: twice eight sequences.
fn deterministic() -> LlamacppOptions {
    LlamacppOptions {
        deterministic: true,
        kv_cache_tokens: 16_384,
        context_length: Some(1_024),
        ..options()
    }
}

/// Eight: shorter and longer than a chunk of prefill, greedy and drawn, with and without a common
/// prefix, words and nonsense.
fn requests() -> Vec<EngineRequest> {
    let stem = long_prompt(1, 300);
    let mut drawn = request(&stem, OUTPUT_TOKENS);
    drawn.sampling.temperature = 0.9;
    drawn.sampling.seed = 5;
    let branch: Vec<u32> = stem[..280].iter().copied().chain([9_000, 9_001]).collect();
    let mut requests = vec![
        drawn,
        request(&branch, OUTPUT_TOKENS),
        request(&long_prompt(2, 600), OUTPUT_TOKENS),
    ];
    for text in [0, 4, 8, 11, 14].map(|number: usize| PROMPTS[number]) {
        requests.push(request(&tokenize(text), OUTPUT_TOKENS));
    }
    requests
}

/// The answers to all requests at once, with the others generating from before the first to after
/// the last of them.
async fn under_load(engine: &LlamacppEngine, requests: &[EngineRequest]) -> Vec<Vec<u32>> {
    let mut others = Vec::new();
    for seed in 0..OTHERS {
        let mut other = start(engine, request(&long_prompt(50 + seed, 40), ENDLESS)).await;
        other.next().await.unwrap().unwrap();
        others.push(other);
    }
    let others = pin!(stream::select_all(others).for_each(|output| {
        output.unwrap();
        std::future::ready(())
    }));
    let mut streams = Vec::new();
    for request in requests {
        streams.push(start(engine, request.clone()).await);
    }
    let answers = join_all(streams.into_iter().map(outputs));
    match select(answers, others).await {
        Either::Left((answers, _)) => answers.iter().map(|answer| tokens(answer)).collect(),
        Either::Right(_) => panic!("the others ended before the answers"),
    }
}

#[tokio::test]
async fn text_is_the_same_alone_under_load_cold_warm_and_after_a_move() {
    let requests = requests();
    let mut alone = Vec::new();
    for request in &requests {
        // A fresh engine each: nothing cached, nobody else.
        let engine = engine(&deterministic());
        alone.push(generate(&engine, request.clone()).await);
    }

    let engine = engine(&deterministic());
    for warmth in ["cold", "warm"] {
        let loaded = under_load(&engine, &requests).await;
        assert_eq!(loaded, alone, "{warmth}, with {OTHERS} others");
    }

    for (request, alone) in requests.iter().zip(&alone) {
        let again = outputs(start(&engine, request.clone()).await).await;
        assert_eq!(tokens(&again), *alone, "warm and alone");
        let reusable = (request.prompt_ids.len() - 1) / 128 * 128;
        assert_eq!(
            again[0].cached_tokens,
            Some(u32::try_from(reusable).unwrap())
        );
        let mut moved = request.clone();
        moved.generated_ids = alone[..5].to_vec();
        assert_eq!(generate(&engine, moved).await, alone[5..], "after a move");
    }
    assert!(engine.kv_transfer().is_none());
}
