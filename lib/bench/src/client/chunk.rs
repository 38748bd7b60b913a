//! What a streamed chunk says, without reading it as JSON where it carries nothing but text.
//!
//! A key with its quotes and colon cannot stand inside a JSON text, whose quotes are escaped, so
//! that looking for `"content":"` finds keys alone. Chunks with a count, an error or a finish
//! reason are few, and are read in full.

use crate::figures::record::{Failure, Usage, shortened};
use memchr::{memchr2, memmem};
use serde::Deserialize;
use serde_json::Value;

/// Looks for what matters in chunks. Make it once: it prepares its searches.
#[derive(Debug)]
pub(crate) struct ChunkReader {
    texts: [memmem::Finder<'static>; 4],
    calls: memmem::Finder<'static>,
    usage: memmem::Finder<'static>,
    error: memmem::Finder<'static>,
    finish: memmem::Finder<'static>,
}

/// What a chunk says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    /// A piece of the answer's text, still escaped. Reasoning counts as text.
    pub text: Option<&'a str>,
    /// Whether it has a part of a tool call.
    pub has_call: bool,
    /// Whether it has more than text and is to be read in full.
    pub has_more: bool,
}

/// The part of a chunk that is more than text, and of an answer that comes whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Details {
    /// What the server counted.
    pub usage: Option<Usage>,
    /// Whether an answer is at its end.
    pub is_finished: bool,
    /// Why it failed.
    pub failure: Option<Failure>,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<CountedTokens>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct CountedTokens {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: Option<u64>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

impl Default for ChunkReader {
    fn default() -> Self {
        let finder = memmem::Finder::new;
        Self {
            texts: [
                finder("\"content\":"),
                finder("\"text\":"),
                finder("\"reasoning_content\":"),
                finder("\"reasoning\":"),
            ],
            calls: finder("\"tool_calls\":"),
            usage: finder("\"usage\":"),
            error: finder("\"error\":"),
            finish: finder("\"finish_reason\":"),
        }
    }
}

impl ChunkReader {
    /// Looks over a chunk.
    pub(crate) fn read<'a>(&self, data: &'a [u8]) -> Result<Chunk<'a>, Failure> {
        if !matches!(data, [b'{', .., b'}']) {
            return Err(not_a_chunk(data));
        }
        let opens =
            |finder, with| value_after(data, finder).is_some_and(|it| it.first() == Some(&with));
        let mut texts = self.texts.iter();
        Ok(Chunk {
            text: texts.find_map(|finder| text_in(value_after(data, finder)?)),
            has_call: opens(&self.calls, b'['),
            has_more: opens(&self.usage, b'{')
                || opens(&self.finish, b'"')
                || value_after(data, &self.error).is_some_and(|it| !it.starts_with(b"null")),
        })
    }
}

impl Details {
    /// Reads a chunk, or an answer that comes whole, in full.
    pub(crate) fn read(data: &[u8]) -> Result<Self, Failure> {
        let body: Body = serde_json::from_slice(data).map_err(|_| not_a_chunk(data))?;
        let failure = body.error.filter(|error| !error.is_null()).map(|error| {
            let (code, message) = error_parts(&error);
            Failure::Stream { code, message }
        });
        let mut choices = body.choices.iter().flatten();
        Ok(Self {
            usage: body.usage.and_then(|usage| {
                Some(Usage {
                    prompt: usage.prompt_tokens,
                    completion: usage.completion_tokens?,
                    cached: usage.prompt_tokens_details.and_then(|it| it.cached_tokens),
                })
            }),
            is_finished: choices.any(|choice| choice.finish_reason.is_some()),
            failure,
        })
    }
}

/// The failure that an HTTP error is.
pub(crate) fn refusal(status: u16, body: &[u8]) -> Failure {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    let (code, message) = match &value {
        Some(value) => error_parts(value.get("error").unwrap_or(value)),
        None => (None, shortened(String::from_utf8_lossy(body).trim())),
    };
    Failure::Status {
        status,
        code,
        message,
    }
}

/// The code and the message of an error object, in the forms in which servers write them.
fn error_parts(error: &Value) -> (Option<String>, String) {
    let text = |key: &str| {
        let text = error.get(key)?.as_str()?;
        (!text.is_empty()).then(|| shortened(text))
    };
    let code = text("code").or_else(|| text("type"));
    let message = text("message").or_else(|| text("detail"));
    let whole = || shortened(error.as_str().unwrap_or_default());
    (code, message.unwrap_or_else(whole))
}

