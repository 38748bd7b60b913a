//! Messages in the forms that a template can take.
//!
//! Clients write the same conversation in several ways, and templates know some of them. What a
//! template knows is found out once, by rendering probes, and messages are rewritten to that.
//! Nowhere else are messages rewritten.

use super::{TemplateError, json};
use serde_json::{Map, Value, json};

/// A text that no template writes by itself.
const PROBE: &str = "probe-2f1c";

/// Another one: some templates take the first part of a list only.
const SECOND_PROBE: &str = "probe-77e0";

/// Between the texts of a message's parts, and between messages where there is no template.
const SEPARATOR: &str = "\n";

/// Who may say something in parts.
pub(super) const ROLES: [&str; 5] = [USER, "system", "developer", "assistant", "tool"];

/// Whose parts a template knows if it knows any.
pub(super) const USER: &str = "user";

/// What `transformers` appends to the message that stays open.
const OPEN_MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// What a template can take.
#[derive(Debug, Clone, Default)]
pub(super) struct Traits {
    /// The role `developer`; otherwise it is written `system`.
    pub(super) knows_developer: bool,
    /// The roles whose content may be a list of parts; the others' texts are joined.
    pub(super) parts_of: Vec<&'static str>,
    /// A tool call's arguments as they may come.
    pub(super) arguments: Arguments,
}

/// In which form a template wants a tool call's arguments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Arguments {
    /// As they came: it takes text and objects.
    #[default]
    Any,
    /// An object: text would be written as a JSON string.
    Object,
    /// Text: it joins strings.
    Text,
}

/// Whether a template speaks of the role `developer`. Rendering does not tell: one that writes any
/// role's name passes on a word that its model has never seen.
pub(super) fn knows_developer(source: &str) -> bool {
    source.contains("'developer'") || source.contains("\"developer\"")
}

/// A conversation in which the role says something in two parts.
pub(super) fn parts_probe(role: &str) -> Value {
    let parts = [PROBE, SECOND_PROBE].map(|text| json!({"type": "text", "text": text}));
    let user = json!({"role": "user", "content": "u"});
    match role {
        USER => json!([{"role": role, "content": parts}]),
        "assistant" => json!([user, {"role": role, "content": parts}]),
        "tool" => {
            let function = json!({"name": "f", "arguments": {}});
            json!([
                user,
                {"role": "assistant", "content": "", "tool_calls":
                    [{"id": "call00000", "type": "function", "function": function}]},
                {"role": role, "tool_call_id": "call00000", "name": "f", "content": parts},
            ])
        }
        _ => json!([{"role": role, "content": parts}, user]),
    }
}

/// Whether the template wrote the parts' texts, all of them, and not the list.
pub(super) fn took_parts(rendered: &str) -> bool {
    let texts = [PROBE, SECOND_PROBE];
    let lists = ["'text'", "\"text\""];
    texts.iter().all(|text| rendered.contains(text))
        && !lists.iter().any(|list| rendered.contains(list))
}

/// A conversation with a tool call, its arguments in the given form. Some templates take a call
/// only beside content that is `null`, and others only beside text.
pub(super) fn arguments_probe(form: Arguments, content: &Value) -> Value {
    let arguments = match form {
        Arguments::Object | Arguments::Any => json!({PROBE: 1}),
        Arguments::Text => format!("{{\"{PROBE}\": 1}}").into(),
    };
    let function = json!({"name": "f", "arguments": arguments});
    json!([
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": content, "tool_calls":
            [{"id": "call00000", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "call00000", "name": "f", "content": "r"},
    ])
}

/// The form that a template wants, from what it made of both.
pub(super) fn wanted_arguments(of_object: Option<&str>, of_text: Option<&str>) -> Arguments {
    let text_is_quoted = of_text.is_some_and(|text| text.contains(&format!("\\\"{PROBE}")));
    // Printed as Python prints it is not JSON, and no better than failing.
    let object_is_json = of_object.is_some_and(|text| !text.contains(&format!("'{PROBE}'")));
    match (text_is_quoted, object_is_json) {
        (true, _) => Arguments::Object,
        (false, false) if of_text.is_some() => Arguments::Text,
        (false, _) => Arguments::Any,
    }
}

/// The messages as the template knows them.
pub(super) fn adapted(messages: &Value, traits: &Traits) -> Value {
    let mut messages = messages.clone();
    for message in messages.as_array_mut().into_iter().flatten() {
        adapt(message, traits);
    }
    messages
}

/// What is said in the messages, for models without a template.
pub(super) fn raw_text(messages: &Value) -> String {
    // What takes nothing but text.
    let messages = adapted(messages, &Traits::default());
    let texts: Vec<&str> = messages
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|message| message.get("content")?.as_str())
        .collect();
    texts.join(SEPARATOR)
}

