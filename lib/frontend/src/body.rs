//! Reads a request's body, within its limits of size and time.

use crate::config::FrontendOptions;
use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use dynamo_protocols::error::{ErrorCode, RequestError};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::time::timeout;

/// A body that is announced is read into a buffer of this size at most at once: a client may
/// announce more than it sends.
const FIRST_BUFFER: usize = 64 * 1024;

/// The body of a JSON request.
pub(crate) async fn read_json(
    headers: &HeaderMap,
    body: Body,
    options: &FrontendOptions,
) -> Result<Vec<u8>, RequestError> {
    check_type(headers)?;
    let limit = options.http_body_limit.as_usize();
    read_body(headers, body, limit, options.http_body_timeout).await
}

/// A body of at most `limit` bytes that arrives within `patience`.
pub async fn read_body(
    headers: &HeaderMap,
    body: Body,
    limit: usize,
    patience: Duration,
) -> Result<Vec<u8>, RequestError> {
    match timeout(patience, read(headers, body, limit)).await {
        Ok(read) => read,
        Err(_) => Err(RequestError::new(
            ErrorCode::ClientTimeout,
            format!(
                "the body did not arrive within {} seconds",
                patience.as_secs_f64()
            ),
        )),
    }
}

async fn read(headers: &HeaderMap, mut body: Body, limit: usize) -> Result<Vec<u8>, RequestError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<usize>().ok())
        .unwrap_or(0);
    let mut bytes = Vec::with_capacity(announced.min(FIRST_BUFFER));
    let mut seen = 0_usize;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            RequestError::new(
                ErrorCode::ClientClosed,
                "the body ended before it was complete",
            )
        })?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        seen = seen.saturating_add(data.len());
        if seen <= limit {
            bytes.extend_from_slice(data);
        } else if seen > limit.saturating_mul(2) || announced > limit.saturating_mul(2) {
            break;
        } else {
            // Not much too long: read to its end and dropped, because a client that is still
            // sending does not read the answer.
            bytes = Vec::new();
        }
    }
    if seen > limit {
        return Err(RequestError::new(
            ErrorCode::PayloadTooLarge,
            format!("the body is larger than {limit} bytes; shorten it"),
        ));
    }
    Ok(bytes)
}

fn check_type(headers: &HeaderMap) -> Result<(), RequestError> {
    let value = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let kind = value
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    let is_json = kind.is_some_and(|kind| {
        kind.eq_ignore_ascii_case("application/json")
            || kind.to_ascii_lowercase().ends_with("+json")
    });
    if is_json {
        return Ok(());
    }
    Err(RequestError::new(
        ErrorCode::UnsupportedMediaType,
        "send JSON with the header `Content-Type: application/json`",
    ))
}
