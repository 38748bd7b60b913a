//! Chat messages, checked, in the form in which they came.
//!
//! What a model's template wants instead (one text for a list of parts, another word for a role,
//! arguments as an object) is the template's own business: see `template`.

use super::unsupported;
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::chat::{Content, ContentPart, Message, PartKind, Role, ToolCall};
use serde_json::{Map, Value, json};

/// Checks the messages and writes them as on the wire.
pub(super) fn wire_form(messages: Vec<Message>) -> Result<Value, RequestError> {
    if messages.is_empty() {
        return Err(RequestError::invalid(
            "messages",
            "`messages` is empty; send at least one message",
        ));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(i, message)| message_value(i, message))
        .collect::<Result<_, _>>()
        .map(Value::Array)
}

/// Bytes of text in the messages, roughly: what rendering and tokenising them will cost.
pub(super) fn text_bytes(messages: &Value) -> usize {
    match messages {
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(text_bytes).sum(),
        Value::Object(fields) => fields.values().map(text_bytes).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

fn message_value(i: usize, message: Message) -> Result<Value, RequestError> {
    let Message {
        role,
        content,
        name,
        reasoning_content,
        tool_calls,
        tool_call_id,
        refusal,
        // Informative, and what was refused when the body was read.
        annotations: _,
        audio: _,
        function_call: _,
    } = message;
    let has_calls = tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
    let may_be_silent = role == Role::Assistant && has_calls;
    if content.is_none() && refusal.is_none() && !may_be_silent {
        return Err(required(format!("messages[{i}].content")));
    }
    let mut value = Map::new();
    value.insert("role".to_owned(), role.as_str().into());
    value.insert("content".to_owned(), content_value(i, content)?);
    let optional = [
        ("name", name),
        ("reasoning_content", reasoning_content),
        ("tool_call_id", tool_call_id),
        ("refusal", refusal),
    ];
    for (key, text) in optional {
        if let Some(text) = text {
            value.insert(key.to_owned(), text.into());
        }
    }
    if let Some(calls) = tool_calls {
        let calls = calls.into_iter().map(call_value).collect();
        value.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(Value::Object(value))
}

fn content_value(i: usize, content: Option<Content>) -> Result<Value, RequestError> {
    match content {
        None => Ok(Value::Null),
        Some(Content::Text(text)) => Ok(Value::String(text)),
        Some(Content::Parts(parts)) => parts
            .into_iter()
            .enumerate()
            .map(|(j, part)| part_value(&format!("messages[{i}].content[{j}]"), part))
            .collect::<Result<_, _>>()
            .map(Value::Array),
    }
}

fn part_value(path: &str, part: ContentPart) -> Result<Value, RequestError> {
    // The kind is also the name of the field that holds the text.
    let kind = part.kind.as_str();
    let text = match part.kind {
        PartKind::Text => part.text,
        PartKind::Refusal => part.refusal,
        PartKind::ImageUrl
        | PartKind::InputAudio
        | PartKind::AudioUrl
        | PartKind::VideoUrl
        | PartKind::File => {
            return Err(unsupported(
                &format!("{path}.type"),
                &format!("takes text only, got `{kind}`"),
            ));
        }
    };
    let text = text.ok_or_else(|| required(format!("{path}.{kind}")))?;
    Ok(json!({"type": kind, kind: text}))
}

fn call_value(call: ToolCall) -> Value {
    let ToolCall {
        id,
        kind: _,
        function,
        index: _,
    } = call;
    let function = json!({"name": function.name, "arguments": function.arguments});
    json!({"id": id, "type": "function", "function": function})
}

fn required(param: String) -> RequestError {
    let message = format!("`{param}` is required");
    RequestError::invalid(param, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::error::ErrorCode;

    fn messages(value: Value) -> Vec<Message> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_is_valid_passes_unchanged() {
        let conversation = json!([
            {"role": "developer", "content": "a"},
            {"role": "user", "content": [
                {"type": "text", "text": "b"}, {"type": "text", "text": "c"}], "name": "n"},
            {"role": "assistant", "content": null, "reasoning_content": "r", "tool_calls": [
                {"id": "1", "type": "function",
                    "function": {"name": "f", "arguments": "{\"x\":  1}"}}]},
            {"role": "tool", "content": "2", "tool_call_id": "1"},
            {"role": "assistant", "content": null, "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
            {"role": "user", "content": ""},
        ]);
        assert_eq!(
            wire_form(messages(conversation.clone())).unwrap(),
            conversation
        );
        assert!(text_bytes(&conversation) > 20);
    }

    #[test]
    fn what_a_message_lacks_or_has_too_much_is_named() {
        let rows = [
            (json!([]), ErrorCode::InvalidRequest, "messages"),
            (
                json!([{"role": "user"}]),
                ErrorCode::InvalidRequest,
                "messages[0].content",
            ),
            (
                json!([{"role": "assistant", "tool_calls": []}]),
                ErrorCode::InvalidRequest,
                "messages[0].content",
            ),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                ErrorCode::InvalidRequest,
                "messages[0].content[0].text",
            ),
            (
                json!([{"role": "user", "content": [{"type": "image_url"}]}]),
                ErrorCode::UnsupportedParameter,
                "messages[0].content[0].type",
            ),
        ];
        for (value, code, param) in rows {
            let error = wire_form(messages(value)).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, Some(param)));
        }
    }
}
