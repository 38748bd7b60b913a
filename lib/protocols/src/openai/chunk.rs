//! Chunks that a worker has written, checked before a client sees them.
//!
//! A worker that takes text gives the chunks of its answer itself. What clients' libraries rely on is
//! checked here; whatever else a chunk has is passed on as it is.

use super::parse::parse;
use super::stream::Api;
use super::usage::Usage;
use crate::error::RequestError;
use serde::de::{Error, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer};
use std::fmt;

/// Most choices of an answer, as the API documents it.
pub const MAX_CHOICES: u32 = 128;

/// What a chunk says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkFacts {
    /// The choices that it adds to.
    pub choices: Vec<ChoiceFacts>,
    /// Token counts, if it has them.
    pub usage: Option<Usage>,
}

/// A choice that a chunk adds to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChoiceFacts {
    /// Which one, from 0.
    pub index: u32,
    /// Whether it ends with this.
    pub is_finished: bool,
}

/// Reads a chunk of an answer. The error says what is wrong with it, in the words for a request.
pub fn read(api: Api, chunk: &str) -> Result<ChunkFacts, RequestError> {
    match api {
        Api::Chat => parse::<Chunk<ChatObject, ChatChoice>>(chunk.as_bytes()).map(Chunk::facts),
        Api::Completions => {
            parse::<Chunk<CompletionObject, CompletionChoice>>(chunk.as_bytes()).map(Chunk::facts)
        }
    }
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "fields that only have to be there")]
struct Chunk<Object, Choice> {
    id: Text,
    object: Object,
    created: u64,
    model: Text,
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<UsageFields>,
}

#[derive(Deserialize)]
enum ChatObject {
    #[serde(rename = "chat.completion.chunk")]
    Chunk,
}

#[derive(Deserialize)]
enum CompletionObject {
    #[serde(rename = "text_completion")]
    Completion,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "fields that only have to be there")]
struct ChatChoice {
    index: Index,
    delta: ChatDelta,
    #[serde(default)]
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "fields that only have to be what they are")]
struct ChatDelta {
    #[serde(default)]
    role: Option<Text>,
    #[serde(default)]
    content: Option<Text>,
    #[serde(default)]
    refusal: Option<Text>,
    #[serde(default)]
    reasoning_content: Option<Text>,
    #[serde(default)]
    tool_calls: Option<Vec<ToolCall>>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "fields that only have to be there")]
struct ToolCall {
    index: Index,
    #[serde(default)]
    function: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "fields that only have to be there")]
struct CompletionChoice {
    index: Index,
    text: Text,
    #[serde(default)]
    finish_reason: Option<FinishReason>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
    FunctionCall,
}

#[derive(Deserialize)]
struct UsageFields {
    prompt_tokens: u64,
    completion_tokens: u64,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u64>,
}

/// Text that nobody here reads.
struct Text;

/// A choice's place among the others.
struct Index(u32);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Checked;
        impl Visitor<'_> for Checked {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: Error>(self, _: &str) -> Result<Text, E> {
                Ok(Text)
            }
        }
        deserializer.deserialize_str(Checked)
    }
}

impl<'de> Deserialize<'de> for Index {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u32::deserialize(deserializer)?;
        match index < MAX_CHOICES {
            true => Ok(Self(index)),
            false => Err(Error::custom(format_args!(
                "the index {index} is past the last of {MAX_CHOICES} choices"
            ))),
        }
    }
}

/// What both kinds of choices say.
trait Said {
    fn said(&self) -> ChoiceFacts;
}

impl Said for ChatChoice {
    fn said(&self) -> ChoiceFacts {
        ChoiceFacts {
            index: self.index.0,
            is_finished: self.finish_reason.is_some(),
        }
    }
}

impl Said for CompletionChoice {
    fn said(&self) -> ChoiceFacts {
        ChoiceFacts {
            index: self.index.0,
            is_finished: self.finish_reason.is_some(),
        }
    }
}

impl<Object, Choice: Said> Chunk<Object, Choice> {
    fn facts(self) -> ChunkFacts {
        ChunkFacts {
            choices: self.choices.iter().map(Said::said).collect(),
            usage: self.usage.map(|usage| {
                let cached = usage.prompt_tokens_details.and_then(|it| it.cached_tokens);
                Usage::new(
                    usage.prompt_tokens,
                    usage.completion_tokens,
                    cached.unwrap_or(0),
                )
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(choices: &str) -> String {
        format!(
            r#"{{"id":"c","object":"chat.completion.chunk","created":7,"model":"m","choices":{choices},"x":1}}"#
        )
    }

    #[test]
    fn choices_their_ends_and_token_counts_are_known() {
        let more = r#"[{"index":1,"delta":{"content":"a","z":[]},"finish_reason":null},{"index":0,"delta":{},"finish_reason":"stop"}]"#;
        let facts = read(Api::Chat, &chat(more)).unwrap();
        let expected =
            [(1, false), (0, true)].map(|(index, is_finished)| ChoiceFacts { index, is_finished });
        assert_eq!(facts.choices, expected);
        assert_eq!(facts.usage, None);
        let usage = r#"{"id":"c","object":"text_completion","created":7,"model":"m","choices":[{"index":0,"text":""}],
            "usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        let facts = read(Api::Completions, usage).unwrap();
        assert_eq!(facts.usage, Some(Usage::new(3, 2, 0)));
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let finish = r#"[{"index":0,"delta":{},"finish_reason":"tired"}]"#;
        for (chunk, says) in [
            ("5".to_owned(), "expected an object"),
            ("{}".to_owned(), "`id` is required"),
            (chat("[]").replace(":7,", ":7.5,"), "created"),
            (chat("[]").replace(".chunk", ""), "object: expected"),
            (chat(r#"[{"delta":{}}]"#), "choices[0].index"),
            (chat(r#"[{"index":128,"delta":{}}]"#), "last of 128 choices"),
            (
                chat(r#"[{"index":0,"delta":{"content":5}}]"#),
                "choices[0].delta.content: expected a string, got 5",
            ),
            (chat(r#"[{"index":0,"message":{}}]"#), "choices[0].delta"),
            (chat(finish), "\"tired\""),
        ] {
            let error = read(Api::Chat, &chunk).unwrap_err();
            assert!(error.message.contains(says), "{chunk}: {}", error.message);
        }
        let error = read(Api::Completions, &chat("[]")).unwrap_err();
        assert!(error.message.contains("text_completion"), "{error}");
    }
}
