//! What headers say of how long a request may take: whole milliseconds, each for one part.
//!
//! They take the place of the service's own deadlines, longer or shorter, up to a bound that keeps
//! a mistaken unit from holding a place for ever.

use axum::http::HeaderMap;
use dynamo_protocols::deadline::Deadlines;
use dynamo_protocols::error::{ErrorCode, RequestError};
use std::time::Duration;

const REQUEST: &str = "x-dynamo-request-timeout-ms";
const QUEUE: &str = "x-dynamo-queue-timeout-ms";
const DISPATCH: &str = "x-dynamo-dispatch-timeout-ms";
const FIRST_TOKEN: &str = "x-dynamo-first-token-timeout-ms";
const INTER_TOKEN: &str = "x-dynamo-inter-token-timeout-ms";

/// Longest deadline: more than any answer takes.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);

/// The deadlines that the headers ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct AskedDeadlines {
    /// Of the request as a whole.
    pub(crate) request: Option<Duration>,
    /// Of its parts.
    pub(crate) parts: Deadlines,
}

/// Reads the headers.
pub(crate) fn deadlines(headers: &HeaderMap) -> Result<AskedDeadlines, RequestError> {
    Ok(AskedDeadlines {
        request: duration(headers, REQUEST)?,
        parts: Deadlines {
            queue: duration(headers, QUEUE)?,
            dispatch: duration(headers, DISPATCH)?,
            first_token: duration(headers, FIRST_TOKEN)?,
            inter_token: duration(headers, INTER_TOKEN)?,
        },
    })
}

fn duration(headers: &HeaderMap, name: &str) -> Result<Option<Duration>, RequestError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let text = value.to_str().ok().map(str::trim);
    let millis = text.and_then(|text| text.parse::<u64>().ok());
    match millis.map(Duration::from_millis) {
        Some(asked) if !asked.is_zero() && asked <= LONGEST => Ok(Some(asked)),
        _ => Err(RequestError::new(
            ErrorCode::InvalidRequest,
            format!(
                "header `{name}` takes whole milliseconds, from 1 to {}",
                LONGEST.as_millis()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &'static str, value: &str) -> Result<AskedDeadlines, RequestError> {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        deadlines(&headers)
    }

    #[test]
    fn each_header_is_a_deadline_of_its_own() {
        let mut seen = vec![AskedDeadlines::default()];
        for name in [REQUEST, QUEUE, DISPATCH, FIRST_TOKEN, INTER_TOKEN] {
            let asked = read(name, "1500").unwrap();
            assert!(!seen.contains(&asked), "{name}");
            seen.push(asked);
        }
    }

    #[test]
    fn what_is_no_time_is_refused_by_name() {
        for value in ["0", "-1", "1.5", "10s", "", "86400001"] {
            let error = read(QUEUE, value).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert!(error.message.contains(QUEUE), "{error}");
        }
    }
}
