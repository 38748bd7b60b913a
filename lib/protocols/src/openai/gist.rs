//! As much of a request as has to be known to pass it on to a worker that takes it as it is.
//!
//! Fields that are not named here are the worker's business. Its nesting is bounded, because whoever
//! reads it next may do so by recursion.

use super::embeddings::EncodingFormat;
use super::parse::parse;
use super::prompt::Prompt;
use super::stream::Api;
use crate::error::{ErrorCode, RequestError};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Values within values: more than any request has, and what workers in Python get.
const MAX_DEPTH: usize = 64;

/// A request for completions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gist {
    /// The model's served name.
    pub model: String,
    /// Whether the answer is to be a stream.
    pub is_stream: bool,
}

/// A request for embeddings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct EmbeddingGist {
    /// The model's served name.
    pub model: String,
    /// What to embed.
    pub input: Prompt,
    /// How to write the numbers.
    #[serde(default)]
    pub encoding_format: Option<EncodingFormat>,
    /// Length of the embeddings.
    #[serde(default)]
    pub dimensions: Option<u32>,
}

#[derive(Deserialize)]
struct Fields {
    model: String,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(default)]
    messages: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    prompt: Option<IgnoredAny>,
}

impl Gist {
    /// Reads a body.
    pub fn read(api: Api, body: &[u8]) -> Result<Self, RequestError> {
        check_depth(body)?;
        let fields: Fields = parse(body)?;
        let (field, is_there) = match api {
            Api::Chat => (
                "messages",
                fields.messages.is_some_and(|them| !them.is_empty()),
            ),
            Api::Completions => ("prompt", fields.prompt.is_some()),
        };
        if !is_there {
            return Err(RequestError::invalid(
                field,
                format!("`{field}` is required"),
            ));
        }
        Ok(Self {
            model: fields.model,
            is_stream: fields.stream.unwrap_or(false),
        })
    }
}

impl EmbeddingGist {
    /// Reads a body.
    pub fn read(body: &[u8]) -> Result<Self, RequestError> {
        check_depth(body)?;
        parse(body)
    }
}

/// Checks how deep a body nests, without reading it.
fn check_depth(body: &[u8]) -> Result<(), RequestError> {
    let (mut depth, mut in_string, mut is_escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(RequestError::new(
                ErrorCode::InvalidJson,
                format!("the body has more than {MAX_DEPTH} levels; nest less"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_nobody_knows_are_left_alone() {
        let body = br#"{"model":"m","messages":[{"role":"odd"}],"stream":true,"tools":[{}],"x":1}"#;
        let gist = Gist::read(Api::Chat, body).unwrap();
        assert_eq!((gist.model.as_str(), gist.is_stream), ("m", true));
        let body = br#"{"model":"m","input":["a"],"encoding_format":"base64","x":1}"#;
        let gist = EmbeddingGist::read(body).unwrap();
        assert_eq!(gist.encoding_format, Some(EncodingFormat::Base64));
    }

    #[test]
    fn a_request_without_what_it_is_about_is_refused() {
        for (api, body, says) in [
            (Api::Chat, r#"{"model":"m"}"#, "`messages`"),
            (Api::Chat, r#"{"model":"m","messages":[]}"#, "`messages`"),
            (Api::Completions, r#"{"model":"m"}"#, "`prompt`"),
            (Api::Completions, r#"{"prompt":"p"}"#, "`model`"),
            (
                Api::Completions,
                r#"{"model":"m","prompt":"p","stream":1}"#,
                "stream",
            ),
        ] {
            let error = Gist::read(api, body.as_bytes()).unwrap_err();
            assert!(error.message.contains(says), "{body}: {error}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_brackets_in_texts_are_none() {
        let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
        let body = |inner: &str| format!(r#"{{"model":"m","prompt":{inner}}}"#);
        let error = Gist::read(Api::Completions, body(&deep).as_bytes()).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidJson);
        let text = format!(r#""\"{deep}{deep}\\""#);
        assert!(Gist::read(Api::Completions, body(&text).as_bytes()).is_ok());
    }
}
