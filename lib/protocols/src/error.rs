//! The one error that ends a request, and the one table of what it means.
//!
//! Every way in which a request can fail has a stable [`ErrorCode`]. The code alone decides who
//! is to blame, the HTTP status and whether another attempt may help; shells never invent a
//! status of their own. A client's mistake is never a 5xx. One thing stands above the table: a
//! worker's handler that names the HTTP status of its refusal is taken at its word.
//!
//! The message says in one sentence what is wrong and how to mend it. It never carries prompts,
//! keys or generated text.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Who has to act for the request to succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The request itself is wrong; sending it again does not help.
    Client,
    /// The service is healthy and full; sending it again later helps.
    Capacity,
    /// A worker or the way to it failed; another worker may serve the request.
    Worker,
    /// A defect or a misconfiguration of this service.
    Internal,
}

impl Blame {
    /// The word used in logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Capacity => "capacity",
            Self::Worker => "worker",
            Self::Internal => "internal",
        }
    }
}

macro_rules! error_codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $blame:ident, $status:literal;)+) => {
        /// What went wrong, as a stable name. The table is in this file and nowhere else.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[doc = $doc])+ #[serde(rename = $name)] $variant,)+
            /// A code that a newer peer knows and this build does not.
            #[serde(other, rename = "unknown")]
            Unknown,
        }

        impl ErrorCode {
            /// Every code of the table, in its order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+ Self::Unknown];

            /// The stable name, as it appears in the `code` field of an error body.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                    Self::Unknown => "unknown",
                }
            }

            /// Who has to act.
            pub fn blame(self) -> Blame {
                match self {
                    $(Self::$variant => Blame::$blame,)+
                    Self::Unknown => Blame::Internal,
                }
            }

            /// The HTTP status.
            pub fn status(self) -> u16 {
                match self {
                    $(Self::$variant => $status,)+
                    Self::Unknown => 500,
                }
            }
        }
    };
}

error_codes! {
    /// The body is not JSON, or not the JSON of this request.
    InvalidJson = "invalid_json", Client, 400;
    /// A field has a value outside its documented range or form.
    InvalidRequest = "invalid_request", Client, 400;
    /// A field that this endpoint does not know.
    UnknownParameter = "unknown_parameter", Client, 400;
    /// A field that is part of the API and not served by this model or this version.
    UnsupportedParameter = "unsupported_parameter", Client, 400;
    /// Prompt plus requested output do not fit into the model's context.
    ContextLengthExceeded = "context_length_exceeded", Client, 400;
    /// The chat template refused the messages.
    TemplateError = "template_error", Client, 400;
    /// No key, or a key that this service does not know.
    InvalidApiKey = "invalid_api_key", Client, 401;
    /// No model of this name is served.
    ModelNotFound = "model_not_found", Client, 404;
    /// No such route.
    RouteNotFound = "route_not_found", Client, 404;
    /// No reservation of this id is held, or not any more.
    ReservationNotFound = "reservation_not_found", Client, 404;
    /// The route exists and not for this HTTP method.
    MethodNotAllowed = "method_not_allowed", Client, 405;
    /// The client was too slow to send its request.
    ClientTimeout = "client_timeout", Client, 408;
    /// The body is larger than the configured limit.
    PayloadTooLarge = "payload_too_large", Client, 413;
    /// The body is not declared as JSON.
    UnsupportedMediaType = "unsupported_media_type", Client, 415;
    /// The headers are larger than the configured limit.
    HeadersTooLarge = "headers_too_large", Client, 431;
    /// The client went away before the answer was complete.
    ClientClosed = "client_closed", Client, 499;
    /// A bound of this client, tenant or queue is reached.
    RateLimited = "rate_limited", Capacity, 429;
    /// No worker has room for the request.
    NoCapacity = "no_capacity", Capacity, 503;
    /// The process is draining and takes no new work.
    Draining = "draining", Capacity, 503;
    /// The model is known and none of its workers is ready.
    ModelNotReady = "model_not_ready", Capacity, 503;
    /// The worker could not be reached.
    WorkerUnreachable = "worker_unreachable", Worker, 503;
    /// The worker went away before its stream was complete.
    WorkerLost = "worker_lost", Worker, 502;
    /// The worker broke the protocol: a gap, a malformed frame, an unknown version.
    WorkerProtocol = "worker_protocol", Worker, 502;
    /// The engine failed while it served the request.
    EngineFailed = "engine_failed", Worker, 502;
    /// The request waited in a queue for longer than its queue deadline.
    QueueTimeout = "queue_timeout", Capacity, 429;
    /// No worker accepted the request before the dispatch deadline.
    DispatchTimeout = "dispatch_timeout", Worker, 504;
    /// The first token did not come before its deadline.
    FirstTokenTimeout = "first_token_timeout", Worker, 504;
    /// The stream stood still for longer than the deadline between tokens.
    InterTokenTimeout = "inter_token_timeout", Worker, 504;
    /// The whole request took longer than its deadline.
    RequestTimeout = "request_timeout", Worker, 504;
    /// The process was told to stop at once.
    Cancelled = "cancelled", Internal, 503;
    /// A defect of this service.
    Internal = "internal", Internal, 500;
}

