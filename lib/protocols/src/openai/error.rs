//! The error body, and the `type` that goes with each status.

use crate::error::RequestError;
use serde::Serialize;

/// The body of every response that is not a success, and of an error event in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ErrorBody<'a> {
    /// The error.
    pub error: ErrorFields<'a>,
}

/// The fields that the clients' libraries read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ErrorFields<'a> {
    /// One sentence: what is wrong and how to mend it.
    pub message: &'a str,
    /// The class of error, from the status alone.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The request field the error is about.
    pub param: Option<&'a str>,
    /// The stable code.
    pub code: &'static str,
}

impl<'a> From<&'a RequestError> for ErrorBody<'a> {
    fn from(error: &'a RequestError) -> Self {
        Self {
            error: ErrorFields {
                message: &error.message,
                kind: error_type(error.status()),
                param: error.param.as_deref(),
                code: error.code.as_str(),
            },
        }
    }
}

/// The class of error that a status belongs to.
pub fn error_type(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        429 => "rate_limit_error",
        503 => "service_unavailable_error",
        500.. => "server_error",
        _ => "invalid_request_error",
    }
}