fn adapt(message: &mut Value, traits: &Traits) {
    let Some(message) = message.as_object_mut() else {
        return;
    };
    if !traits.knows_developer && message.get("role").is_some_and(|role| role == "developer") {
        message.insert("role".to_owned(), "system".into());
    }
    refusal_to_text(message);
    let role = message.get("role").and_then(Value::as_str);
    if !role.is_some_and(|role| traits.parts_of.contains(&role))
        && let Some(text) = message.get("content").and_then(joined_text)
    {
        message.insert("content".to_owned(), text.into());
    }
    // No calls are written in several ways; templates ask whether the field is there.
    let none = |calls: &Value| calls.is_null() || calls.as_array().is_some_and(Vec::is_empty);
    if message.get("tool_calls").is_some_and(none) {
        message.shift_remove("tool_calls");
    }
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten() {
        if let Some(arguments) = call
            .get_mut("function")
            .and_then(|f| f.get_mut("arguments"))
        {
            adapt_arguments(arguments, traits.arguments);
        }
    }
    // The names under which reasoning travels; older templates read `thinking`.
    let names = ["reasoning_content", "reasoning", "thinking"];
    let reasoning = names
        .iter()
        .find_map(|&name| message.get(name).filter(|text| !text.is_null()));
    if let Some(reasoning) = reasoning.cloned() {
        message.insert("reasoning_content".to_owned(), reasoning.clone());
        message.entry("thinking").or_insert(reasoning);
    }
}

fn adapt_arguments(arguments: &mut Value, wanted: Arguments) {
    let parsed = |text: &str| serde_json::from_str(text).ok().filter(Value::is_object);
    let adapted = match wanted {
        Arguments::Any => None,
        Arguments::Object => arguments.as_str().and_then(parsed),
        Arguments::Text if arguments.is_string() => None,
        Arguments::Text => Some(json::dump(arguments, &json::Style::default()).into()),
    };
    if let Some(adapted) = adapted {
        *arguments = adapted;
    }
}

/// A refusal is what the assistant said; no template knows another place for it than text.
fn refusal_to_text(message: &mut Map<String, Value>) {
    if let Some(parts) = message.get_mut("content").and_then(Value::as_array_mut) {
        for part in parts {
            if let Some(refusal) = part.get("refusal").filter(|text| text.is_string()) {
                *part = json!({"type": "text", "text": refusal});
            }
        }
        return;
    }
    if message.get("content").is_none_or(Value::is_null)
        && let Some(refusal) = message.get("refusal").filter(|text| text.is_string())
    {
        let refusal = refusal.clone();
        message.insert("content".to_owned(), refusal);
    }
}

/// The texts of a list of text parts, one a line; `None` for anything else.
fn joined_text(content: &Value) -> Option<String> {
    let parts: Option<Vec<&str>> = content
        .as_array()?
        .iter()
        .map(|part| part.as_str().or_else(|| part.get("text")?.as_str()))
        .collect();
    Some(parts?.join(SEPARATOR))
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
    let content = last
        .get_mut("content")
        .ok_or(cannot("the last message has no content"))?;
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
