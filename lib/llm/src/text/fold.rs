//! A whole answer at once: the chunks of one that takes text, folded.
//!
//! Deltas are put together by the API's own rules: texts are joined, lists of numbered entries
//! (`tool_calls`) merged by their `index`, other lists joined, and what names or counts something
//! stands as it was said last.

use super::TextAnswer;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::Usage;
use dynamo_protocols::openai::stream::Api;
use futures_util::StreamExt;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Largest sum of an answer's chunks, in bytes: a quarter of a million tokens, each with a chunk of its
/// own, stay below. A worker that does not end must not fill the memory.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Texts that are no pieces of one: said again, they stand as they are.
const NAMES: [&str; 5] = ["role", "type", "id", "finish_reason", "object"];

/// A complete answer.
#[derive(Debug)]
pub struct Folded {
    /// The answer as the client gets it.
    pub body: Value,
    /// Token counts.
    pub usage: Usage,
}

impl TextAnswer {
    /// Waits for the whole answer; tells `observe` of each chunk that adds to a choice.
    pub async fn fold(mut self, mut observe: impl FnMut()) -> Result<Folded, RequestError> {
        let (mut head, mut choices) = (Map::new(), BTreeMap::new());
        let mut bytes = 0;
        while let Some(chunk) = self.next().await {
            let chunk = chunk?;
            if chunk.is_content {
                observe();
            }
            bytes += chunk.json.len();
            if bytes > MAX_BYTES {
                return Err(RequestError::new(
                    ErrorCode::EngineFailed,
                    format!(
                        "the worker's answer is longer than {MAX_BYTES} bytes; ask for a stream"
                    ),
                ));
            }
            let chunk: Map<String, Value> = serde_json::from_str(&chunk.json).map_err(|error| {
                let message = format!("the worker gave a chunk that cannot be read: {error}");
                RequestError::new(ErrorCode::WorkerProtocol, message)
            })?;
            add(&mut head, &mut choices, chunk);
        }
        let usage = self.usage();
        let choices = choices.into_iter().map(|(index, choice)| match self.api {
            Api::Chat => chat_choice(index, choice),
            Api::Completions => completion_choice(index, choice),
        });
        head.insert("choices".to_owned(), choices.collect());
        let object = match self.api {
            Api::Chat => "chat.completion",
            Api::Completions => "text_completion",
        };
        head.insert("object".to_owned(), object.into());
        Ok(Folded {
            body: Value::Object(head),
            usage,
        })
    }
}

/// Adds a chunk to what came before it.
fn add(
    head: &mut Map<String, Value>,
    choices: &mut BTreeMap<u64, Map<String, Value>>,
    chunk: Map<String, Value>,
) {
    for (key, value) in chunk {
        match value {
            Value::Array(pieces) if key == "choices" => {
                for piece in pieces {
                    let index = piece["index"].as_u64().unwrap_or(0);
                    if let Value::Object(piece) = piece {
                        merge(choices.entry(index).or_default(), piece);
                    }
                }
            }
            // The first chunk's id is the answer's.
            value if value.is_null() || key == "id" || key == "created" => {
                head.entry(key).or_insert(value);
            }
            value => drop(head.insert(key, value)),
        }
    }
}

fn merge(into: &mut Map<String, Value>, piece: Map<String, Value>) {
    for (key, value) in piece {
        match (into.get_mut(&key), value) {
            (None, value) => drop(into.insert(key, value)),
            (Some(_), Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if !NAMES.contains(&key.as_str()) => {
                text.push_str(&more);
            }
            (Some(Value::Object(map)), Value::Object(more)) => merge(map, more),
            (Some(Value::Array(list)), Value::Array(more)) => merge_lists(list, more),
            (Some(place), value) => *place = value,
        }
    }
}

/// Entries with an index are pieces of the entry of that index.
fn merge_lists(list: &mut Vec<Value>, more: Vec<Value>) {
    for piece in more {
        let index = piece.get("index").and_then(Value::as_u64);
        let same = index.and_then(|index| {
            let with_it = |it: &&mut Value| it.get("index").and_then(Value::as_u64) == Some(index);
            list.iter_mut().find(with_it)
        });
        match (same, piece) {
            (Some(Value::Object(map)), Value::Object(piece)) => merge(map, piece),
            (_, piece) => list.push(piece),
        }
    }
}

fn chat_choice(index: u64, mut choice: Map<String, Value>) -> Value {
    let mut message = match choice.remove("delta") {
        Some(Value::Object(message)) => message,
        _ => Map::new(),
    };
    message.entry("role").or_insert_with(|| "assistant".into());
    message.entry("content").or_insert(Value::Null);
    if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
        // Whole calls stand in their order; their numbers are for pieces.
        calls.sort_by_key(|call| call.get("index").and_then(Value::as_u64));
        for call in calls {
            call.as_object_mut().map(|call| call.shift_remove("index"));
        }
    }
    choice.insert("index".to_owned(), index.into());
    choice.insert("message".to_owned(), Value::Object(message));
    choice.entry("logprobs").or_insert(Value::Null);
    Value::Object(choice)
}

fn completion_choice(index: u64, mut choice: Map<String, Value>) -> Value {
    choice.insert("index".to_owned(), index.into());
    choice.entry("logprobs").or_insert(Value::Null);
    Value::Object(choice)
}
