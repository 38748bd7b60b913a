//! Messages in the forms that a template can take.
//!
//! Clients write the same conversation in several ways, and templates know some of them. What a
//! template knows is found out once, by rendering a probe, and messages are rewritten to that.

use super::TemplateError;
use serde_json::{Value, json};

/// A text that no template writes by itself.
const PROBE: &str = "probe-2f1c";

/// What `transformers` appends to the message that stays open.
const OPEN_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// What a template can take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traits {
    /// The role `developer`; otherwise it is written `system`.
    pub(super) knows_developer: bool,
    /// Content as a list of parts; otherwise the texts are joined.
    pub(super) takes_parts: bool,
    /// A tool call's arguments as text; otherwise they are parsed.
    pub(super) takes_argument_text: bool,
}

/// A conversation whose content is a list of parts.
pub(super) fn parts_probe() -> Value {
    json!([{"role": "user", "content": [{"type": "text", "text": PROBE}]}])
}

/// Whether the template wrote the part's text and not the list.
pub(super) fn took_parts(rendered: &str) -> bool {
    rendered.contains(PROBE) && !rendered.contains("'text'") && !rendered.contains("\"text\"")
}

/// A conversation with a tool call whose arguments are text.
pub(super) fn arguments_probe() -> Value {
    let function = json!({"name": "f", "arguments": format!("{{\"{PROBE}\": 1}}")});
    json!([
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "tool_calls":
            [{"id": "call00000", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call00000", "name": "f", "content": "r"},
    ])
}

/// Whether the template wrote the arguments as a JSON string instead of an object.
pub(super) fn quoted_arguments(rendered: &str) -> bool {
    rendered.contains(&format!("\\\"{PROBE}"))
}

/// The messages as the template knows them.
pub(super) fn adapted(messages: &Value, traits: Traits) -> Value {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().into_iter().flatten() {
        adapt(message, traits);
    }
    messages
}

fn adapt(message: &mut Value, traits: Traits) {
    let Some(message) = message.as_object_mut() else { return };
    if !traits.knows_developer && message.get("role").is_some_and(|role| role == "developer") {
        message.insert("role".to_owned(), "system".into());
    }
    if !traits.takes_parts
        && let Some(text) = message.get("content").and_then(joined_text)
    {
        message.insert("content".to_owned(), text.into());
    }
    if !traits.takes_argument_text {
        let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            let arguments = call.get_mut("function").and_then(|call| call.get_mut("arguments"));
            if let Some(arguments) = arguments
                && let Some(parsed) = arguments.as_str().and_then(parsed_object)
            {
                *arguments = parsed;
            }
        }
    }
    // The names under which reasoning travels; older templates read `thinking`.
    let names = ["reasoning_content", "reasoning", "thinking"];
    let reasoning = names.iter().find_map(|&name| message.get(name).filter(|text| !text.is_null()));
    if let Some(reasoning) = reasoning.cloned() {
        message.insert("reasoning_content".to_owned(), reasoning.clone());
        message.entry("thinking").or_insert(reasoning);
    }
}

/// The texts of a list of text parts, one a line; `None` for anything else.
fn joined_text(content: &Value) -> Option<String> {
    let parts: Option<Vec<&str>> = content
        .as_array()?
        .iter()
        .map(|part| part.as_str().or_else(|| part.get("text")?.as_str()))
        .collect();
    Some(parts?.join("\n"))
}

fn parsed_object(arguments: &str) -> Option<Value> {
    serde_json::from_str(arguments).ok().filter(Value::is_object)
}

/// Writes empty text in place of content that is `null` or absent. Whether there was any.
pub(super) fn without_null_content(messages: &mut Value) -> bool {
    let mut changed = false;
    for message in messages.as_array_mut().into_iter().flatten() {
        if let Some(message) = message.as_object_mut()
            && message.get("content").is_none_or(Value::is_null)
        {
            message.insert("content".to_owned(), "".into());
            changed = true;
        }
    }
    changed
}

/// The end of the message that stays open.
#[derive(Debug)]
pub(super) struct OpenEnd {
    text: String,
}

/// Marks the end of the last message's text.
pub(super) fn leave_open(messages: &mut Value) -> Result<OpenEnd, TemplateError> {
    let cannot = |reason| TemplateError::CannotContinue { reason };
    let last = messages
        .as_array_mut()
        .and_then(|messages| messages.last_mut())
        .ok_or(cannot("there are no messages"))?;
    let content = last.get_mut("content").ok_or(cannot("the last message has no content"))?;
    let text = match content {
        Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        other => Some(other),
    };
    match text {
        Some(Value::String(text)) => {
            let before = text.clone();
            text.push_str(OPEN_MARK);
            Ok(OpenEnd { text: before })
        }
        _ => Err(cannot("the last message has no text")),
    }
}

impl OpenEnd {
    /// Cuts the prompt where the message's text ends.
    pub(super) fn cut(&self, mut rendered: String) -> Result<String, TemplateError> {
        let at = rendered
            .rfind(OPEN_MARK.trim_end())
            .filter(|_| rendered.contains(self.text.trim()))
            .ok_or(TemplateError::CannotContinue {
                reason: "the chat template leaves out the last message",
            })?;
        // A template that trims the message would have trimmed its text too.
        let trimmed = !rendered[at..].starts_with(OPEN_MARK);
        rendered.truncate(at);
        if trimmed {
            rendered.truncate(rendered.trim_end().len());
        }
        Ok(rendered)
    }
}
