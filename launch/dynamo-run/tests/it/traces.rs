//! Traces over OTLP: what a frontend and a worker export of one request is one trace, and of a
//! request that its client does not record, nothing.

use crate::collector::{Collector, Exported};
use crate::http::ask;
use crate::process::{Dynamo, Place};
use crate::serving::chat;
use crate::workers::{FRONTEND, WORKER, stream};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use rustix::process::Signal;
use std::time::{SystemTime, UNIX_EPOCH};

const CLIENT_SPAN: &str = "b7ad6b7169203331";
const FRONTEND_SERVICE: &str = "the-frontend";
const WORKER_SERVICE: &str = "the-worker";
const BOTH: &[&str] = &[FRONTEND_SERVICE, WORKER_SERVICE];

/// A request of the client, in a trace of its own.
struct Asked {
    trace: String,
    request_id: String,
    /// When the client began, and when it had the whole answer: nanoseconds since 1970.
    time: (u64, u64),
}

/// Starts the binary with trace export. Hardly anything is logged: export does not depend on it.
fn exporting(place: &Place, words: &[&str], (service, endpoint): (&str, &str)) -> Dynamo {
    let mut command = place.command(words);
    command
        .env("DYN_LOG", "error")
        .env("OTEL_EXPORT_ENABLED", "1")
        .env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint)
        .env("OTEL_SERVICE_NAME", service);
    place.serve(service, command)
}

/// Asks as the client that began trace `number`, recorded or not, and reads the whole answer.
fn request(frontend: &Dynamo, number: u32, recorded: bool, (path, body): (&str, &str)) -> Asked {
    let trace = format!("0af7651916cd43dd8448eb21{number:08x}");
    let flags = if recorded { "01" } else { "00" };
    let parent = format!("00-{trace}-{CLIENT_SPAN}-{flags}");
    let request_id = format!("request-{number}");
    let headers = [("traceparent", &*parent), ("x-request-id", &*request_id)];
    let began = now();
    let answer = ask(&frontend.address, ("POST", path), &headers, body).unwrap();
    assert_eq!(answer.status, 200);
    answer.text();
    Asked {
        trace,
        request_id,
        time: (began, now()),
    }
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}

/// The only span of this service.
fn of_service<'a>(spans: &'a [Exported], service: &str) -> &'a Exported {
    let mut found = spans.iter().filter(|exported| exported.service == service);
    let only = found.next().unwrap();
    assert!(found.next().is_none(), "{spans:#?}");
    only
}

/// The spans from this one up to the one whose parent nobody exported.
fn up<'a>(spans: &'a [Exported], from: &'a Exported) -> Vec<&'a Exported> {
    let mut chain = vec![from];
    while let Some(parent) = {
        let wanted = chain[chain.len() - 1].parent_id();
        spans.iter().find(|exported| exported.span_id() == wanted)
    } {
        chain.push(parent);
        assert!(chain.len() <= spans.len(), "a circle: {spans:#?}");
    }
    chain
}

/// The trace goes from the client through the frontend to the worker, and so does time.
fn assert_is_one_trace(spans: &[Exported], asked: &Asked) {
    let frontend = of_service(spans, FRONTEND_SERVICE);
    let worker = of_service(spans, WORKER_SERVICE);
    let chain = up(spans, worker);
    assert_eq!(chain.len(), spans.len(), "{spans:#?}");
    assert_eq!(chain[chain.len() - 1].span_id(), frontend.span_id());
    assert_eq!(frontend.parent_id(), CLIENT_SPAN);

    let mut outer = asked.time;
    for exported in chain.iter().rev() {
        let span = &exported.span;
        let time = (span.start_time_unix_nano, span.end_time_unix_nano);
        assert!(
            outer.0 <= time.0 && time.0 <= time.1 && time.1 <= outer.1,
            "{spans:#?}"
        );
        outer = time;
        assert_eq!(span.kind, SpanKind::Server as i32);
        assert_eq!(span.status, None, "nothing failed");
        assert_eq!(exported.attribute("request_id"), asked.request_id);
    }
    assert_eq!(frontend.span.name, "http_request");
    assert_eq!(frontend.attribute("model"), "echo");
    assert_eq!(frontend.attribute("status"), "200");
    assert_eq!(worker.span.name, "request_plane");
    assert_eq!(
        worker.attribute("endpoint"),
        "dyn://dynamo.backend.generate"
    );
}

#[test]
fn spans_of_frontend_and_worker_are_one_trace_and_an_unrecorded_one_is_not_exported() {
    let mut collector = Collector::start();
    let place = Place::new();
    // With and without the path that the protocol has for traces.
    let full = format!("{}/v1/traces", collector.url());
    let mut frontend = exporting(&place, FRONTEND, (FRONTEND_SERVICE, &collector.url()));
    let mut worker = exporting(&place, WORKER, (WORKER_SERVICE, &full));
    frontend.await_models(&["echo"]);
    let whole = ("/v1/chat/completions", &*chat("echo", "traced", false));
    let streamed = ("/v1/completions", &*stream(50));

    let unrecorded = request(&frontend, 1, false, streamed);
    let live = [
        request(&frontend, 2, true, whole),
        request(&frontend, 3, true, streamed),
    ];
    for asked in &live {
        let spans = collector.await_trace(&asked.trace, BOTH);
        assert_is_one_trace(&spans, asked);
    }

    // What has ended when a process is told to stop is exported before it does.
    let last = request(&frontend, 4, true, streamed);
    for process in [&mut frontend, &mut worker] {
        process.signal(Signal::TERM);
        let ended = process.wait();
        assert_eq!((ended.code, &*ended.stderr), (Some(0), ""));
    }
    assert_is_one_trace(&collector.of_trace(&last.trace), &last);
    assert_eq!(collector.of_trace(&unrecorded.trace).len(), 0);
    let mut ids: Vec<String> = collector.exported().iter().map(Exported::span_id).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all, "each span is exported once");
}
