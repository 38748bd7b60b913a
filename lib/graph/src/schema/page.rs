//! The schema as a page for people: `docs/reference/graph.md`.

use super::check::expected;
use super::{Field, Kind, OBJECTS, Object};

const INTRODUCTION: &str = "\
# Graph files

What `dynamo deploy -f graph.yaml` reads: YAML, one document, without anchors and tags. The same as
a JSON schema, for editors: `dynamo deploy --schema`, or `graph.schema.json` beside this page. How
graphs are used is told in `docs/deploy.md`.
";

/// The page.
pub(crate) fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for object in OBJECTS {
        page += &section(object);
    }
    page
}

fn section(object: &'static Object) -> String {
    let mut section = format!("\n## `{}`\n\n{}\n", object.name, object.doc);
    for field in object.fields {
        section += &format!(
            "\n### `{}` of `{}`\n\n{}\n\n",
            field.name, object.name, field.doc
        );
        for fact in facts(field) {
            section += &format!("- {fact}\n");
        }
    }
    section
}

fn facts(field: &'static Field) -> Vec<String> {
    let mut facts = vec![form(&field.kind)];
    if field.required {
        facts.push("required".to_owned());
    }
    if !field.default.is_empty() {
        facts.push(format!("default `{}`", field.default));
    }
    facts.push(format!("example `{}: {}`", field.name, field.example));
    if let Kind::Choice(words) = &field.kind {
        facts.extend(words.iter().map(|(word, doc)| format!("`{word}`: {doc}")));
    }
    facts
}

fn form(kind: &'static Kind) -> String {
    match kind {
        Kind::List { of, min, max } => format!("a list of {min} to {max}, each {}", form(of)),
        Kind::Map { keys, values } => {
            format!(
                "a mapping; each name is {}; each value is {}",
                keys.expected(),
                form(values)
            )
        }
        Kind::Object(object) => format!("a mapping, see `{}`", object.name),
        kind => expected(kind),
    }
}
