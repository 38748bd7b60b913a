//! The events of a streamed completion, written straight into an output buffer.
//!
//! Most of a chunk is the same in every chunk of a stream: id, object, time and model are
//! serialised once, when the stream starts. Per event only the choice is serialised, and nothing
//! is built in between.
//!
//! An event is `data: `, one JSON object, and an empty line. A stream that ends well ends with
//! `data: [DONE]`; one that fails ends with an error event and without it.

use super::error::ErrorBody;
use super::logprobs::{CompletionLogprobs, TokenLogprob};
use super::nvext::NvExtResponse;
use super::usage::Usage;
use crate::error::RequestError;
use serde::{Deserialize, Serialize};

/// Which API a stream belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Api {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// What one event adds to a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Delta<'a> {
    /// Which choice.
    pub index: u32,
    /// More text; may be empty.
    pub text: &'a str,
    /// Log probabilities of the tokens behind it, if asked for.
    pub logprobs: Option<&'a [TokenLogprob]>,
    /// Set on the choice's last event.
    pub finish_reason: Option<&'static str>,
    /// Facts that were asked for.
    pub nvext: Option<&'a NvExtResponse>,
}

/// Writes the events of one stream.
#[derive(Debug, Clone)]
pub struct ChunkWriter {
    api: Api,
    /// Everything up to the choices.
    head: Vec<u8>,
    include_usage: bool,
}

#[derive(Serialize)]
struct ChatChunkChoice<'a> {
    index: u32,
    delta: ChatDelta<'a>,
    logprobs: Option<ChunkLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct ChatDelta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

#[derive(Serialize)]
struct ChunkLogprobs<'a> {
    content: &'a [TokenLogprob],
    refusal: Option<()>,
}

#[derive(Serialize)]
struct CompletionChunkChoice<'a> {
    index: u32,
    text: &'a str,
    logprobs: Option<CompletionLogprobs<'a>>,
    finish_reason: Option<&'static str>,
}

impl ChunkWriter {
    /// A writer for the stream with this id. With `include_usage` every chunk says that its
    /// usage is `null`, as the API does when the last one carries it.
    pub fn new(api: Api, id: &str, model: &str, created: u64, include_usage: bool) -> Self {
        #[derive(Serialize)]
        struct Head<'a> {
            id: &'a str,
            object: &'static str,
            created: u64,
            model: &'a str,
        }
        let object = match api {
            Api::Chat => "chat.completion.chunk",
            Api::Completions => "text_completion",
        };
        let mut head = b"data: ".to_vec();
        write(
            &mut head,
            &Head {
                id,
                object,
                created,
                model,
            },
        );
        head.pop();
        head.extend_from_slice(b",\"choices\":[");
        Self {
            api,
            head,
            include_usage,
        }
    }

    /// Announces a choice: chat clients expect the role first. Plain completions have none.
    pub fn open(&self, out: &mut Vec<u8>, index: u32) {
        if self.api == Api::Completions {
            return;
        }
        out.extend_from_slice(&self.head);
        write(
            out,
            &ChatChunkChoice {
                index,
                delta: ChatDelta {
                    role: Some("assistant"),
                    content: Some(""),
                },
                logprobs: None,
                finish_reason: None,
            },
        );
        self.close(out, None);
    }

    /// Adds to a choice.
    pub fn delta(&self, out: &mut Vec<u8>, delta: &Delta<'_>) {
        out.extend_from_slice(&self.head);
        match self.api {
            Api::Chat => write(
                out,
                &ChatChunkChoice {
                    index: delta.index,
                    delta: ChatDelta {
                        role: None,
                        content: (!delta.text.is_empty()).then_some(delta.text),
                    },
                    logprobs: delta.logprobs.map(|content| ChunkLogprobs {
                        content,
                        refusal: None,
                    }),
                    finish_reason: delta.finish_reason,
                },
            ),
            Api::Completions => write(
                out,
                &CompletionChunkChoice {
                    index: delta.index,
                    text: delta.text,
                    logprobs: delta.logprobs.map(CompletionLogprobs),
                    finish_reason: delta.finish_reason,
                },
            ),
        }
        self.close(out, delta.nvext);
    }

    /// The event with token counts and no choices, if it was asked for.
    pub fn usage(&self, out: &mut Vec<u8>, usage: &Usage) {
        if !self.include_usage {
            return;
        }
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"],\"usage\":");
        write(out, usage);
        out.extend_from_slice(b"}\n\n");
    }

    fn close(&self, out: &mut Vec<u8>, nvext: Option<&NvExtResponse>) {
        out.push(b']');
        if let Some(nvext) = nvext {
            out.extend_from_slice(b",\"nvext\":");
            write(out, nvext);
        }
        out.extend_from_slice(if self.include_usage {
            b",\"usage\":null}\n\n"
        } else {
            b"}\n\n"
        });
    }
}

