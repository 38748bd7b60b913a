//! Checks a tree against the schema: each message names the key, what is there and what may be.

use super::form::{Form, PARAMETER};
use super::{Field, Kind, Object, VERSIONS};
use crate::document::{Content, Entry, Node};
use crate::problem::{Problems, shown, suggestion};

/// Finds every key and value that the schema does not allow.
pub(crate) fn check(node: &Node, object: &'static Object, problems: &mut Problems) {
    check_object(node, object, "", problems);
}

fn check_kind(node: &Node, kind: &'static Kind, path: &str, problems: &mut Problems) {
    match kind {
        Kind::Object(object) => return check_object(node, object, path, problems),
        Kind::List { of, min, max } => {
            if check_list(node, of, (*min, *max), path, problems) {
                for (index, item) in node.items().iter().enumerate() {
                    check_kind(item, of, &format!("{path}[{index}]"), problems);
                }
            }
            return;
        }
        Kind::Map { keys, values } => {
            if is_map(node, "a mapping of names to values", path, problems) {
                for entry in node.entries() {
                    check_name(entry, keys, path, problems);
                    check_kind(&entry.node, values, &joined(path, &entry.key), problems);
                }
            }
            return;
        }
        _ => {}
    }
    if let Err(message) = scalar(node, kind) {
        problems.add(node.mark, path, message);
    }
}

/// What is wrong with a value that holds no others.
fn scalar(node: &Node, kind: &'static Kind) -> Result<(), String> {
    if node.content == Content::Null {
        return Err(format!("has no value; expected {}", expected(kind)));
    }
    if matches!(kind, Kind::Parameter) {
        return Ok(());
    }
    let Some(text) = node.text() else {
        let (is, expected) = (node.described(), expected(kind));
        return Err(format!("is {is}; expected {expected}"));
    };
    let is_not = || format!("{} is not {}", shown(text), expected(kind));
    let is_quoted = matches!(node.content, Content::Quoted(_));
    match kind {
        Kind::Version if VERSIONS.contains(&text) => Ok(()),
        Kind::Version => Err(format!(
            "{} is not a version that this program reads; write version: 1.0",
            shown(text)
        )),
        Kind::Text(form) | Kind::Scalar(form) => text_of(text, form),
        Kind::Integer { min, max } => match text.parse::<i64>() {
            Ok(_) if is_quoted => Err(format!("{} is a text, leave its quotes out", shown(text))),
            Ok(number) if (*min..=*max).contains(&number) => Ok(()),
            Ok(number) => Err(format!("{number} is not {}", expected(kind))),
            Err(_) => Err(is_not()),
        },
        Kind::Choice(words) => match words.iter().any(|(word, _)| *word == text) {
            true => Ok(()),
            false => Err(is_not() + &suggestion(text, words.iter().map(|(word, _)| *word))),
        },
        _ => Err(is_not()),
    }
}

fn text_of(text: &str, form: &'static Form) -> Result<(), String> {
    if form.is(text) {
        return Ok(());
    }
    let length = text.chars().count();
    Err(match length {
        0 => format!("is empty; expected {}", form.expected()),
        _ if length > form.longest && (form.holds)(text) => {
            format!(
                "{} has {length} characters, {} at most are taken",
                shown(text),
                form.longest
            )
        }
        _ => format!("{} is not {}", shown(text), form.expected()),
    })
}

fn check_list(
    node: &Node,
    of: &'static Kind,
    (min, max): (usize, usize),
    path: &str,
    problems: &mut Problems,
) -> bool {
    let Content::List(items) = &node.content else {
        let text = node.text().filter(|text| !text.is_empty());
        let (what, hint) = match of {
            Kind::Object(object) => {
                let what = format!("a list in which each item is {}", object.words);
                let is_one = matches!(node.content, Content::Map(_));
                (
                    what,
                    is_one.then(|| "; put - before its first key".to_owned()),
                )
            }
            _ => {
                let words = |text: &str| {
                    let words: Vec<String> = text.split_whitespace().map(shown).collect();
                    format!("; write [{}]", words.join(", "))
                };
                ("a list".to_owned(), text.map(words))
            }
        };
        let message = format!("is {}; expected {what}", node.described());
        problems.add(node.mark, path, message + &hint.unwrap_or_default());
        return false;
    };
    let message = match items.len() {
        count if count < min => format!("is empty; at least {min} is needed"),
        count if count > max => format!("has {count} items, {max} at most are taken"),
        _ => return true,
    };
    problems.add(node.mark, path, message);
    false
}

