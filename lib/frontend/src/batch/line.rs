//! The lines of a batch file and of its results. Pure.
//!
//! A line is a prompt, `{"text": "..."}`, or a request in OpenAI's batch form,
//! `{"custom_id": ..., "method": "POST", "url": "/v1/chat/completions", "body": {...}}`. A result
//! is one line of JSON that carries its input's line number and fingerprint, so that a run that
//! was cut off goes on where it stopped and never mixes the results of two inputs.

use dynamo_protocols::{ErrorCode, RequestError};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use xxhash_rust::xxh3::xxh3_64;

/// What is asked of one line.
#[derive(Debug, Clone)]
pub enum Ask {
    /// An answer to a prompt.
    Prompt(String),
    /// A request in OpenAI's batch form.
    Request {
        /// The client's name for it.
        custom_id: String,
        /// Which API.
        api: BatchApi,
        /// The request itself.
        body: Box<RawValue>,
    },
}

/// The APIs that a batch may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchApi {
    /// `/v1/chat/completions`
    Chat,
    /// `/v1/completions`
    Completions,
    /// `/v1/embeddings`
    Embeddings,
}

/// One line of a result file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResultLine {
    /// Number of the input line, from 1.
    pub line: u64,
    /// Fingerprint of the input line's text.
    pub fingerprint: String,
    /// The result, in the form of its input.
    #[serde(flatten)]
    pub result: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    text: Option<String>,
    custom_id: Option<String>,
    method: Option<String>,
    url: Option<String>,
    body: Option<Box<RawValue>>,
}

/// A short name of a line's text, to tell whether a result belongs to it.
pub fn fingerprint(line: &str) -> String {
    format!("{:016x}", xxh3_64(line.as_bytes()))
}

/// Reads one line of input.
pub(super) fn read(line: &str) -> Result<Ask, RequestError> {
    let raw: RawLine = serde_json::from_str(line).map_err(|error| {
        RequestError::new(
            ErrorCode::InvalidJson,
            format!(
                "the line is not a batch request: {error}; write {{\"text\": \"...\"}} or OpenAI's \
                 {{\"custom_id\", \"method\", \"url\", \"body\"}}"
            ),
        )
    })?;
    match raw {
        RawLine {
            text: Some(text),
            custom_id: None,
            url: None,
            body: None,
            method: None,
        } => Ok(Ask::Prompt(text)),
        RawLine {
            text: None,
            custom_id: Some(custom_id),
            method,
            url: Some(url),
            body: Some(body),
        } => {
            if method.as_deref().is_some_and(|method| method != "POST") {
                return Err(RequestError::invalid("method", "method must be \"POST\""));
            }
            Ok(Ask::Request {
                custom_id,
                api: api(&url)?,
                body,
            })
        }
        _ => Err(RequestError::new(
            ErrorCode::InvalidRequest,
            "a batch line has either text alone, or custom_id, url and body",
        )),
    }
}

fn api(url: &str) -> Result<BatchApi, RequestError> {
    match url {
        "/v1/chat/completions" => Ok(BatchApi::Chat),
        "/v1/completions" => Ok(BatchApi::Completions),
        "/v1/embeddings" => Ok(BatchApi::Embeddings),
        _ => Err(RequestError::invalid(
            "url",
            "url must be /v1/chat/completions, /v1/completions or /v1/embeddings",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        assert!(matches!(read(r#"{"text":"hi"}"#), Ok(Ask::Prompt(text)) if text == "hi"));
        let openai = r#"{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"x":1}}"#;
        let Ok(Ask::Request {
            custom_id,
            api,
            body,
        }) = read(openai)
        else {
            panic!("a request")
        };
        assert_eq!(
            (custom_id.as_str(), api, body.get()),
            ("a", BatchApi::Completions, r#"{"x":1}"#)
        );
    }

    #[test]
    fn lines_that_are_neither_say_what_they_should_be() {
        for (line, code) in [
            ("not json", ErrorCode::InvalidJson),
            (r#"{"prompt":"x"}"#, ErrorCode::InvalidJson),
            (
                r#"{"text":"x","url":"/v1/completions"}"#,
                ErrorCode::InvalidRequest,
            ),
            (
                r#"{"custom_id":"a","url":"/v1/files","body":{}}"#,
                ErrorCode::InvalidRequest,
            ),
            (
                r#"{"custom_id":"a","method":"GET","url":"/v1/completions","body":{}}"#,
                ErrorCode::InvalidRequest,
            ),
        ] {
            assert_eq!(read(line).expect_err(line).code, code, "{line}");
        }
    }

    #[test]
    fn a_result_line_keeps_its_extra_fields() {
        let text = r#"{"line":3,"fingerprint":"ab","text":"x","response":"y"}"#;
        let result: ResultLine = serde_json::from_str(text).unwrap();
        assert_eq!(result.line, 3);
        assert_eq!(serde_json::to_string(&result).unwrap(), text);
    }
}
