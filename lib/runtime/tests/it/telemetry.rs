//! Traces exported to a real collector over a real socket.

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use dynamo_runtime::config::LogFormat;
use dynamo_runtime::telemetry::{
    self, OtlpOptions, Sampler, TelemetryError, TelemetryOptions, TraceContext, spans,
};
use dynamo_runtime::{Environment, Tasks};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// More spans than one batch holds and fewer than the queue does.
const MANY: usize = 1300;

/// A collector, and what it is sent.
async fn collector(tasks: &Tasks) -> (String, mpsc::Receiver<Vec<Span>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel(64);
    let take = move |headers: HeaderMap, body: Bytes| async move {
        assert_eq!(headers["content-type"], "application/x-protobuf");
        let request = ExportTraceServiceRequest::decode(body).unwrap();
        let scopes = request.resource_spans.into_iter();
        let scopes = scopes.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans).collect();
        sender.send(spans).await.unwrap();
        StatusCode::OK
    };
    let router = Router::new().route("/v1/traces", post(take));
    tasks.spawn_until_cancelled("collector", async move {
        axum::serve(listener, router).await.unwrap();
    });
    (endpoint, receiver)
}

/// The only test of this binary that installs a subscriber: there is one per process.
#[tokio::test]
async fn sampled_spans_reach_the_collector_before_shutdown_ends() {
    let (tasks, environment) = (Tasks::root(), Environment::system());
    let (endpoint, mut received) = collector(&tasks).await;
    let options = TelemetryOptions {
        log: "off".to_owned(),
        log_format: LogFormat::Jsonl,
        colour: false,
        otlp: Some(OtlpOptions {
            endpoint,
            service_name: "dynamo".to_owned(),
            sample_ratio: 1.0,
        }),
    };
    let guard = telemetry::init(&options, &environment).unwrap();
    let again = telemetry::init(&options, &environment).unwrap_err();
    assert!(matches!(again, TelemetryError::AlreadyInitialised));

    let frontend = TraceContext::root([1, 2, 3], guard.sampler());
    let header = frontend.traceparent();
    let worker = TraceContext::incoming(&[&header], &[], [0, 0, 4], Sampler::NEVER);
    {
        let _request = spans::http_request(&frontend, "r-1").entered();
        spans::request_plane(&worker, "r-1", "ns.backend.generate")
            .in_scope(|| drop(tracing::info_span!("engine", isl = 7)));
        let unseen = TraceContext::root([9, 9, 9], Sampler::NEVER);
        drop(spans::http_request(&unseen, "r-2"));
        drop(tracing::debug_span!("detail"));
    }
    let more = TraceContext::root([5, 5, 5], guard.sampler());
    for number in 0..MANY as u64 {
        drop(spans::http_request(&more.child(number + 1), "r-3"));
    }
    guard.shutdown().await;
    tasks.stop().await;

    let mut all = Vec::new();
    while let Ok(spans) = received.try_recv() {
        all.extend(spans);
    }
    let ours: Vec<&Span> = all.iter().take(3).collect();
    let [engine, plane, http] = ours.as_slice() else {
        panic!("{all:?}")
    };
    assert_eq!(http.name, "http_request");
    assert_eq!(http.span_id, frontend.span_id().to_bytes());
    assert!(http.parent_span_id.is_empty());
    assert_eq!(plane.name, "request_plane");
    assert_eq!(plane.trace_id, http.trace_id);
    assert_eq!(plane.parent_span_id, http.span_id);
    assert_eq!(engine.parent_span_id, plane.span_id);
    assert_eq!(engine.trace_id, http.trace_id);
    assert!(http.start_time_unix_nano <= plane.start_time_unix_nano);
    assert!(http.end_time_unix_nano >= plane.end_time_unix_nano);
    assert_eq!(all.len(), 3 + MANY);
}
