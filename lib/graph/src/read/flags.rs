//! Flags of a component: from every place where they may stand, each once, and what their values
//! are on a command line.

use super::is_null;
use crate::document::{Content, Entry, Node};
use crate::graph::ParameterValue;
use crate::problem::{Mark, Problems};
use serde_json::Value;

/// Keys of `run_config` that are no flags.
const FORMS: [&str; 3] = ["input", "output", "parameters"];

/// Flags with a meaning here, which the target writes.
pub(super) const MEANINGS: [&str; 4] = ["verbosity", "num_nodes", "node_rank", "leader_addr"];

/// A flag and where it stands.
pub(super) struct Flag<'a> {
    pub(super) name: String,
    pub(super) node: &'a Node,
    pub(super) mark: Mark,
    pub(super) path: String,
}

/// Every flag once, in the order of the file. Two values of one flag are a problem.
pub(super) fn flags<'a>(node: &'a Node, path: &str, problems: &mut Problems) -> Vec<Flag<'a>> {
    let mut flags: Vec<Flag<'a>> = Vec::new();
    let run_config = node.field("run_config");
    let inlined = run_config.map(|it| (it, format!("{path}.run_config"), &FORMS[..]));
    let below = run_config.and_then(|it| it.field("parameters"));
    let below = below.map(|it| (it, format!("{path}.run_config.parameters"), &[][..]));
    let beside = node
        .field("parameters")
        .map(|it| (it, format!("{path}.parameters"), &[][..]));
    for (node, path, without) in [inlined, below, beside].into_iter().flatten() {
        for Entry { key, mark, node } in node.entries() {
            let name = key.replace('-', "_");
            if without.contains(&name.as_str()) || is_null(node) {
                continue;
            }
            let path = format!("{path}.{key}");
            match flags.iter().find(|flag| flag.name == name) {
                None => flags.push(Flag {
                    name,
                    node,
                    mark: *mark,
                    path,
                }),
                Some(first) if value(first.node) == value(node) => {}
                Some(first) => {
                    let message = format!(
                        "has another value on line {}; a flag has one value, remove one of them",
                        first.mark.line
                    );
                    problems.add(*mark, path, message);
                }
            }
        }
    }
    flags
}

/// The value of a flag.
pub(super) fn value(node: &Node) -> ParameterValue {
    match &node.content {
        Content::Plain(text) => match text.as_str() {
            "true" | "True" | "TRUE" => ParameterValue::Switch(true),
            "false" | "False" | "FALSE" => ParameterValue::Switch(false),
            _ => ParameterValue::Text(text.clone()),
        },
        Content::Quoted(text) => ParameterValue::Text(text.clone()),
        Content::Null => ParameterValue::Text(String::new()),
        Content::List(items) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|it| it.text().map(str::to_owned))
                .collect();
            texts.map_or_else(
                || ParameterValue::Json(json(node).to_string()),
                ParameterValue::List,
            )
        }
        Content::Map(_) => ParameterValue::Json(json(node).to_string()),
    }
}

/// A value as JSON, by the rules of YAML's core schema.
fn json(node: &Node) -> Value {
    match &node.content {
        Content::Null => Value::Null,
        Content::Quoted(text) => Value::String(text.clone()),
        Content::Plain(text) => match text.as_str() {
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            // What reads as a JSON number is one.
            text => serde_json::from_str(text)
                .ok()
                .filter(Value::is_number)
                .unwrap_or_else(|| Value::String(text.to_owned())),
        },
        Content::List(items) => items.iter().map(json).collect(),
        Content::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.clone(), json(&entry.node)));
            Value::Object(pairs.collect())
        }
    }
}

/// The texts that a value is made of.
pub(super) fn texts_of(value: &ParameterValue) -> Vec<&str> {
    match value {
        ParameterValue::Text(text) | ParameterValue::Json(text) => vec![text],
        ParameterValue::List(texts) => texts.iter().map(String::as_str).collect(),
        ParameterValue::Switch(_) => Vec::new(),
    }
}
