//! For tests: one broken graph file per rule of the schema, made from the schema itself.

use super::form::{Form, PARAMETER};
use super::{Field, GRAPH, Kind, Object};
use serde_json::{Map, Value, json};

/// A file that breaks one rule.
#[derive(Debug)]
pub(crate) struct Broken {
    /// The rule.
    pub(crate) rule: String,
    /// The file.
    pub(crate) text: String,
}

/// One file per rule.
pub(crate) fn files() -> Vec<Broken> {
    let mut broken = Vec::new();
    let base = json!({ "version": 1.0, "name": "g", "components": [{ "name": "c" }] });
    object(&GRAPH, &[], &base, &mut broken);
    broken
}

/// A step into a value.
#[derive(Debug, Clone)]
enum Step {
    Key(&'static str),
    Item,
}

fn object(object: &'static Object, path: &[Step], base: &Value, broken: &mut Vec<Broken>) {
    let mut say = |rule: String, value: Value| broken.push(file(rule, base, path, value));
    say(format!("{} is a mapping", object.name), json!("text"));
    let complete = at(base, path).cloned().unwrap_or_else(|| json!({}));
    for field in object.fields.iter().filter(|field| field.required) {
        let mut without = complete.clone();
        without.as_object_mut().map(|map| map.remove(field.name));
        say(format!("{} has {}", object.name, field.name), without);
    }
    let mut other = complete;
    // Where parameters are taken, only what cannot be a flag is no key.
    other[if object.takes_parameters {
        "no flag"
    } else {
        "no_such_key"
    }] = json!(1);
    say(format!("{} has no other keys", object.name), other);
    for field in object.fields {
        self::field(object, field, path, base, broken);
    }
}

fn field(
    object: &'static Object,
    field: &'static Field,
    path: &[Step],
    base: &Value,
    broken: &mut Vec<Broken>,
) {
    let path = [path, &[Step::Key(field.name)]].concat();
    kind(
        &field.kind,
        &format!("{}.{}", object.name, field.name),
        &path,
        base,
        broken,
    );
}

fn kind(kind: &'static Kind, name: &str, path: &[Step], base: &Value, broken: &mut Vec<Broken>) {
    let mut say =
        |rule: &str, value: Value| broken.push(file(format!("{name} {rule}"), base, path, value));
    match kind {
        Kind::Object(inner) => {
            let known = json!({ "claim": "c", "mount_path": "/m" });
            let base = match at(base, path) {
                Some(_) => base.clone(),
                None if inner.name == "volume" => with(base, path, known),
                None => with(base, path, json!({})),
            };
            object(inner, path, &base, broken)
        }
        Kind::Version => {
            say("is a version that is known", json!("2.0"));
            say("is one value", json!([1]));
        }
        Kind::Text(form) | Kind::Scalar(form) => {
            say("is one value", json!([form.example]));
            say("is not nothing", Value::Null);
            say("is of its form", json!(misshapen(form)));
            say("is not too long", json!(long(form)));
        }
        Kind::Integer { min, max } => {
            say("is an integer", json!("many"));
            say("is no text", json!(min.to_string()));
            say("has no fraction", json!(1.5));
            say("is not too small", json!(min - 1));
            say("is not too large", json!(max + 1));
        }
        Kind::Choice(words) => {
            let (word, _) = words[words.len() - 1];
            say("is one of its words", json!(format!("{}x", word)));
            say("is one value", json!([]));
        }
        Kind::List { of, min, max } => {
            say("is a list", json!("alone"));
            if *min > 0 {
                say("is not empty", json!([]));
            }
            let item = at(base, path).and_then(|list| list.get(0)).cloned();
            let item = item.unwrap_or_else(|| json!({}));
            say("has not too many items", json!(vec![item; max + 1]));
            let path = [path, &[Step::Item]].concat();
            self::kind(of, &format!("{name}[]"), &path, base, broken);
        }
        Kind::Map { keys, values } => {
            say("is a mapping", json!([]));
            let mut named = Map::new();
            named.insert(misshapen(keys).to_owned(), json!("v"));
            say("has names of their form", Value::Object(named));
            if let Kind::Scalar(form) = values {
                say("has single values", json!({ keys.example: [1] }));
                say(
                    "has values of their form",
                    json!({ keys.example: misshapen(form) }),
                );
            }
        }
        Kind::Parameter => {}
    }
}

/// Rules about parameters, which no field of the tables stands for.
pub(crate) fn parameters() -> Vec<Broken> {
    let base = json!({ "version": "1", "name": "g", "components": [{ "name": "c", "run_config": {}, "parameters": {} }] });
    let mut broken = Vec::new();
    for place in ["run_config", "parameters"] {
        let path = [Step::Key("components"), Step::Item, Step::Key(place)];
        let long = "a".repeat(PARAMETER.longest + 1);
        for (rule, value) in [
            ("has flags with values", json!({ "model_path": null })),
            ("has no flag in", json!({ "in": "http" })),
            (
                "has names of flags that are not too long",
                json!({ long: 1 }),
            ),
        ] {
            broken.push(file(format!("{place} {rule}"), &base, &path, value));
        }
    }
    broken
}

/// A text that is not of a form.
fn misshapen(form: &Form) -> &'static str {
    let candidates = ["-no form: /\u{e9}-", "", "\0"];
    candidates
        .into_iter()
        .find(|text| !form.is(text))
        .expect("every form refuses something")
}

/// A text that is longer than its form allows, and of that form otherwise if such a one is found.
fn long(form: &Form) -> String {
    let letters = "a".repeat(form.longest + 1);
    let candidates = [
        letters.clone(),
        format!("/{letters}"),
        format!("batch:{letters}"),
        format!("{letters}/a"),
        format!("{letters}:1"),
        format!("{}1", "0".repeat(form.longest)),
    ];
    let found = candidates.into_iter().find(|text| (form.holds)(text));
    found.unwrap_or(letters)
}

fn file(rule: String, base: &Value, path: &[Step], value: Value) -> Broken {
    Broken {
        rule,
        text: crate::yaml::document(&with(base, path, value)),
    }
}

fn at<'a>(value: &'a Value, path: &[Step]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Item => value.get(0),
    })
}

/// The value with another one at a place, which comes to be if it is not there.
fn with(value: &Value, path: &[Step], new: Value) -> Value {
    let Some((step, rest)) = path.split_first() else {
        return new;
    };
    match step {
        Step::Key(key) => {
            let mut map = value.as_object().cloned().unwrap_or_default();
            let inner = with(map.get(*key).unwrap_or(&Value::Null), rest, new);
            map.insert((*key).to_owned(), inner);
            Value::Object(map)
        }
        Step::Item => {
            let inner = value.get(0).unwrap_or(&Value::Null);
            json!([with(inner, rest, new)])
        }
    }
}
