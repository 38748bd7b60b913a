//! What travels beside a request: its id and its place in a trace.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use dynamo_protocols::engine::RequestContext;
use dynamo_runtime::Environment;
use dynamo_runtime::telemetry::spans::http_request;
use dynamo_runtime::telemetry::{Sampler, TraceContext};
use std::sync::Arc;
use tracing::Span;

/// The header that carries a request's id in and out.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken over: ids end up in every log line.
const LONGEST_ID: usize = 128;

/// The context that a request's headers describe, and the request's span.
pub(crate) fn request_context(
    headers: &HeaderMap,
    environment: &Environment,
    sampler: Sampler,
) -> (RequestContext, Span) {
    let id = headers
        .get(REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    let request_id = id
        .filter(|id| is_id(id))
        .map_or_else(|| new_id(environment).into(), Arc::from);
    let bits = [0; 3].map(|_: u64| environment.random.next_u64());
    let trace = TraceContext::incoming(
        &values(headers, "traceparent"),
        &values(headers, "tracestate"),
        bits,
        sampler,
    );
    let span = http_request(&trace, &request_id);
    let mut context = RequestContext {
        request_id,
        ..RequestContext::default()
    };
    trace.stamp(&mut context);
    (context, span)
}

/// A random id.
pub(crate) fn new_id(environment: &Environment) -> String {
    let (high, low) = (environment.random.next_u64(), environment.random.next_u64());
    let bytes = (u128::from(high) << 64 | u128::from(low)).to_be_bytes();
    uuid::Builder::from_random_bytes(bytes)
        .into_uuid()
        .to_string()
}

/// The id as a header.
pub(crate) fn id_header(id: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(id).ok()
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> Vec<&'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect()
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(headers: &[(&'static str, &str)]) -> RequestContext {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        request_context(&map, &Environment::system(), Sampler::NEVER).0
    }

    #[test]
    fn ids_and_traces_of_the_client_are_taken_over() {
        let context = context(&[
            ("x-request-id", "abc-1"),
            ("traceparent", PARENT),
            ("tracestate", "a=b"),
        ]);
        assert_eq!(&*context.request_id, "abc-1");
        let parent = context.traceparent.unwrap();
        assert_eq!(parent[..36], PARENT[..36]);
        assert_ne!(
            parent[36..],
            PARENT[36..],
            "the engine's parent is our span"
        );
        assert_eq!(context.tracestate.as_deref(), Some("a=b"));
    }

    #[test]
    fn malformed_ids_are_replaced() {
        let long = "x".repeat(LONGEST_ID + 1);
        for id in ["", "a b", long.as_str()] {
            assert_eq!(
                context(&[("x-request-id", id)]).request_id.len(),
                36,
                "{id}"
            );
        }
    }
}
