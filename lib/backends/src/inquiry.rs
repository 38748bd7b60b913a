//! What a client asks, as far as it has to be known to pass it on.

use bytes::Bytes;
use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::error::{ErrorCode, RequestError};
use http::HeaderMap;
use serde::Deserialize;
use std::borrow::Cow;
use std::time::Duration;

/// A request for a server.
#[derive(Debug, Clone)]
pub struct Inquiry {
    /// Path and query.
    pub path: String,
    /// The client's headers.
    pub headers: HeaderMap,
    /// The body, as it came.
    pub body: Bytes,
    /// Id and trace.
    pub context: RequestContext,
    /// How long the head of a streamed answer may be held back, so that an early failure finds
    /// another server.
    pub peek: Duration,
}

/// What a body says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Gist<'a> {
    /// The model's name; servers have a default.
    #[serde(borrow, default)]
    pub model: Option<Cow<'a, str>>,
    /// The answer is to be a stream.
    #[serde(default)]
    pub stream: Option<bool>,
}

impl<'a> Gist<'a> {
    /// Reads a body. Nothing else of it is looked at.
    pub fn read(body: &'a [u8]) -> Result<Self, RequestError> {
        let refused = |why: &dyn std::fmt::Display| {
            let message = format!("the body is not a JSON object of a request: {why}");
            RequestError::new(ErrorCode::InvalidJson, message)
        };
        if body.trim_ascii_start().first() != Some(&b'{') {
            return Err(refused(&"it begins without a brace"));
        }
        serde_json::from_slice(body).map_err(|error| refused(&error))
    }

    /// Whether the answer is to be a stream.
    pub fn is_stream(&self) -> bool {
        self.stream.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_and_stream_are_read_whatever_else_is_there() {
        let gist = Gist::read(br#"{"top":[{"model":"x"}],"model":"a\/b","stream":true}"#).unwrap();
        assert_eq!(gist.model.as_deref(), Some("a/b"));
        assert!(gist.is_stream());
        let gist = Gist::read(br#"{"stream":null}"#).unwrap();
        assert!(gist.model.is_none() && !gist.is_stream());
    }

    #[test]
    fn what_is_no_object_is_the_clients_mistake() {
        for body in ["", "[]", "{", r#"{"model":1}"#, r#"{"stream":"yes"}"#] {
            let error = Gist::read(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidJson, "{body}");
        }
    }
}
