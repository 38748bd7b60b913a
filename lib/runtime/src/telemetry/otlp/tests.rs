//! Export to a collector: batches, loss, recovery.

use super::*;
use crate::telemetry::spans::Place;
use crate::telemetry::trace_context::{SpanId, TraceId};
use serde_json::Map;
use tokio::net::TcpListener;

fn span() -> FinishedSpan {
    FinishedSpan {
        name: "http_request".into(),
        place: Place {
            trace_id: TraceId::from_bits(1),
            span_id: SpanId::from_bits(2),
            parent_id: None,
            sampled: true,
            border: true,
        },
        start: 0,
        end: 1,
        attributes: Map::new(),
        events: Vec::new(),
        status: None,
    }
}

fn start(endpoint: String) -> (Queue, Exporter) {
    let options = OtlpOptions {
        endpoint,
        service_name: "dynamo".to_owned(),
        sample_ratio: 1.0,
    };
    Exporter::start(&options, &Environment::system()).unwrap()
}

#[tokio::test]
async fn spans_beyond_the_queue_are_dropped_and_counted() {
    let (queue, exporter) = start("http://127.0.0.1:9".to_owned());
    // The task does not run before this one waits.
    for _ in 0..QUEUED_SPANS + 3 {
        queue.push(span());
    }
    assert_eq!(queue.dropped.load(Ordering::Relaxed), 3);
    exporter.stop().await;
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_the_spans_and_nothing_else() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (queue, exporter) = start(endpoint);
    queue.push(span());
    exporter.stop().await;
    assert!(queue.sender.is_closed());
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_the_end_by_the_bound_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (queue, exporter) = start(format!("http://{}", listener.local_addr().unwrap()));
    for _ in 0..QUEUED_SPANS {
        queue.push(span());
    }
    tokio::time::pause();
    let began = Instant::now();
    exporter.stop().await;
    // Virtual time: a batch alone may take as long as all of them together.
    assert!(began.elapsed() < FLUSH_TIMEOUT + Duration::from_millis(10));
    assert!(queue.sender.is_closed());
}

#[test]
fn the_traces_path_is_added_where_it_is_missing() {
    for (endpoint, authority, path) in [
        ("http://localhost:4318", "localhost:4318", "/v1/traces"),
        ("http://localhost:4318/", "localhost:4318", "/v1/traces"),
        ("http://c/v1/traces", "c:80", "/v1/traces"),
        ("http://[::1]:9/otlp", "[::1]:9", "/otlp/v1/traces"),
    ] {
        let target = Target::parse(endpoint).unwrap();
        assert_eq!(
            (target.authority.as_str(), target.path.as_str()),
            (authority, path)
        );
    }
}

#[test]
fn addresses_that_cannot_be_used_are_named() {
    for endpoint in [
        "",
        "localhost:4318",
        "https://c",
        "grpc://c:1",
        "http://c/?a",
        "a b",
    ] {
        let error = Target::parse(endpoint).unwrap_err().to_string();
        assert!(error.contains(&format!("`{endpoint}`")), "{error}");
        assert!(error.contains("--otel-endpoint"), "{error}");
    }
}
