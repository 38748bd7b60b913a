//! The declarations for readers: a Markdown page for people, JSON for programs.

use crate::schema::{Group, Schema};
use crate::spec::{OptionSpec, prose};
use crate::value::{Kind, RawValue, Shape};
use serde_json::{Value, json};

const HOW_VALUES_ARE_FOUND: &str = "\
A flag wins over an environment variable, that over the configuration file, and that over the
default. In the file (YAML or TOML) an option stands by its key, at the top or below the name of
its group. `--print-config` shows every value and where it comes from. An optional value is unset
by `none` or an empty text. A list takes its flag several times; in an environment variable its
items are parted by commas or spaces.
";

/// The reference page.
pub(crate) fn markdown(schema: &Schema, title: &str) -> String {
    let mut page = format!("# {title}\n\n{HOW_VALUES_ARE_FOUND}");
    for group in &schema.groups {
        page += &format!("\n## `{}`\n\n{}\n", group.name, group.doc);
        for spec in &group.specs {
            page += &format!("\n### `{}`\n\n{}\n\n", spec.flag, spec.doc);
            for fact in facts(spec) {
                page += &format!("- {fact}\n");
            }
        }
    }
    page
}

fn facts(spec: &OptionSpec) -> Vec<String> {
    let mut facts = vec![format!("key `{}`, {}", spec.key, type_in_words(spec))];
    facts.extend(spec.bounds());
    facts.extend(default_in_words(spec));
    facts.extend(listed("environment", spec.env.iter().copied()));
    let mut flags = Vec::new();
    flags.extend(spec.short.map(|letter| format!("-{letter}")));
    if spec.is_switch() {
        flags.push(format!("--no-{}", spec.flag.trim_start_matches('-')));
    }
    flags.extend(spec.aliases.iter().map(|flag| (*flag).to_owned()));
    facts.extend(listed("flags too", flags.iter().map(String::as_str)));
    facts.extend(listed(
        "deprecated flags",
        spec.deprecated_aliases.iter().copied(),
    ));
    facts.extend(
        spec.choices
            .iter()
            .map(|choice| format!("`{}`: {}", choice.name, prose(choice.doc))),
    );
    facts
}

fn type_in_words(spec: &OptionSpec) -> String {
    let kind = spec.kind.as_str();
    match spec.shape {
        Shape::One => kind.to_owned(),
        Shape::Optional => format!("{kind} or `none`"),
        Shape::Many => format!("list of {kind}"),
    }
}

fn default_in_words(spec: &OptionSpec) -> Option<String> {
    if spec.required {
        return Some("required".to_owned());
    }
    match &spec.default {
        RawValue::Unset => None,
        RawValue::One(text) if text.is_empty() => Some("default: empty".to_owned()),
        RawValue::One(text) => Some(format!("default `{text}`")),
        RawValue::Many(texts) if texts.is_empty() => Some("default: empty".to_owned()),
        RawValue::Many(texts) => listed("default", texts.iter().map(String::as_str)),
    }
}

fn listed<'a>(label: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    (!names.is_empty()).then(|| format!("{label} {}", names.join(", ")))
}

/// The declarations for programs.
pub(crate) fn json(schema: &Schema) -> Value {
    let groups: Vec<Value> = schema.groups.iter().map(group_json).collect();
    json!({ "groups": groups })
}

fn group_json(group: &Group) -> Value {
    let options: Vec<Value> = group.specs.iter().map(option_json).collect();
    json!({ "name": group.name, "doc": group.doc, "options": options })
}

fn option_json(spec: &OptionSpec) -> Value {
    let choices: Vec<Value> = spec
        .choices
        .iter()
        .map(|choice| json!({ "name": choice.name, "aliases": choice.aliases, "doc": prose(choice.doc) }))
        .collect();
    let bound = |text: &Option<String>| text.as_deref().map(|text| scalar_json(spec.kind, text));
    json!({
        "key": spec.key,
        "flag": spec.flag,
        "short": spec.short,
        "aliases": spec.aliases,
        "deprecated_aliases": spec.deprecated_aliases,
        "env": spec.env,
        "type": spec.kind.as_str(),
        "list": spec.shape == Shape::Many,
        "optional": spec.shape == Shape::Optional,
        "required": spec.required,
        "secret": spec.secret,
        "default": default_json(spec),
        "min": bound(&spec.min),
        "max": bound(&spec.max),
        "choices": choices,
        "doc": spec.doc,
    })
}

fn default_json(spec: &OptionSpec) -> Value {
    match &spec.default {
        value if spec.is_unset(value) => Value::Null,
        RawValue::Unset => Value::Null,
        RawValue::One(text) => scalar_json(spec.kind, text),
        RawValue::Many(texts) => texts
            .iter()
            .map(|text| scalar_json(spec.kind, text))
            .collect(),
    }
}

/// Booleans and numbers as themselves, everything else as text.
fn scalar_json(kind: Kind, text: &str) -> Value {
    let bare = kind.is_bare().then(|| serde_json::from_str(text).ok());
    bare.flatten()
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
