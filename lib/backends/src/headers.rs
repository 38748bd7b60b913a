//! Which headers pass, in both directions. Pure.
//!
//! - A request takes along what its client sent, less what concerns one connection, what asks for
//!   compressed bytes, and what was meant for the choice of a server.
//! - The client's key passes unless it was checked here: then it is a key of this service and no
//!   business of the server's. Where none passes, the servers' own key takes its place.
//! - An answer takes along what the server sent, less what concerns one connection.

use dynamo_config::Secret;
use dynamo_protocols::engine::RequestContext;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Headers of one connection, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
];

/// Headers of a request that are made anew or have done their work here.
const CONSUMED: [HeaderName; 6] = [
    HOST,
    CONTENT_LENGTH,
    EXPECT,
    // Answers are read in passing.
    ACCEPT_ENCODING,
    HeaderName::from_static("x-dynamo-worker-instance-id"),
    HeaderName::from_static("x-worker-instance-id"),
];

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const DP_RANK: HeaderName = HeaderName::from_static("x-data-parallel-rank");

/// Whose key a server sees.
#[derive(Debug, Clone, Default)]
pub struct KeyPolicy {
    /// The client's key was checked here.
    pub checked_here: bool,
    /// The servers' own key.
    pub own: Option<Secret>,
}

/// The headers of a request to a server.
pub fn to_server(
    client: &HeaderMap,
    context: &RequestContext,
    keys: &KeyPolicy,
    authority: &str,
) -> HeaderMap {
    let mut headers = passing(client);
    for name in CONSUMED {
        headers.remove(name);
    }
    if keys.checked_here {
        headers.remove(AUTHORIZATION);
        headers.remove(API_KEY);
    }
    if let Some(bearer) = keys.bearer()
        && !headers.contains_key(AUTHORIZATION)
        && !headers.contains_key(API_KEY)
    {
        headers.insert(AUTHORIZATION, bearer);
    }
    let mut set = |name, value: Option<&str>| {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    };
    set(HOST, Some(authority));
    set(REQUEST_ID, Some(&context.request_id));
    if context.traceparent.is_some() {
        set(TRACE_PARENT, context.traceparent.as_deref());
        set(TRACE_STATE, context.tracestate.as_deref());
    }
    headers
}

/// Says which data-parallel rank is to serve, where there are several.
pub fn set_rank(headers: &mut HeaderMap, rank: u32) {
    headers.insert(DP_RANK, HeaderValue::from(rank));
}

/// The headers of an answer to the client. The length is left to whoever sends it.
pub fn to_client(server: &HeaderMap) -> HeaderMap {
    let mut headers = passing(server);
    headers.remove(CONTENT_LENGTH);
    headers
}

fn passing(headers: &HeaderMap) -> HeaderMap {
    let mut passing = headers.clone();
    for named in headers.get_all(CONNECTION) {
        for name in named.to_str().unwrap_or_default().split(',') {
            passing.remove(name.trim());
        }
    }
    for name in HOP_BY_HOP {
        passing.remove(name);
    }
    passing
}

impl KeyPolicy {
    /// The servers' own key as a header.
    pub fn bearer(&self) -> Option<HeaderValue> {
        let key = self.own.as_ref()?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        headers.iter().map(pair).collect()
    }

    fn sent(headers: &[(&'static str, &'static str)], keys: &KeyPolicy) -> HeaderMap {
        let context = RequestContext {
            request_id: "id-1".into(),
            traceparent: Some("00-aa-bb-01".into()),
            ..RequestContext::default()
        };
        to_server(&map(headers), &context, keys, "backend:1")
    }

    #[test]
    fn what_concerns_one_connection_stays_on_it() {
        let headers = sent(
            &[
                ("host", "front"),
                ("connection", "keep-alive, X-Private"),
                ("keep-alive", "5"),
                ("x-private", "1"),
                ("transfer-encoding", "chunked"),
                ("content-length", "7"),
                ("accept-encoding", "gzip"),
                ("x-dynamo-worker-instance-id", "2"),
                ("x-session-id", "s"),
                ("content-type", "application/json"),
            ],
            &KeyPolicy::default(),
        );
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "content-type",
                "host",
                "traceparent",
                "x-request-id",
                "x-session-id"
            ]
        );
        assert_eq!(headers[HOST], "backend:1");
        assert_eq!(headers[REQUEST_ID], "id-1");
        let answer = to_client(&map(&[
            ("connection", "close"),
            ("x-a", "1"),
            ("content-length", "3"),
        ]));
        assert_eq!(answer, map(&[("x-a", "1")]));
    }

    #[test]
    fn a_key_passes_unless_it_is_a_key_of_this_service() {
        let key = [("authorization", "Bearer client")];
        let own = Some(Secret::new("server"));
        let policy = |checked_here, own: &Option<Secret>| KeyPolicy {
            checked_here,
            own: own.clone(),
        };
        let of = |headers: HeaderMap| headers.get(AUTHORIZATION).cloned();
        assert_eq!(
            of(sent(&key, &policy(false, &None))).unwrap(),
            "Bearer client"
        );
        assert_eq!(
            of(sent(&key, &policy(false, &own))).unwrap(),
            "Bearer client"
        );
        assert_eq!(of(sent(&key, &policy(true, &None))), None);
        assert_eq!(
            of(sent(&key, &policy(true, &own))).unwrap(),
            "Bearer server"
        );
        assert_eq!(
            of(sent(&[], &policy(false, &own))).unwrap(),
            "Bearer server"
        );
        let other = sent(&[("x-api-key", "client")], &policy(true, &None));
        assert!(!other.contains_key("x-api-key"));
    }
}
