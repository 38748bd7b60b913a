//! JSON values as YAML text, in the order of their keys. Texts that YAML might take for something
//! else stand in quotes; texts of several lines stand as blocks.

use serde_json::{Map, Value};

/// One document per value.
pub fn documents(values: &[Value]) -> String {
    let texts: Vec<String> = values.iter().map(document).collect();
    texts.join("---\n")
}

/// A value as a document.
pub fn document(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => write_map(&mut text, map, 0),
        Value::Array(items) if !items.is_empty() => write_list(&mut text, items, 0),
        value => {
            write_scalar(&mut text, value, 0);
            text.push('\n');
        }
    }
    text
}

fn write_map(out: &mut String, map: &Map<String, Value>, depth: usize) {
    for (index, (key, value)) in map.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        out.push_str(&plain_or_quoted(key));
        out.push(':');
        write_value(out, value, depth);
    }
}

/// What follows a key.
fn write_value(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            out.push('\n');
            indent(out, depth + 1);
            write_map(out, map, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            indent(out, depth);
            write_list(out, items, depth);
        }
        value => {
            out.push(' ');
            write_scalar(out, value, depth);
            out.push('\n');
        }
    }
}

fn write_list(out: &mut String, items: &[Value], depth: usize) {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            indent(out, depth);
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => write_map(out, map, depth + 1),
            Value::Array(items) if !items.is_empty() => write_list(out, items, depth + 1),
            item => {
                write_scalar(out, item, depth);
                out.push('\n');
            }
        }
    }
}

fn write_scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(text) if is_block(text) => write_block(out, text, depth),
        Value::String(text) => out.push_str(&plain_or_quoted(text)),
        // Empty lists and mappings are the same in both; so are numbers, booleans and null.
        value => out.push_str(&value.to_string()),
    }
}

/// Whether a text reads back from a literal block as it is.
fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && text
            .chars()
            .all(|char| char == '\n' || (char != '\t' && !char.is_control() && char != '\u{feff}'))
}

fn write_block(out: &mut String, text: &str, depth: usize) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    let kept = if text.len() - body.len() > 1 {
        text.strip_suffix('\n').unwrap_or(text)
    } else {
        body
    };
    for line in kept.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth + 1);
            out.push_str(line);
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// A text without quotes if no reader can take it for anything else: letters first, and nothing
/// but what means nothing.
fn plain_or_quoted(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_plain = text.starts_with(|char: char| char.is_ascii_alphabetic() || char == '/')
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || "-_./".contains(char))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    match is_plain {
        true => text.to_owned(),
        // JSON's texts are YAML's texts in double quotes.
        false => Value::String(text.to_owned()).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Content, Node, parse};
    use crate::problem::Problems;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn values_become_blocks_and_texts_keep_their_type() {
        let value = json!({
            "name": "a-b", "version": "1.0", "on": "yes", "empty": {}, "none": [], "count": 2,
            "list": ["a", "8080", {"x": 1, "y": [true, null]}, [1]],
            "script": "one\n  two\n\nthree\n", "cut": "a\nb", "image": "<x>:1"
        });
        insta::assert_snapshot!(document(&value), @r#"
        name: a-b
        version: "1.0"
        "on": "yes"
        empty: {}
        none: []
        count: 2
        list:
        - a
        - "8080"
        - x: 1
          "y":
          - true
          - null
        - - 1
        script: |
          one
            two

          three
        cut: |-
          a
          b
        image: "<x>:1"
        "#);
    }

    fn back(node: &Node) -> Value {
        match &node.content {
            Content::Null => Value::Null,
            Content::Quoted(text) => json!(text),
            Content::Plain(text) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
            Content::List(items) => items.iter().map(back).collect(),
            Content::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|it| (it.key.clone(), back(&it.node)))
                    .collect(),
            ),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = "[-a-z0-9:#{}'\"&*!|>%@`,.\\[\\] \n\u{e9}]{0,12}";
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[-a-z0-9:# \"]{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in any_value()) {
            let text = document(&value);
            let mut problems = Problems::default();
            let node = parse(&text, &mut problems);
            prop_assert!(node.is_some(), "{text}\n{:?}", problems.into_error("f"));
            prop_assert_eq!(back(&node.unwrap()), value, "{}", text);
        }
    }
}