impl ErrorCode {
    /// Whether another worker may be asked instead, given that nothing reached the client yet.
    pub fn may_retry_elsewhere(self) -> bool {
        matches!(
            self,
            Self::WorkerUnreachable
                | Self::DispatchTimeout
                | Self::WorkerLost
                | Self::WorkerProtocol
                | Self::EngineFailed
                | Self::Draining
                | Self::NoCapacity
        )
    }

    /// Whether the same request sent again later may succeed without anybody mending anything.
    pub fn is_transient(self) -> bool {
        matches!(self.blame(), Blame::Capacity | Blame::Worker)
    }
}

/// The error that ends a request: a code, one sentence, and the field it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct RequestError {
    /// What went wrong.
    pub code: ErrorCode,
    /// One sentence that says what is wrong and how to mend it.
    pub message: String,
    /// The request field the error is about, in JSON path form.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub param: Option<String>,
    /// How long to wait before trying again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<Duration>,
    /// The HTTP status that a worker's handler asks for, in place of the code's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
}

impl RequestError {
    /// An error of this code.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            http_status: None,
        }
    }

    /// The HTTP status: the code's, unless a worker's handler asked for another one that is an
    /// error's.
    pub fn status(&self) -> u16 {
        let asked = self.http_status.filter(|it| (400..600).contains(it));
        asked.unwrap_or(self.code.status())
    }

    /// Answers with this status, which a worker's handler asked for.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.http_status = Some(status);
        self
    }

    /// An [`ErrorCode::InvalidRequest`] about one field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidRequest, message).with_param(param)
    }

    /// Names the request field the error is about.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Says how long to wait before trying again.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blame_and_status_agree() {
        for code in ErrorCode::ALL {
            let status = code.status();
            match code.blame() {
                Blame::Client => assert!((400..500).contains(&status), "{code:?}"),
                Blame::Capacity => assert!(matches!(status, 429 | 503), "{code:?}"),
                Blame::Worker => assert!((502..=504).contains(&status), "{code:?}"),
                Blame::Internal => assert!((500..=503).contains(&status), "{code:?}"),
            }
        }
    }

    #[test]
    fn a_handlers_status_counts_where_it_is_an_errors() {
        let error = RequestError::new(ErrorCode::EngineFailed, "x");
        assert_eq!(error.status(), 502);
        for (asked, status) in [(404, 404), (599, 599), (200, 502), (0, 502), (600, 502)] {
            assert_eq!(error.clone().with_status(asked).status(), status);
        }
    }

    #[test]
    fn names_are_unique_and_survive_serialisation() {
        let mut names: Vec<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).unwrap();
            assert_eq!(json, format!("\"{}\"", code.as_str()));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).unwrap(), *code);
        }
    }

    #[test]
    fn a_code_of_a_newer_peer_is_unknown_and_internal() {
        let code: ErrorCode = serde_json::from_str("\"quota_of_the_future\"").unwrap();
        assert_eq!(code, ErrorCode::Unknown);
        assert_eq!(code.blame(), Blame::Internal);
    }

    #[test]
    fn a_client_mistake_is_never_retried() {
        for code in ErrorCode::ALL {
            if code.blame() == Blame::Client {
                assert!(!code.may_retry_elsewhere(), "{code:?}");
                assert!(!code.is_transient(), "{code:?}");
            }
        }
    }
}
