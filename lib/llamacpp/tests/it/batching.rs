//! Many sequences at once: none stalls another, none is lost.

use crate::support::{engine, generate, long_prompt, options, outputs, request, start, tokens};
use dynamo_llamacpp::LlamacppOptions;
use dynamo_protocols::ErrorCode;
use dynamo_protocols::engine::{EmbedRequest, Engine, FinishReason};
use futures_util::StreamExt;

#[tokio::test]
async fn a_consumer_that_does_not_read_stalls_nobody_and_loses_nothing() {
    let options = LlamacppOptions {
        max_num_seqs: 2,
        ..options()
    };
    let engine = engine(&options);
    let lazy = start(&engine, request(&long_prompt(1, 10), 100)).await;
    let other = start(&engine, request(&long_prompt(2, 10), 90)).await;
    assert_eq!(outputs(other).await.len(), 90);
    // Both places could be taken by such consumers, and a third request still gets one.
    let lazy_too = start(&engine, request(&long_prompt(3, 10), 100)).await;
    let third = outputs(start(&engine, request(&long_prompt(4, 10), 90)).await).await;
    assert_eq!(third.len(), 90);
    for stream in [lazy, lazy_too] {
        let outputs = outputs(stream).await;
        assert_eq!(tokens(&outputs).len(), 100);
        assert_eq!(outputs[99].finish_reason, Some(FinishReason::Length));
    }
}

#[tokio::test]
async fn sequences_that_outgrow_the_cache_are_computed_again_and_complete() {
    let small = LlamacppOptions {
        kv_cache_tokens: 256,
        ..options()
    };
    let small = engine(&small);
    let ask = |seed| request(&long_prompt(seed, 60), 110);
    let (one, two) = (start(&small, ask(1)).await, start(&small, ask(2)).await);
    let (one, two) = tokio::join!(outputs(one), outputs(two));
    assert_eq!((one.len(), two.len()), (110, 110));
}

#[tokio::test]
async fn dropping_a_stream_frees_its_place_and_its_memory() {
    let options = LlamacppOptions {
        max_num_seqs: 1,
        ..options()
    };
    let engine = engine(&options);
    let mut endless = start(&engine, request(&long_prompt(1, 20), 3_000)).await;
    assert!(endless.next().await.is_some());
    let waiting = start(&engine, request(&long_prompt(2, 20), 2)).await;
    drop(endless);
    assert_eq!(outputs(waiting).await.len(), 2);
    engine.drain().await;
    let load = engine.load();
    assert_eq!(load.scheduled.num_decode_requests, 0);
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_time_to_come_back() {
    let options = LlamacppOptions {
        max_num_seqs: 1,
        max_queued_requests: 1,
        ..options()
    };
    let engine = engine(&options);
    let mut kept = Vec::new();
    let mut refused = None;
    // One runs, one waits; another may slip in while the first is on its way.
    for seed in 0..4 {
        let ask = request(&long_prompt(seed, 20), 500);
        match engine.generate(ask, Default::default()).await {
            Ok(stream) => kept.push(stream),
            Err(error) => refused = Some(error),
        }
    }
    let error = refused.unwrap();
    assert_eq!(error.code, ErrorCode::RateLimited);
    assert!(error.retry_after.is_some());
    drop(kept);
    engine.drain().await;
    assert_eq!(
        generate(&engine, request(&long_prompt(9, 20), 2))
            .await
            .len(),
        2
    );
}

#[tokio::test]
async fn streams_of_an_engine_that_is_dropped_end_with_an_error() {
    let engine = engine(&options());
    let mut stream = start(&engine, request(&long_prompt(1, 20), 3_000)).await;
    assert!(stream.next().await.unwrap().is_ok());
    drop(engine);
    let last = stream.collect::<Vec<_>>().await.pop().unwrap();
    assert_eq!(last.unwrap_err().code, ErrorCode::Cancelled);
}

#[tokio::test]
async fn embeddings_are_unit_vectors_that_tell_texts_apart_while_others_generate() {
    let engine = engine(&options());
    let generating = start(&engine, request(&long_prompt(1, 20), 20)).await;
    let inputs = vec![long_prompt(2, 150), long_prompt(3, 10), long_prompt(2, 150)];
    let ask = EmbedRequest {
        model: "m".into(),
        inputs,
        ..EmbedRequest::default()
    };
    let answer = engine.embed(ask, Default::default()).await.unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
    let [a, b, c] = &answer.embeddings[..] else {
        panic!("three inputs, three embeddings");
    };
    assert!((dot(a, a) - 1.0).abs() < 1e-4);
    assert!(dot(a, c) > 0.9999);
    assert!(dot(a, b) < 0.999);
    assert_eq!(outputs(generating).await.len(), 20);

    let empty = EmbedRequest {
        model: "m".into(),
        inputs: vec![vec![]],
        ..EmbedRequest::default()
    };
    let error = engine.embed(empty, Default::default()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidRequest);
}
