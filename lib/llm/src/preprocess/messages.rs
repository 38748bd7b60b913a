//! Chat messages as templates want them.
//!
//! Templates are written for what `transformers` passes: content as one string, arguments of tool
//! calls as an object. `developer` is a newer word for `system` that only newer templates know;
//! those that know it treat both alike, so the older word serves all.

use super::unsupported;
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::chat::{Content, ContentPart, Message, PartKind, Role, ToolCall};
use serde_json::{Map, Value};

/// What stands between the text parts of one message.
const PART_SEPARATOR: &str = "\n";

/// Checks the messages and turns them into the template's form.
pub(super) fn to_template(messages: Vec<Message>) -> Result<Value, RequestError> {
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
        .collect::<Result<Vec<_>, _>>()
        .map(Value::Array)
}

/// The messages' text alone, for prompts without a template.
pub(super) fn raw_text(messages: Vec<Message>) -> Result<String, RequestError> {
    let mut texts = Vec::with_capacity(messages.len());
    for (i, message) in messages.into_iter().enumerate() {
        texts.extend(content_text(i, message.content)?);
    }
    Ok(texts.join(PART_SEPARATOR))
}

/// Bytes of text in the messages, roughly: what rendering and tokenising them will cost.
pub(super) fn text_bytes(messages: &[Message]) -> usize {
    messages
        .iter()
        .map(|message| {
            let content = match &message.content {
                Some(Content::Text(text)) => text.len(),
                Some(Content::Parts(parts)) => parts
                    .iter()
                    .map(|part| part.text.as_ref().map_or(0, String::len))
                    .sum(),
                None => 0,
            };
            let calls = message.tool_calls.iter().flatten();
            content
                + message.reasoning_content.as_ref().map_or(0, String::len)
                + calls
                    .map(|call| call.function.arguments.len())
                    .sum::<usize>()
        })
        .sum()
}

fn message_value(i: usize, message: Message) -> Result<Value, RequestError> {
    let role = match message.role {
        Role::Developer => Role::System,
        role => role,
    };
    let has_calls = message
        .tool_calls
        .as_ref()
        .is_some_and(|calls| !calls.is_empty());
    let content = content_text(i, message.content)?.or(message.refusal);
    if content.is_none() && !(role == Role::Assistant && has_calls) {
        let param = format!("messages[{i}].content");
        let message = format!("`{param}` is required");
        return Err(RequestError::invalid(param, message));
    }
    let mut value = Map::new();
    value.insert("role".to_owned(), role.as_str().into());
    value.insert(
        "content".to_owned(),
        content.map_or(Value::Null, Value::String),
    );
    let optional = [
        ("name", message.name),
        ("reasoning_content", message.reasoning_content),
        ("tool_call_id", message.tool_call_id),
    ];
    for (key, text) in optional {
        if let Some(text) = text {
            value.insert(key.to_owned(), text.into());
        }
    }
    if let Some(calls) = message.tool_calls.filter(|calls| !calls.is_empty()) {
        let calls = calls.into_iter().map(call_value).collect();
        value.insert("tool_calls".to_owned(), Value::Array(calls));
    }
    Ok(Value::Object(value))
}

fn content_text(i: usize, content: Option<Content>) -> Result<Option<String>, RequestError> {
    match content {
        None => Ok(None),
        Some(Content::Text(text)) => Ok(Some(text)),
        Some(Content::Parts(parts)) => {
            let texts: Vec<String> = parts
                .into_iter()
                .enumerate()
                .map(|(j, part)| part_text(&format!("messages[{i}].content[{j}]"), part))
                .collect::<Result<_, _>>()?;
            Ok(Some(texts.join(PART_SEPARATOR)))
        }
    }
}

fn part_text(path: &str, part: ContentPart) -> Result<String, RequestError> {
    let (field, text) = match part.kind {
        PartKind::Text => ("text", part.text),
        PartKind::Refusal => ("refusal", part.refusal),
        kind => {
            return Err(unsupported(
                &format!("{path}.type"),
                &format!("takes text only, got `{}`", kind.as_str()),
            ));
        }
    };
    text.ok_or_else(|| {
        let param = format!("{path}.{field}");
        let message = format!("`{param}` is required");
        RequestError::invalid(param, message)
    })
}

fn call_value(call: ToolCall) -> Value {
    // Templates write arguments out as JSON: a text that is an object already is taken as one.
    let arguments = match serde_json::from_str(&call.function.arguments) {
        Ok(Value::Object(object)) => Value::Object(object),
        _ => Value::String(call.function.arguments),
    };
    let mut function = Map::new();
    function.insert("name".to_owned(), call.function.name.into());
    function.insert("arguments".to_owned(), arguments);
    let mut value = Map::new();
    value.insert("id".to_owned(), call.id.into());
    value.insert("type".to_owned(), "function".into());
    value.insert("function".to_owned(), Value::Object(function));
    Value::Object(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::error::ErrorCode;
    use serde_json::json;

    fn messages(value: Value) -> Vec<Message> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn developer_becomes_system_and_parts_become_text() {
        let value = to_template(messages(json!([
            {"role": "developer", "content": "a"},
            {"role": "user", "content": [
                {"type": "text", "text": "b"}, {"type": "text", "text": "c"}]},
        ])))
        .unwrap();
        assert_eq!(
            value,
            json!([{"role": "system", "content": "a"}, {"role": "user", "content": "b\nc"}])
        );
    }

    #[test]
    fn calls_of_tools_carry_their_arguments_as_an_object() {
        let value = to_template(messages(json!([
            {"role": "assistant", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": "2"},
        ])))
        .unwrap();
        assert_eq!(
            value[0]["tool_calls"][0]["function"]["arguments"],
            json!({"x": 1})
        );
        assert_eq!(value[0]["content"], Value::Null);
        assert_eq!(value[1]["tool_call_id"], "1");
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
            let error = to_template(messages(value)).unwrap_err();
            assert_eq!((error.code, error.param.as_deref()), (code, Some(param)));
        }
    }
}
