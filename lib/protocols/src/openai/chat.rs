//! `/v1/chat/completions`: request and unary response.

use super::fields::Unserved;
use super::generation::{
    MetadataFields, OutputFields, SamplingFields, ServiceFields, StopFields, UnservedFields,
};
use super::logprobs::TokenLogprob;
use super::nvext::NvExtResponse;
use super::structured::{GuidedFields, ResponseFormat};
use super::usage::Usage;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;

request! {
    /// A request for the next message of a conversation.
    pub struct ChatRequest {
        /// The model's served name.
        model: String,
        /// The conversation so far.
        messages: Vec<Message>,
        ..
        /// Fields that only chat has.
        chat: ChatFields,
        /// How tokens are drawn.
        sampling: SamplingFields,
        /// What the answer must look like.
        guided: GuidedFields,
        /// When a choice ends.
        stopping: StopFields,
        /// What the response looks like.
        output: OutputFields,
        /// How the service treats the request.
        service: ServiceFields,
        /// Metadata.
        metadata: MetadataFields,
        /// Known and not served by engines.
        unserved: UnservedFields,
        /// Known and not served by chat.
        unserved_chat: UnservedChatFields,
    }
}

fields! {
    /// Fields that only chat has.
    pub struct ChatFields {
        /// The newer name of `max_tokens`.
        max_completion_tokens: u32,
        /// Report log probabilities.
        logprobs: bool,
        /// Number of alternatives per token.
        top_logprobs: u32,
        /// End the prompt with the opening of an answer.
        add_generation_prompt: bool,
        /// Go on with the last message instead of answering it.
        continue_final_message: bool,
        /// Variables for the template.
        chat_template_kwargs: Map<String, Value>,
        /// Another name of `chat_template_kwargs`.
        chat_template_args: Map<String, Value>,
        /// How much to think; a variable for the template.
        reasoning_effort: String,
        /// The form of the answer.
        response_format: ResponseFormat,
        /// Tools the model may call.
        tools: Vec<IgnoredAny>,
        /// Whether it may call them.
        tool_choice: Value,
        /// Whether it may call several; means nothing without tools.
        parallel_tool_calls: bool,
        /// Kinds of answer.
        modalities: Vec<String>,
    }
}

fields! {
    /// Fields of the chat API that are not served.
    pub struct UnservedChatFields {
        /// The predecessor of `tools`.
        functions: Unserved,
        /// The predecessor of `tool_choice`.
        function_call: Unserved,
        /// Speech.
        audio: Unserved,
        /// A predicted answer.
        prediction: Unserved,
        /// A web search.
        web_search_options: Unserved,
        /// How long the answer is to be.
        verbosity: Unserved,
        /// A template of the client's own.
        chat_template: Unserved,
        /// Documents for the template.
        documents: Unserved,
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: Option<Content>,
    /// The name of who said it.
    pub name: Option<String>,
    /// What the model thought before it said it.
    pub reasoning_content: Option<String>,
    /// Tools the model called.
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
    /// Why the model did not answer, said instead of content.
    pub refusal: Option<String>,
    /// Sources of an earlier answer; informative.
    pub annotations: Option<IgnoredAny>,
    /// Speech.
    pub audio: Option<Unserved>,
    /// The predecessor of `tool_calls`.
    pub function_call: Option<Unserved>,
}

/// Who says something in a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Who runs the service.
    System,
    /// Who runs the service, in newer models' words.
    Developer,
    /// Who asks.
    User,
    /// The model.
    Assistant,
    /// A tool's result.
    Tool,
}

/// What a message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// A list of parts.
    Parts(Vec<ContentPart>),
}

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContentPart {
    /// What the part is.
    #[serde(rename = "type")]
    pub kind: PartKind,
    /// The text of a `text` part.
    pub text: Option<String>,
    /// The text of a `refusal` part.
    pub refusal: Option<String>,
    /// A picture.
    pub image_url: Option<Unserved>,
    /// Speech.
    pub input_audio: Option<Unserved>,
    /// Sound.
    pub audio_url: Option<Unserved>,
    /// A film.
    pub video_url: Option<Unserved>,
    /// A file.
    pub file: Option<Unserved>,
}

/// What a part of a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartKind {
    /// Text.
    Text,
    /// Why the model did not answer.
    Refusal,
    /// A picture.
    ImageUrl,
    /// Speech.
    InputAudio,
    /// Sound.
    AudioUrl,
    /// A film.
    VideoUrl,
    /// A file.
    File,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// Always `function`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// What is called.
    pub function: FunctionCall,
    /// Its place in a stream; informative.
    pub index: Option<IgnoredAny>,
}

/// A function and its arguments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text.
    pub arguments: String,
}

/// The answer to a chat request that is not streamed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatCompletion {
    /// The answer's id.
    pub id: String,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// When the request came, in seconds since 1970.
    pub created: u64,
    /// The model's served name.
    pub model: String,
    /// The choices, in order.
    pub choices: Vec<ChatChoice>,
    /// Token counts.
    pub usage: Usage,
    /// Facts that were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nvext: Option<NvExtResponse>,
}

/// One choice of a chat completion.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatChoice {
    /// Which choice it is.
    pub index: u32,
    /// The message.
    pub message: AssistantMessage,
    /// Log probabilities, if asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: &'static str,
}

/// A message of the model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AssistantMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// What it said; `null` if nothing.
    pub content: Option<String>,
    /// Always `null`: engines do not tell refusals apart.
    pub refusal: Option<String>,
}

/// Log probabilities of a chat choice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<TokenLogprob>,
    /// Always `null`.
    pub refusal: Option<Vec<TokenLogprob>>,
}

// === impl Role ===

impl Role {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Developer => "developer",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

// === impl Content ===

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct ContentVisitor;

        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of parts")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Content::Parts(parts))
            }
        }

        input.deserialize_any(ContentVisitor)
    }
}

// === impl PartKind ===

impl PartKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Refusal => "refusal",
            Self::ImageUrl => "image_url",
            Self::InputAudio => "input_audio",
            Self::AudioUrl => "audio_url",
            Self::VideoUrl => "video_url",
            Self::File => "file",
        }
    }
}
