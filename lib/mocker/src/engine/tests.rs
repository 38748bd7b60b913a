//! The engine behind its trait, on the runtime's own clock (paused: time passes when all wait).

use super::*;
use dynamo_protocols::engine::{EngineOutput, FinishReason, StopConditions, TokenId};
use dynamo_protocols::kv::{KvEvent, SequenceHash};
use futures_util::{FutureExt, StreamExt};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

fn request(prompt: impl IntoIterator<Item = TokenId>, max_tokens: u32) -> EngineRequest {
    EngineRequest {
        prompt_ids: prompt.into_iter().collect(),
        stop: StopConditions {
            max_tokens,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }
}

async fn start(options: &MockerOptions) -> MockEngine {
    MockEngine::start(options, MockModel::default(), &Tasks::root())
        .await
        .unwrap()
}

fn instant() -> MockerOptions {
    MockerOptions {
        speedup_ratio: 0.0,
        ..MockerOptions::default()
    }
}

fn on_rank(rank: u32) -> EngineRequest {
    EngineRequest {
        dp_rank: Some(rank),
        ..request(0..100, 50)
    }
}

async fn generate(engine: &MockEngine, request: EngineRequest) -> EngineStream {
    let context = RequestContext::default();
    engine.generate(request, context).await.unwrap()
}

async fn collect(outputs: EngineStream) -> Vec<EngineOutput> {
    outputs.map(Result::unwrap).collect().await
}

#[tokio::test]
async fn each_token_is_an_output_and_the_last_one_says_why_it_ends() {
    let engine = start(&instant()).await;
    let outputs = collect(generate(&engine, request(0..200, 500)).await).await;
    assert_eq!(outputs.len(), 500);
    assert!(outputs.iter().all(|output| output.token_ids.len() == 1));
    assert_eq!(outputs[499].finish_reason, Some(FinishReason::Length));
    assert!(
        outputs[..499]
            .iter()
            .all(|output| output.finish_reason.is_none())
    );
    assert_eq!(outputs[0].cached_tokens, Some(0));
    assert_eq!(outputs[1].cached_tokens, None);
    let again = collect(generate(&engine, request(0..200, 500)).await).await;
    assert_eq!(again[0].cached_tokens, Some(192));
    assert_eq!(again[7].token_ids, outputs[7].token_ids);
}

#[tokio::test(start_paused = true)]
async fn tokens_come_at_the_pace_of_the_simulated_engine() {
    let engine = start(&MockerOptions {
        decode_speedup_ratio: 0.574,
        ..MockerOptions::default()
    })
    .await;
    let begin = Instant::now();
    let mut outputs = generate(&engine, request(0..100, 101)).await;
    let mut arrivals = Vec::new();
    while let Some(output) = outputs.next().await {
        output.unwrap();
        arrivals.push(begin.elapsed());
    }
    // 18.024 ms of prefill; a decode step is 10 ms and a little.
    assert!((18..=20).contains(&arrivals[0].as_millis()), "{arrivals:?}");
    let all = arrivals[100].as_secs_f64() * 1e3;
    assert!((1_018.0..1_025.0).contains(&all), "{all}");
    let gaps = arrivals.windows(2).map(|pair| pair[1] - pair[0]);
    for gap in gaps {
        assert!((9..=12).contains(&gap.as_millis()), "{gap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn steps_shorter_than_a_timer_keep_the_pace_on_the_whole() {
    let engine = start(&MockerOptions {
        speedup_ratio: 100.0,
        ..MockerOptions::default()
    })
    .await;
    let begin = Instant::now();
    let outputs = collect(generate(&engine, request(0..100, 2_000)).await).await;
    assert_eq!(outputs.len(), 2_000);
    // 2,000 steps of 57.4 microseconds and a little.
    let all = begin.elapsed().as_millis();
    assert!((113..=125).contains(&all), "{all}");
}

#[tokio::test(start_paused = true)]
async fn time_that_the_process_lost_is_not_made_up_for() {
    let engine = start(&MockerOptions::default()).await;
    let mut outputs = generate(&engine, request(0..100, 5_000)).await;
    outputs.next().await.unwrap().unwrap();
    tokio::time::advance(Duration::from_secs(5)).await;
    let begin = Instant::now();
    for _ in 0..50 {
        outputs.next().await.unwrap().unwrap();
    }
    // 5.74 ms a step; two or three of them come early.
    assert!(begin.elapsed().as_millis() > 250, "{:?}", begin.elapsed());
}

#[tokio::test(start_paused = true)]
async fn starting_takes_the_time_it_is_to_take() {
    let begin = Instant::now();
    let engine = start(&MockerOptions {
        startup_time: Duration::from_secs(30),
        ..MockerOptions::default()
    })
    .await;
    assert_eq!(begin.elapsed().as_secs(), 30);
    assert_eq!(engine.load().total_blocks, 16_384);
}

#[tokio::test(start_paused = true)]
async fn dropping_a_stream_frees_its_sequence_and_lets_a_drain_end() {
    let engine = start(&MockerOptions::default()).await;
    let mut outputs = generate(&engine, request(0..100, 5_000)).await;
    outputs.next().await.unwrap().unwrap();
    let second = outputs.next().await.unwrap().unwrap();
    assert_eq!(second.cached_tokens, None);
    let load = engine.load();
    assert_eq!(load.scheduled.num_decode_requests, 1);
    assert_eq!((load.used_blocks, load.cached_blocks), (2, 0));
    let mut drained = std::pin::pin!(engine.drain());
    assert!(futures_util::poll!(&mut drained).is_pending());
    drop(outputs);
    drained.await;
    // The full block stays as cache.
    let load = engine.load();
    assert_eq!(load.scheduled, Default::default());
    assert_eq!((load.used_blocks, load.cached_blocks), (1, 1));
}

#[tokio::test]
async fn a_request_dropped_before_it_was_looked_at_leaves_nothing() {
    let engine = start(&instant()).await;
    drop(generate(&engine, request(0..100, 5_000)).await);
    engine.drain().await;
    assert_eq!(engine.load().scheduled, Default::default());
    assert_eq!(
        collect(generate(&engine, request(0..4, 3)).await)
            .await
            .len(),
        3
    );
}

#[tokio::test]
async fn a_consumer_that_does_not_read_pauses_its_sequence_alone() {
    let engine = start(&instant()).await;
    let mut slow = generate(&engine, request(0..100, 5_000)).await;
    slow.next().await.unwrap().unwrap();
    let fast = collect(generate(&engine, request(0..50, 1_000)).await).await;
    assert_eq!(fast.len(), 1_000);
    // The slow one holds what 64 unread tokens need, and did not run to its end meanwhile.
    let load = engine.load();
    assert!(load.used_blocks - load.cached_blocks <= 4);
    assert_eq!(collect(slow).await.len(), 4_999);
}

#[tokio::test]
async fn events_add_up_to_what_is_cached() {
    let engine = start(&MockerOptions {
        num_gpu_blocks_override: 64,
        block_size: 16,
        ..instant()
    })
    .await;
    let mut events = engine.kv_events().unwrap();
    let mut held = BTreeSet::<SequenceHash>::new();
    let mut next_id = 0;
    for round in 0..20_u32 {
        let streams = (0..8).map(|_| request(round * 40..round * 40 + 90, 40));
        let streams = futures_util::future::join_all(streams.map(|it| generate(&engine, it))).await;
        futures_util::future::join_all(streams.into_iter().map(collect)).await;
    }
    engine.drain().await;
    while let Some(Some(batch)) = events.next().now_or_never() {
        assert_eq!(batch.first_event_id, next_id);
        next_id += batch.events.len() as u64;
        for event in batch.events {
            match event {
                KvEvent::Stored { blocks, .. } => {
                    for block in blocks {
                        assert!(held.insert(block.sequence_hash));
                    }
                }
                KvEvent::Removed { blocks } => {
                    for hash in blocks {
                        assert!(held.remove(&hash));
                    }
                }
                KvEvent::Cleared => unreachable!("nothing clears the cache"),
            }
        }
    }
    assert_eq!(held.len() as u64, engine.load().cached_blocks);
    assert!(next_id > 20);
    drop(engine);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn ranks_are_engines_of_their_own_behind_one() {
    let engine = start(&MockerOptions {
        data_parallel_size: 3,
        ..MockerOptions::default()
    })
    .await;
    assert_eq!(engine.ranks(), 3);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(generate(&engine, request(0..100, 50)).await);
    }
    streams.push(generate(&engine, on_rank(1)).await);
    for stream in &mut streams {
        stream.next().await.unwrap().unwrap();
        stream.next().await.unwrap().unwrap();
    }
    let decodes = |rank| engine.rank_load(rank).scheduled.num_decode_requests;
    assert_eq!([0, 1, 2].map(decodes), [1, 2, 1]);
    let load = engine.load();
    assert_eq!(load.scheduled.num_decode_requests, 4);
    assert_eq!(
        (load.total_blocks, load.max_sequences),
        (3 * 16_384, 3 * 256)
    );
    assert!(engine.rank_kv_events(2).is_some());
    assert!(engine.rank_kv_events(3).is_none());
    let refused = engine.generate(on_rank(3), RequestContext::default()).await;
    assert_eq!(refused.err().unwrap().code, ErrorCode::InvalidRequest);
}

#[tokio::test]
async fn more_than_may_wait_are_refused_with_the_option_to_raise() {
    let engine = start(&MockerOptions {
        max_queued_requests: 2,
        ..MockerOptions::default()
    })
    .await;
    let mut streams = Vec::new();
    let refusal = loop {
        let asked = request(0..100, 50);
        match engine.generate(asked, RequestContext::default()).await {
            Ok(stream) => streams.push(stream),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(streams.len(), 2);
    assert_eq!(refusal.code, ErrorCode::RateLimited);
    assert!(refusal.message.contains("--max-queued-requests"));
}

#[tokio::test]
async fn an_engine_that_goes_away_ends_its_streams_with_one_error() {
    let engine = start(&MockerOptions::default()).await;
    let mut outputs = generate(&engine, request(0..100, 50)).await;
    drop(engine);
    let error = loop {
        match outputs.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.code, ErrorCode::EngineFailed);
    assert!(outputs.next().await.is_none());
}

#[tokio::test]
async fn what_was_finished_before_it_moved_ends_at_once() {
    let engine = start(&instant()).await;
    let mut done = request(0..4, 2);
    done.generated_ids = vec![7, 8];
    let outputs = collect(generate(&engine, done).await).await;
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].finish_reason, Some(FinishReason::Length));
    assert!(outputs[0].token_ids.is_empty());
}

#[tokio::test]
async fn log_probabilities_are_given_if_asked_for() {
    let engine = start(&instant()).await;
    let mut asked = request(0..4, 2);
    asked.logprobs = Some(3);
    for output in collect(generate(&engine, asked).await).await {
        let logprobs = &output.logprobs.unwrap()[0];
        assert_eq!(logprobs.top.len(), 3);
        assert_eq!(logprobs.top[0], (output.token_ids[0], logprobs.logprob));
    }
}
