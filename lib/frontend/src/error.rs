//! From the one error type to HTTP: the status comes from the code's table, the body is OpenAI's.

use axum::body::Body;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use dynamo_protocols::error::{Blame, ErrorCode, RequestError};
use dynamo_protocols::openai::ErrorBody;
use serde::Serialize;
use std::time::Duration;

/// When to come back, if the error does not say: long enough for a batch to make room, short
/// enough that nobody waits for nothing.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);

/// The response for an error.
pub fn error_response(error: &RequestError) -> Response {
    if error.code.blame() == Blame::Internal {
        tracing::error!(%error, "request failed by a defect of this service");
    }
    let status = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(status, &ErrorBody::from(error));
    let headers = response.headers_mut();
    if matches!(status.as_u16(), 429 | 503) {
        let wait = error.retry_after.unwrap_or(RETRY_DEFAULT);
        // Whole seconds, rounded up: earlier would be refused again.
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    }
    match error.code {
        ErrorCode::InvalidApiKey => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // What the client still sends of this request must not be read as the next one.
        ErrorCode::ClientTimeout | ErrorCode::PayloadTooLarge => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
    response
}

/// A response with a JSON body.
pub fn json_response<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let (status, body) = match serde_json::to_vec(value) {
        Ok(body) => (status, body),
        // Nothing that is answered here fails to serialise; if it did, saying so beats half of it.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Vec::new()),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_worth_retrying_say_when() {
        for code in ErrorCode::ALL {
            let response = error_response(&RequestError::new(*code, "x"));
            let status = response.status().as_u16();
            assert_eq!(status, code.status());
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                matches!(status, 429 | 503),
                "{code:?}"
            );
        }
        let error = RequestError::new(ErrorCode::NoCapacity, "x")
            .with_retry_after(Duration::from_millis(2_001));
        assert_eq!(error_response(&error).headers()[RETRY_AFTER], "3");
    }
}
