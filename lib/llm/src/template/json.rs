//! JSON as Python's `json.dumps` writes it, to the byte: prompts are made of it.

use serde_json::{Number, Value};

/// The arguments of `json.dumps`.
#[derive(Debug, Default)]
pub(super) struct Style {
    /// Write only ASCII.
    pub(super) ascii: bool,
    /// Sort keys instead of keeping their order.
    pub(super) sort_keys: bool,
    /// Lines, and spaces per level.
    pub(super) indent: Option<usize>,
    /// Between items, and after keys.
    pub(super) separators: Option<(String, String)>,
}

/// Writes a value.
pub(super) fn dump(value: &Value, style: &Style) -> String {
    let (item, key) = match (&style.separators, style.indent) {
        (Some((item, key)), _) => (item.as_str(), key.as_str()),
        (None, Some(_)) => (",", ": "),
        (None, None) => (", ", ": "),
    };
    let mut dumper = Dumper {
        style,
        item,
        key,
        text: String::new(),
    };
    dumper.value(value, 0);
    dumper.text
}

struct Dumper<'a> {
    style: &'a Style,
    item: &'a str,
    key: &'a str,
    text: String,
}

impl Dumper<'_> {
    /// Depth is that of the request's JSON, which its parser bounds.
    fn value(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Null => self.text.push_str("null"),
            Value::Bool(true) => self.text.push_str("true"),
            Value::Bool(false) => self.text.push_str("false"),
            Value::Number(number) => self.text.push_str(&python_number(number)),
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                self.text.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.before(index, depth + 1);
                    self.value(item, depth + 1);
                }
                self.close(items.is_empty(), depth, ']');
            }
            Value::Object(entries) => {
                let mut entries: Vec<(&String, &Value)> = entries.iter().collect();
                if self.style.sort_keys {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.text.push('{');
                for (index, (key, value)) in entries.iter().enumerate() {
                    self.before(index, depth + 1);
                    self.string(key);
                    self.text.push_str(self.key);
                    self.value(value, depth + 1);
                }
                self.close(entries.is_empty(), depth, '}');
            }
        }
    }

    fn before(&mut self, index: usize, depth: usize) {
        if index > 0 {
            self.text.push_str(self.item);
        }
        self.line(depth);
    }

    fn close(&mut self, empty: bool, depth: usize, bracket: char) {
        if !empty {
            self.line(depth);
        }
        self.text.push(bracket);
    }

    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.style.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent * depth));
        }
    }

    fn string(&mut self, text: &str) {
        self.text.push('"');
        for character in text.chars() {
            match character {
                '"' => self.text.push_str("\\\""),
                '\\' => self.text.push_str("\\\\"),
                '\n' => self.text.push_str("\\n"),
                '\r' => self.text.push_str("\\r"),
                '\t' => self.text.push_str("\\t"),
                '\u{8}' => self.text.push_str("\\b"),
                '\u{c}' => self.text.push_str("\\f"),
                _ if character < ' ' || (self.style.ascii && !character.is_ascii()) => {
                    let mut units = [0; 2];
                    for unit in character.encode_utf16(&mut units) {
                        self.text.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                _ => self.text.push(character),
            }
        }
        self.text.push('"');
    }
}

/// A number as Python's `repr` has it: exponents below 1e-4 and from 1e16 on.
fn python_number(number: &Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else {
        return number.to_string();
    };
    let size = float.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{float:?}");
    }
    let written = format!("{float:e}");
    let Some((mantissa, exponent)) = written.split_once('e') else {
        return written;
    };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn writes_what_python_writes() {
        let value = json!({"b": [1, 2.0, 1e-5, 1e16, 1.5e300, -0.0], "a": "é\u{1f}\"<&'/", "e": {}, "l": []});
        assert_eq!(
            dump(&value, &Style::default()),
            "{\"b\": [1, 2.0, 1e-05, 1e+16, 1.5e+300, -0.0], \"a\": \"é\\u001f\\\"<&'/\", \"e\": {}, \"l\": []}"
        );
    }

    #[test]
    fn indents_as_python_does() {
        let style = Style {
            indent: Some(4),
            sort_keys: true,
            ascii: true,
            ..Style::default()
        };
        assert_eq!(
            dump(&json!({"b": ["😀", {}], "a": null}), &style),
            "{\n    \"a\": null,\n    \"b\": [\n        \"\\ud83d\\ude00\",\n        {}\n    ]\n}"
        );
    }

    #[test]
    fn separators_replace_the_usual_ones() {
        let style = Style {
            separators: Some((",".to_owned(), ":".to_owned())),
            ..Style::default()
        };
        assert_eq!(dump(&json!({"a": [1, true]}), &style), "{\"a\":[1,true]}");
    }
}