fn not_a_chunk(data: &[u8]) -> Failure {
    let shown: String = String::from_utf8_lossy(data).chars().take(40).collect();
    Failure::Malformed(format!("a chunk reads {shown:?}"))
}

/// What follows a key, if it is there.
fn value_after<'a>(data: &'a [u8], key: &memmem::Finder<'_>) -> Option<&'a [u8]> {
    let after = key.find(data)? + key.needle().len();
    Some(data.get(after..)?.trim_ascii_start())
}

/// The inside of a JSON text that is not empty.
fn text_in(value: &[u8]) -> Option<&str> {
    let inside = value.strip_prefix(b"\"")?;
    let mut end = 0;
    loop {
        end += memchr2(b'"', b'\\', inside.get(end..)?)?;
        match inside.get(end) {
            Some(b'"') => break,
            _ => end += 2,
        }
    }
    let text = std::str::from_utf8(&inside[..end]).ok()?;
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(data: &str) -> Chunk<'_> {
        ChunkReader::default().read(data.as_bytes()).unwrap()
    }

    #[test]
    fn text_is_found_in_every_form() {
        for (data, text) in [
            (
                r#"{"choices":[{"delta":{"content":"a \"b\" \u00e9\\"}}]}"#,
                Some(r#"a \"b\" \u00e9\\"#),
            ),
            (
                r#"{"choices": [{"index": 0, "text": "hi", "finish_reason": null}]}"#,
                Some("hi"),
            ),
            (
                r#"{"choices":[{"delta":{"content":null,"reasoning_content":"hm"}}]}"#,
                Some("hm"),
            ),
            (
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                None,
            ),
            (
                r#"{"choices":[{"delta":{"content":"\"content\":\"x"}}]}"#,
                Some(r#"\"content\":\"x"#),
            ),
            (
                r#"{"choices":[{"delta":{}}],"usage":null,"error":null}"#,
                None,
            ),
        ] {
            let chunk = read(data);
            assert_eq!(chunk.text, text, "{data}");
            assert!(!chunk.has_more && !chunk.has_call, "{data}");
        }
        assert!(read(r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#).has_call);
    }

    #[test]
    fn counts_ends_and_errors_are_read_in_full() {
        let details = |data: &str| {
            assert!(read(data).has_more, "{data}");
            Details::read(data.as_bytes()).unwrap()
        };
        let counted = details(
            r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#,
        );
        let usage = counted.usage.unwrap();
        assert_eq!(
            (usage.prompt, usage.completion, usage.cached),
            (9, 3, Some(4))
        );
        assert!(details(r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#).is_finished);
        let failed = details(r#"{"error":{"message":"worker lost","code":"worker_lost"}}"#);
        assert_eq!(failed.failure.unwrap().code(), "stream worker_lost");
        let failed = details(r#"{"error": "no words"}"#).failure.unwrap();
        assert_eq!(failed.to_string(), "error in the stream: no words");
    }

    #[test]
    fn what_is_no_chunk_is_refused() {
        for data in ["", "oops", "{\"choices\"", "[1]"] {
            let error = ChunkReader::default().read(data.as_bytes()).unwrap_err();
            assert_eq!(error.code(), "malformed");
        }
        assert!(Details::read(b"{\"usage\":7}").is_err());
    }

    #[test]
    fn refusals_are_understood_in_the_forms_that_servers_write() {
        for (body, code, said) in [
            (
                r#"{"error":{"message":"no such model","type":"t","code":"model_not_found"}}"#,
                "http 404 model_not_found",
                "no such model",
            ),
            (
                r#"{"error":{"message":"slow down","type":"rate_limit","code":null}}"#,
                "http 404 rate_limit",
                "slow down",
            ),
            (r#"{"detail":"Not Found"}"#, "http 404", "Not Found"),
            ("<html>", "http 404", "<html>"),
            ("", "http 404", ""),
        ] {
            let failure = refusal(404, body.as_bytes());
            assert_eq!(failure.code(), code);
            assert!(failure.to_string().ends_with(said), "{failure}");
        }
    }

    proptest! {
        #[test]
        fn any_text_comes_back_as_it_was(text in ".*") {
            let chunk = json!({"choices": [{"delta": {"content": text}, "finish_reason": null}]}).to_string();
            let found = read(&chunk).text.unwrap_or_default();
            let found: String = serde_json::from_str(&format!("\"{found}\"")).unwrap();
            prop_assert_eq!(found, text);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            ChunkReader::default().read(&bytes).ok();
            Details::read(&bytes).ok();
            refusal(500, &bytes);
        }
    }
}
