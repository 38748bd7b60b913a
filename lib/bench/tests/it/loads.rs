//! What is sent under each kind of load, and that it is measured as the server reports it.

use crate::server::{Reply, Server, good, run, whole};
use dynamo_bench::BenchServeOptions;
use dynamo_bench::config::Arrival;
use dynamo_bench::load::Length;
use dynamo_bench::prompt::Api;
use dynamo_config::Secret;
use serde_json::Value;
use std::time::Duration;

#[tokio::test]
async fn a_closed_loop_measures_what_the_server_reports() {
    let server = Server::start(|_, _| Reply::Bytes(good(&["a", "b", "c"], 11))).await;
    let options = BenchServeOptions {
        requests: Some(30),
        concurrency: Some(3),
        warmup: 2,
        bench_api_key: Some(Secret::new("sesame")),
        header: vec!["x-tenant: one".to_owned()],
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    let statistics = &result.statistics;
    assert_eq!((statistics.completed, statistics.failed), (30, 0));
    assert_eq!(statistics.ttft.count(), 30);
    assert_eq!(statistics.itl.count(), 60);
    assert_eq!(statistics.tokens.output, 90);
    assert_eq!(statistics.tokens.prompt_reported, 330);
    assert_eq!(statistics.tokens.cached_reported, 90);
    assert_eq!(statistics.lag.count(), 0, "a closed loop has no schedule");
    assert_eq!(
        server.bodies.lock().len(),
        32,
        "warm-up is sent and not measured"
    );
    assert!(
        *server.connections.lock() <= 4,
        "connections are used again"
    );
    let head = server.heads.lock()[0].clone();
    assert!(
        head.starts_with("post /v1/chat/completions http/1.1"),
        "{head}"
    );
    assert!(head.contains("authorization: bearer sesame"), "{head}");
    assert!(head.contains("x-tenant: one"), "{head}");
}

#[tokio::test]
async fn an_open_loop_sends_its_arrivals_and_keeps_within_its_bound() {
    let server = Server::start(|_, _| Reply::Bytes(good(&["a"], 1))).await;
    let options = BenchServeOptions {
        requests: Some(40),
        request_rate: Some(1_000.0),
        arrival: Arrival::Burst,
        burst_size: 20,
        concurrency: Some(2),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert_eq!(result.statistics.completed, 40);
    assert_eq!(result.statistics.lag.count(), 40);
    assert!(result.cost.held_back > 0, "a burst of 20 finds two places");
    assert!(*server.connections.lock() <= 2);
}

#[tokio::test]
async fn nothing_starts_after_the_time_is_over() {
    let server = Server::start(|_, _| Reply::Bytes(good(&["a"], 1))).await;
    let options = BenchServeOptions {
        requests: None,
        duration: Some(Duration::from_millis(200)),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert!(result.statistics.completed > 0);
    assert!(!result.is_interrupted);
    let last = result.statistics.records.last().unwrap().sent_s;
    assert!(last <= result.elapsed.as_secs_f64());
}

fn messages(body: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let messages = body["messages"].as_array().unwrap().iter();
    messages
        .map(|it| (text(&it["role"]), text(&it["content"])))
        .collect()
}

#[tokio::test]
async fn each_turn_sends_all_that_was_said_before() {
    let server = Server::start(|_, _| Reply::Bytes(good(&["\"quoted\" ", "é\n"], 1))).await;
    let options = BenchServeOptions {
        requests: Some(5),
        turns: 3,
        prefix_tokens: 7,
        input_tokens: Some(Length::Fixed(10)),
        turn_input_tokens: Some(Length::Fixed(4)),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert_eq!(
        result.statistics.completed, 5,
        "the last conversation is cut short"
    );
    let bodies = server.bodies.lock();
    let third = messages(&bodies[2]);
    let roles: Vec<&str> = third.iter().map(|it| it.0.as_str()).collect();
    assert_eq!(
        roles,
        ["system", "user", "assistant", "user", "assistant", "user"]
    );
    assert_eq!(third[2].1, "\"quoted\" é\n");
    assert_eq!(third[5].1.split_whitespace().count(), 4);
    assert_eq!(third[..4], messages(&bodies[1])[..]);
    let next = messages(&bodies[3]);
    assert_eq!(next[0], third[0], "conversations share the prefix");
    assert_ne!(next[1], third[1]);
}

#[tokio::test]
async fn a_trace_keeps_its_lengths_and_shared_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trace.jsonl");
    std::fs::write(
        &path,
        "{\"timestamp\": 0, \"input_length\": 700, \"output_length\": 3, \"hash_ids\": [1, 2]}\n\
         {\"timestamp\": 27, \"input_length\": 600, \"output_length\": 4, \"hash_ids\": [1, 3]}\n",
    )
    .unwrap();
    let server = Server::start(|_, _| Reply::Bytes(good(&["a"], 1))).await;
    let options = BenchServeOptions {
        requests: None,
        trace: Some(path),
        concurrency: Some(1),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert_eq!(result.statistics.completed, 2);
    let bodies = server.bodies.lock();
    let words = |number: usize| -> Vec<String> {
        let said = messages(&bodies[number])[0].1.clone();
        said.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!((words(0).len(), words(1).len()), (700, 600));
    assert_eq!(words(0)[..512], words(1)[..512]);
    assert_ne!(words(0)[512..600], words(1)[512..]);
    assert_eq!(
        (&bodies[0]["max_tokens"], &bodies[1]["max_tokens"]),
        (&3.into(), &4.into())
    );
}

#[tokio::test]
async fn whole_answers_are_measured_without_their_tokens() {
    let answer = r#"{"choices":[{"text":"a b","finish_reason":"stop"}],
                     "usage":{"prompt_tokens":4,"completion_tokens":2}}"#;
    let server =
        Server::start(move |_, _| Reply::Bytes(whole(200, "application/json", answer))).await;
    let options = BenchServeOptions {
        stream: false,
        api: Api::Completions,
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert_eq!(
        result.statistics.completed, 1,
        "{:?}",
        result.statistics.errors
    );
    assert_eq!(result.statistics.ttft.count(), 0);
    assert_eq!(result.statistics.latency.count(), 1);
    assert_eq!(result.statistics.tokens.output, 2);
    assert_eq!(server.bodies.lock()[0]["stream"], false);
    assert!(server.heads.lock()[0].starts_with("post /v1/completions "));
}

#[tokio::test]
async fn the_only_model_of_a_server_needs_no_name() {
    let models = r#"{"object":"list","data":[{"id":"alone"}]}"#;
    let server = Server::start(|number, _| match number {
        0 => Reply::Last(whole(200, "application/json", models)),
        _ => Reply::Bytes(good(&["a"], 1)),
    })
    .await;
    let options = BenchServeOptions {
        model: None,
        ..server.options()
    };
    assert_eq!(run(&options).await.unwrap().model, "alone");
    assert_eq!(server.bodies.lock()[1]["model"], "alone");
}
