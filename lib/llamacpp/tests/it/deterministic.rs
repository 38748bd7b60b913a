//! Deterministic mode: the text depends on the request alone.

use crate::support::tokenize;
use crate::support::{engine, generate, long_prompt, options, outputs, request, start, tokens};
use dynamo_llamacpp::LlamacppOptions;
use dynamo_protocols::engine::{Engine, EngineRequest};

fn deterministic() -> LlamacppOptions {
    LlamacppOptions {
        deterministic: true,
        kv_cache_tokens: 10_240,
        context_length: Some(1_024),
        ..options()
    }
}

/// Short and long, greedy and drawn, with and without a common prefix.
fn requests() -> Vec<EngineRequest> {
    let stem = long_prompt(1, 300);
    let mut drawn = request(&stem, 12);
    drawn.sampling.temperature = 0.9;
    drawn.sampling.seed = 5;
    let branch: Vec<u32> = stem[..280].iter().copied().chain([9_000, 9_001]).collect();
    vec![
        request(&tokenize("The capital of France is"), 12),
        drawn,
        request(&branch, 12),
        request(&long_prompt(2, 600), 12),
    ]
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
        let mut others = Vec::new();
        for seed in 0..8 {
            others.push(start(&engine, request(&long_prompt(50 + seed, 40), 16)).await);
        }
        let mut streams = Vec::new();
        for request in &requests {
            streams.push(start(&engine, request.clone()).await);
        }
        let all = futures_util::future::join_all(streams.into_iter().map(outputs)).await;
        let loaded: Vec<_> = all.iter().map(|outputs| tokens(outputs)).collect();
        assert_eq!(loaded, alone, "{warmth}, with 8 others");
        drop(others);
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
