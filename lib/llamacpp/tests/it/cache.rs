//! Prefixes found again, and the events that tell of them.

use crate::support::{engine, generate, long_prompt, options, outputs, request, start, tokens};
use dynamo_protocols::engine::{Engine, EngineOutput};
use dynamo_protocols::kv::KvEvent;
use dynamo_tokens::{HashContext, block_hashes, sequence_hashes};
use futures_util::StreamExt;
use std::collections::HashSet;

fn logprob(output: &EngineOutput) -> f32 {
    output.logprobs.as_ref().unwrap()[0].logprob
}

#[tokio::test]
async fn a_repeated_prefix_comes_from_the_cache_but_never_across_salts() {
    let engine = engine(&options());
    let prompt = long_prompt(1, 100);
    let cached = async |salt: Option<&str>| {
        let mut ask = request(&prompt, 2);
        ask.cache_salt = salt.map(Into::into);
        let outputs = outputs(start(&engine, ask).await).await;
        (outputs[0].cached_tokens.unwrap(), tokens(&outputs))
    };
    let cold = cached(None).await;
    assert_eq!(cold.0, 0);
    assert_eq!(cached(None).await, (96, cold.1.clone()));
    assert_eq!(cached(Some("tenant")).await.0, 0);
    assert_eq!(cached(Some("tenant")).await.0, 96);
}

#[tokio::test]
async fn a_prefix_longer_than_the_attention_window_is_still_whole_when_cut_back() {
    // The model's window is 512 tokens: of 700 the first are outside it, and llama.cpp would take
    // their cells for the sequence after the next, right behind the hole that the evicted one
    // left.
    let options = dynamo_llamacpp::LlamacppOptions {
        kv_cache_tokens: 1_024,
        kv_cache_block_size: 64,
        ..options()
    };
    let warm = engine(&options);
    let long = long_prompt(1, 700);
    generate(&warm, request(&long_prompt(2, 130), 1)).await;
    generate(&warm, request(&long, 1)).await;
    generate(&warm, request(&long_prompt(3, 300), 1)).await;
    let mut branch = request(&long[..330], 12);
    branch.logprobs = Some(0);
    let reused = outputs(start(&warm, branch.clone()).await).await;
    assert_eq!(reused[0].cached_tokens, Some(320));
    drop(warm);
    let calm = engine(&options);
    generate(&calm, request(&long, 1)).await;
    let expected = outputs(start(&calm, branch).await).await;
    assert_eq!(tokens(&reused), tokens(&expected));
    for (reused, expected) in reused.iter().zip(&expected) {
        assert!((logprob(reused) - logprob(expected)).abs() < 0.01);
    }
}

#[tokio::test]
async fn events_name_what_is_reusable_without_gaps() {
    let options = dynamo_llamacpp::LlamacppOptions {
        kv_cache_tokens: 512,
        ..options()
    };
    let engine = engine(&options);
    let mut events = engine.kv_events().unwrap();
    let first = long_prompt(1, 200);
    generate(&engine, request(&first, 1)).await;
    for seed in 2..4 {
        generate(&engine, request(&long_prompt(seed, 200), 1)).await;
    }
    engine.drain().await;
    drop(engine);
    let mut held = HashSet::new();
    let mut next = 0;
    while let Some(batch) = events.next().await {
        assert_eq!(batch.first_event_id, next);
        next += batch.events.len() as u64;
        for event in batch.events {
            match event {
                KvEvent::Stored { blocks, .. } => {
                    held.extend(blocks.iter().map(|b| b.sequence_hash));
                }
                KvEvent::Removed { blocks } => {
                    assert!(blocks.iter().all(|hash| held.remove(hash)));
                }
                KvEvent::Cleared => held.clear(),
            }
        }
    }
    let hashes = |prompt: &[u32]| sequence_hashes(&block_hashes(prompt, 32, &HashContext::new()));
    // 600 tokens went through a cache of 512: the first prompt had to give way, from its end.
    let kept: Vec<bool> = hashes(&first)
        .iter()
        .map(|hash| held.contains(hash))
        .collect();
    assert!(!kept[5] && kept.is_sorted_by(|a, b| a >= b), "{kept:?}");
    assert!(
        hashes(&long_prompt(3, 200))
            .iter()
            .all(|hash| held.contains(hash))
    );
}

#[tokio::test]
async fn choices_of_one_prompt_compute_it_once() {
    let engine = engine(&options());
    let prompt = long_prompt(5, 300);
    let mut streams = Vec::new();
    for choice in 0..4 {
        let mut ask = request(&prompt, 3);
        ask.choice = choice;
        ask.sampling.temperature = 1.0;
        streams.push(start(&engine, ask).await);
    }
    let all = futures_util::future::join_all(streams.into_iter().map(outputs)).await;
    let cached: Vec<u32> = all.iter().map(|o| o[0].cached_tokens.unwrap()).collect();
    assert_eq!(cached, [0, 288, 288, 288]);
    let distinct: HashSet<_> = all.iter().map(|outputs| tokens(outputs)).collect();
    assert!(distinct.len() > 1, "each choice draws for itself");
}