/// An event that a worker has written: one line of JSON.
pub fn passed_on(out: &mut Vec<u8>, chunk: &str) {
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(chunk.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// The end of a stream that ended well.
pub fn done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

/// The end of a stream that failed after its first byte.
pub fn error(out: &mut Vec<u8>, error: &RequestError) {
    out.extend_from_slice(b"data: ");
    write(out, &ErrorBody::from(error));
    out.extend_from_slice(b"\n\n");
}

fn write<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    // Writing to memory does not fail, and the types here have string keys only.
    let written = serde_json::to_writer(&mut *out, value);
    debug_assert!(written.is_ok(), "chunk types always serialise");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_stream_reads_as_the_sdks_expect() {
        let writer = ChunkWriter::new(Api::Chat, "chatcmpl-1", "m\"x", 7, true);
        let mut out = Vec::new();
        writer.open(&mut out, 0);
        writer.delta(
            &mut out,
            &Delta {
                text: "a\nb",
                ..Delta::default()
            },
        );
        writer.delta(
            &mut out,
            &Delta {
                finish_reason: Some("stop"),
                ..Delta::default()
            },
        );
        writer.usage(&mut out, &Usage::new(3, 1, 2));
        done(&mut out);
        let text = String::from_utf8(out).unwrap();
        let head = r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":7,"model":"m\"x","choices":["#;
        let expected = [
            format!(
                r#"{head}{{"index":0,"delta":{{"role":"assistant","content":""}},"logprobs":null,"finish_reason":null}}],"usage":null}}"#
            ),
            format!(
                r#"{head}{{"index":0,"delta":{{"content":"a\nb"}},"logprobs":null,"finish_reason":null}}],"usage":null}}"#
            ),
            format!(
                r#"{head}{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}],"usage":null}}"#
            ),
            format!(
                r#"{head}],"usage":{{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4,"prompt_tokens_details":{{"cached_tokens":2}}}}}}"#
            ),
            "data: [DONE]".to_owned(),
        ];
        assert_eq!(
            text.split("\n\n").take(5).collect::<Vec<_>>(),
            expected.iter().map(String::as_str).collect::<Vec<_>>()
        );
    }

    #[test]
    fn every_event_of_any_stream_is_one_line_of_json() {
        for (api, include_usage) in [(Api::Chat, false), (Api::Completions, true)] {
            let writer = ChunkWriter::new(api, "id", "m", 7, include_usage);
            let entry = TokenLogprob {
                token: "\u{2028}\"".to_owned(),
                logprob: -0.5,
                bytes: Some(vec![1]),
                top_logprobs: Vec::new(),
                text_offset: 0,
            };
            let mut out = Vec::new();
            writer.open(&mut out, 1);
            writer.delta(
                &mut out,
                &Delta {
                    index: 1,
                    text: "\r\n\u{0}",
                    logprobs: Some(&[entry]),
                    finish_reason: None,
                    nvext: Some(&NvExtResponse::default()),
                },
            );
            error(
                &mut out,
                &RequestError::new(crate::ErrorCode::WorkerLost, "gone"),
            );
            let text = String::from_utf8(out).unwrap();
            for event in text.trim_end().split("\n\n") {
                let json = event.strip_prefix("data: ").unwrap();
                assert!(!json.contains(['\n', '\r']), "{json}");
                serde_json::from_str::<serde_json::Value>(json).unwrap();
            }
        }
    }
}
