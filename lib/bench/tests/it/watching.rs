//! The memory of a process is read while it is under load, and judged.

use crate::server::{Reply, Server, events, run, text};
use dynamo_bench::BenchServeOptions;
use dynamo_bench::config::Arrival;

#[tokio::test]
async fn the_memory_of_a_watched_process_is_in_the_result() {
    let server = Server::start(|_, _| Reply::Bytes(events(&[&text("a"), "[DONE]"]) + "0\r\n\r\n"));
    let server = server.await;
    let options = BenchServeOptions {
        // So that the run goes on past the second tick of the progress, which comes after 1 s.
        request_rate: Some(20.0),
        arrival: Arrival::Constant,
        requests: Some(25),
        watch_pid: Some(std::process::id()),
        max_rss_growth: Some(1_000.0),
        max_failures: Some(0),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    let whole = result.whole_json();
    assert_eq!(whole["verdict"]["passed"], true, "{}", whole["verdict"]);
    assert!(whole["memory"]["rss_bytes_at_end"].as_u64().unwrap() > 1 << 20);
    assert!(whole["memory_samples"].as_array().unwrap().len() >= 3);
    let page = dynamo_bench::report::html(&result);
    assert!(page.contains("Memory of the process that was watched"));
    let tight = BenchServeOptions {
        max_rss_growth: Some(0.01),
        ..options
    };
    let json = run(&tight).await.unwrap().summary_json();
    assert_eq!(json["verdict"]["passed"], false);
    assert!(
        json["verdict"]
            .to_string()
            .contains("--max-rss-growth allows 0.01")
    );
}

#[tokio::test]
async fn a_process_that_is_not_there_cannot_be_watched() {
    let server = Server::start(|_, _| Reply::Silence).await;
    let options = BenchServeOptions {
        watch_pid: Some(u32::MAX),
        ..server.options()
    };
    let refused = run(&options).await.unwrap_err().to_string();
    assert!(refused.contains("--watch-pid"), "{refused}");
}