fn is_map(node: &Node, expected: &str, path: &str, problems: &mut Problems) -> bool {
    let is_map = matches!(node.content, Content::Map(_));
    if !is_map {
        let message = format!("is {}; expected {expected}", node.described());
        problems.add(node.mark, path, message);
    }
    is_map
}

fn check_name(entry: &Entry, form: &'static Form, path: &str, problems: &mut Problems) {
    if let Err(message) = text_of(&entry.key, form) {
        problems.add(entry.mark, path, message);
    }
}

fn check_object(node: &Node, object: &'static Object, path: &str, problems: &mut Problems) {
    let expected = match object.takes_parameters {
        true => "a mapping of flags to values, such as {model_path: /models/llama}".to_owned(),
        false => format!("a mapping with {}", keys(object)),
    };
    if !is_map(node, &expected, path, problems) {
        return;
    }
    for entry in node.entries() {
        let path = joined(path, &entry.key);
        match object.field(&entry.key) {
            Some(field) => check_kind(&entry.node, &field.kind, &path, problems),
            None if object.takes_parameters => check_parameter(entry, &path, problems),
            None => problems.add(entry.mark, path, unknown_key(&entry.key, object)),
        }
    }
    let missing = |field: &&Field| field.required && node.field(field.name).is_none();
    for field in object.fields.iter().filter(missing) {
        let (name, example) = (field.name, field.example);
        let message = format!("{} needs {name}, such as {name}: {example}", object.words);
        problems.add(node.mark, path, message);
    }
}

fn check_parameter(entry: &Entry, path: &str, problems: &mut Problems) {
    if let Some(meant) = misspelt(&entry.key) {
        let message = format!("is written {meant} here; it is no flag of the program");
        problems.add(entry.mark, path, message);
        return;
    }
    if let Err(message) = text_of(&entry.key, &PARAMETER) {
        problems.add(entry.mark, path, message);
    }
    check_kind(&entry.node, &Kind::Parameter, path, problems);
}

/// Words of the command line that are none of a graph.
fn misspelt(key: &str) -> Option<&'static str> {
    match key {
        "in" => Some("input"),
        "out" => Some("output"),
        _ => None,
    }
}

fn unknown_key(key: &str, object: &'static Object) -> String {
    let near = suggestion(key, object.fields.iter().map(|field| field.name));
    if !near.is_empty() {
        return format!("{} has no such key{near}", object.words);
    }
    let hint = match object.name {
        "component" => "; flags of its program stand under parameters",
        _ => "",
    };
    format!(
        "{} has no such key, it has {}{hint}",
        object.words,
        keys(object)
    )
}

fn keys(object: &'static Object) -> String {
    let names: Vec<&str> = object.fields.iter().map(|field| field.name).collect();
    names.join(", ")
}

/// What a value may be, with an article.
pub(crate) fn expected(kind: &'static Kind) -> String {
    match kind {
        Kind::Version => "the version 1.0".to_owned(),
        Kind::Text(form) | Kind::Scalar(form) => form.expected(),
        Kind::Integer { min, max } => format!("an integer from {min} to {max}"),
        Kind::Choice(words) => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("one of {}", words.join(", "))
        }
        Kind::List { .. } => "a list".to_owned(),
        Kind::Map { .. } => "a mapping of names to values".to_owned(),
        Kind::Object(object) => object.words.to_owned(),
        Kind::Parameter => "a text, a number, true, false, a list or a mapping".to_owned(),
    }
}

/// The path of a key, which is cut where it is no name that anybody would write.
fn joined(path: &str, key: &str) -> String {
    const LONGEST: usize = 64;
    let short: String = key.chars().take(LONGEST).collect();
    match path {
        "" => short,
        _ => format!("{path}.{short}"),
    }
}
