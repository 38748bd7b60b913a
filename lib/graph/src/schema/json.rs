//! The schema as JSON Schema (draft 2020-12), for editors and other programs.

use super::form::{Form, PARAMETER};
use super::{Field, GRAPH, Kind, OBJECTS, Object, PARAMETERS};
use serde_json::{Map, Value, json};

/// The whole schema.
pub(crate) fn schema() -> Value {
    let definitions: Map<String, Value> = OBJECTS
        .iter()
        .map(|object| (object.name.to_owned(), object_schema(object)))
        .chain([("parameter".to_owned(), parameter())])
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dynamo graph",
        "description": "What `dynamo deploy -f` reads.",
        "$ref": format!("#/$defs/{}", GRAPH.name),
        "$defs": definitions,
    })
}

fn object_schema(object: &'static Object) -> Value {
    let own = object.fields.iter();
    // The parameters with a meaning count wherever parameters are taken.
    let known = PARAMETERS.fields.iter().filter(|field| {
        object.takes_parameters && !object.fields.iter().any(|own| own.name == field.name)
    });
    let properties: Map<String, Value> = own
        .chain(known)
        .map(|field| (field.name.to_owned(), property(field)))
        .collect();
    let required: Vec<&str> = object
        .fields
        .iter()
        .filter(|it| it.required)
        .map(|it| it.name)
        .collect();
    let mut schema = json!({
        "type": "object",
        "description": object.doc,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if object.takes_parameters {
        schema["propertyNames"] = json!({ "pattern": PARAMETER.pattern, "maxLength": PARAMETER.longest, "not": { "enum": ["in", "out"] } });
        schema["additionalProperties"] = json!({ "$ref": "#/$defs/parameter" });
    } else {
        schema["additionalProperties"] = json!(false);
    }
    schema
}

fn property(field: &'static Field) -> Value {
    let mut schema = kind_schema(&field.kind);
    schema["description"] = json!(field.doc);
    schema
}

fn kind_schema(kind: &'static Kind) -> Value {
    match kind {
        Kind::Version => json!({ "enum": [1, "1", "1.0"] }),
        Kind::Text(form) => text(form, &json!("string")),
        Kind::Scalar(form) => text(form, &json!(["string", "number", "boolean"])),
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Choice(words) => {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            json!({ "enum": words })
        }
        Kind::List { of, min, max } => {
            json!({ "type": "array", "items": kind_schema(of), "minItems": min, "maxItems": max })
        }
        Kind::Map { keys, values } => json!({
            "type": "object",
            "propertyNames": { "pattern": keys.pattern, "maxLength": keys.longest },
            "additionalProperties": kind_schema(values),
        }),
        Kind::Object(object) => json!({ "$ref": format!("#/$defs/{}", object.name) }),
        Kind::Parameter => json!({ "$ref": "#/$defs/parameter" }),
    }
}

fn text(form: &Form, kind: &Value) -> Value {
    json!({ "type": kind, "pattern": form.pattern, "maxLength": form.longest })
}

fn parameter() -> Value {
    json!({
        "type": ["string", "number", "boolean", "array", "object"],
        "description": "The value of a flag.",
    })
}
