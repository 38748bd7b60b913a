//! Values as text for people and for TOML.

use crate::resolve::Effective;
use crate::value::RawValue;

/// The text of `--print-config`: TOML, one table per group, each value with its source.
pub(crate) fn effective(values: &[Effective]) -> String {
    let mut text = String::new();
    let mut group = "";
    for value in values {
        if value.spec.group != group {
            group = value.spec.group;
            let gap = if text.is_empty() { "" } else { "\n" };
            text += &format!("{gap}[{group}]\n");
        }
        let shown = toml_value(&value.value, value.spec.kind.is_bare());
        text += &format!("{} = {shown}  # {}\n", value.spec.key, value.source);
    }
    text
}

fn toml_value(value: &RawValue, is_bare: bool) -> String {
    let scalar = |text: &String| match is_bare {
        // A bare kind that is unset is a text.
        true if text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok() => text.clone(),
        _ => quoted(text),
    };
    match value {
        RawValue::Unset => quoted(""),
        RawValue::One(text) => scalar(text),
        RawValue::Many(texts) => {
            let items: Vec<String> = texts.iter().map(scalar).collect();
            format!("[{}]", items.join(", "))
        }
    }
}

/// A TOML basic string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            char if char.is_control() => quoted += &format!("\\u{:04X}", u32::from(char)),
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
