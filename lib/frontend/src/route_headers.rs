//! What headers say of where a request should run, and what the answer's headers say of where it
//! did.
//!
//! Names are those of the published system and of the engines that it routes to. A header says
//! more than the body: proxies set headers, and know better where something runs.

use crate::auth::tenant_of_key;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::routing::{RouteHints, RouteSlip, Routed};
use std::str::FromStr;
use std::sync::Arc;

/// Headers for one thing, those that count first before the others.
type Names = &'static [&'static str];

const INSTANCE: Names = &["x-dynamo-worker-instance-id", "x-worker-instance-id"];
const PREFILL_INSTANCE: Names = &["x-dynamo-prefill-instance-id"];
const DP_RANK: Names = &["x-dynamo-dp-rank", "x-dp-rank", "x-data-parallel-rank"];
const STRICT_PRIORITY: Names = &["x-dynamo-request-strict-priority"];
const TENANT: Names = &["x-tenant-id"];
const SESSION: Names = &[
    "x-dynamo-session-id",
    "x-session-id",
    "x-claude-code-session-id",
    "thread-id",
];

const MODE: HeaderName = HeaderName::from_static("x-dynamo-router-mode");
const SERVED_BY: HeaderName = HeaderName::from_static("x-dynamo-worker-instance-id");
const PREFILLED_BY: HeaderName = HeaderName::from_static("x-dynamo-prefill-instance-id");

/// Longest name of a session or tenant: both are kept while they are of use.
const MAX_NAME_BYTES: usize = 256;

/// The wishes in a request's headers.
pub(crate) fn route_hints(headers: &HeaderMap) -> Result<RouteHints, RequestError> {
    let tenant = name(headers, TENANT)?;
    Ok(RouteHints {
        session: name(headers, SESSION)?,
        tenant: tenant.or_else(|| tenant_of_key(headers)),
        instance: number(headers, INSTANCE)?,
        prefill_instance: number(headers, PREFILL_INSTANCE)?,
        dp_rank: number(headers, DP_RANK)?,
        strict_priority: number(headers, STRICT_PRIORITY)?.unwrap_or(0),
        ..RouteHints::default()
    })
}

/// A slip with what headers and body wish.
pub(crate) fn slip(headers: RouteHints, body: RouteHints) -> Arc<RouteSlip> {
    Arc::new(RouteSlip::new(RouteHints {
        session: headers.session,
        tenant: headers.tenant,
        instance: headers.instance.or(body.instance),
        prefill_instance: headers.prefill_instance.or(body.prefill_instance),
        dp_rank: headers.dp_rank.or(body.dp_rank),
        strict_priority: headers.strict_priority.max(body.strict_priority),
        ..body
    }))
}

/// Says in the answer who serves the request, and by which mode it was chosen, if it was.
pub(crate) fn stamp(response: &mut Response, routed: Option<Routed>) {
    let Some(routed) = routed else { return };
    let headers = response.headers_mut();
    headers.insert(SERVED_BY, HeaderValue::from(routed.instance));
    headers.insert(MODE, HeaderValue::from_static(routed.mode));
    if let Some(prefill) = routed.prefill {
        headers.insert(PREFILLED_BY, HeaderValue::from(prefill.instance));
    }
}

fn value(headers: &HeaderMap, names: Names) -> Option<(&'static str, &HeaderValue)> {
    let mut given = names.iter();
    given.find_map(|name| Some((*name, headers.get(*name)?)))
}

fn name(headers: &HeaderMap, names: Names) -> Result<Option<Arc<str>>, RequestError> {
    let Some((header, value)) = value(headers, names) else {
        return Ok(None);
    };
    match value.to_str() {
        Ok("") => Ok(None),
        Ok(text) if text.len() <= MAX_NAME_BYTES => Ok(Some(text.into())),
        _ => Err(malformed(
            header,
            &format!("takes up to {MAX_NAME_BYTES} visible ascii characters"),
        )),
    }
}

fn number<T: FromStr>(headers: &HeaderMap, names: Names) -> Result<Option<T>, RequestError> {
    let Some((header, value)) = value(headers, names) else {
        return Ok(None);
    };
    let parsed = value
        .to_str()
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match parsed {
        Some(number) => Ok(Some(number)),
        None => Err(malformed(header, "takes a whole number, not negative")),
    }
}

fn malformed(header: &str, what: &str) -> RequestError {
    RequestError::new(
        ErrorCode::InvalidRequest,
        format!("header `{header}` {what}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(headers: &[(&'static str, &str)]) -> Result<RouteHints, RequestError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        route_hints(&map)
    }

    #[test]
    fn every_header_is_understood_by_each_of_its_names() {
        for names in [
            INSTANCE,
            PREFILL_INSTANCE,
            DP_RANK,
            STRICT_PRIORITY,
            TENANT,
            SESSION,
        ] {
            for name in names {
                let read = hints(&[(name, "7")]).unwrap();
                assert_ne!(read, RouteHints::default(), "{name}");
            }
        }
        let read = hints(&[("x-dp-rank", "1"), ("x-dynamo-dp-rank", "2")]);
        assert_eq!(read.unwrap().dp_rank, Some(2));
    }

    #[test]
    fn malformed_headers_are_the_clients_mistake() {
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for (name, value) in [
            ("x-dp-rank", "first"),
            ("x-worker-instance-id", "-1"),
            ("x-tenant-id", long.as_str()),
        ] {
            let error = hints(&[(name, value)]).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert!(error.message.contains(name), "{error}");
        }
    }

    #[test]
    fn a_key_names_its_tenant_without_being_told() {
        let one = hints(&[("authorization", "Bearer secret-1")])
            .unwrap()
            .tenant;
        let two = hints(&[("authorization", "Bearer secret-2")])
            .unwrap()
            .tenant;
        assert!(one.is_some() && two.is_some() && one != two);
        assert!(!one.unwrap().contains("secret"));
        let named = hints(&[("authorization", "Bearer s"), ("x-tenant-id", "t")]);
        assert_eq!(named.unwrap().tenant.as_deref(), Some("t"));
    }

    #[test]
    fn headers_say_more_than_the_body() {
        let body = RouteHints {
            instance: Some(1),
            dp_rank: Some(4),
            strict_priority: 5,
            explain: true,
            ..RouteHints::default()
        };
        let headers = RouteHints {
            instance: Some(2),
            ..RouteHints::default()
        };
        let merged = slip(headers, body).hints.clone();
        assert_eq!((merged.instance, merged.dp_rank), (Some(2), Some(4)));
        assert!(merged.explain && merged.strict_priority == 5);
    }
}
