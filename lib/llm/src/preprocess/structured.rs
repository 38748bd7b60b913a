//! What the answer must look like: one constraint out of the fields of three APIs, and whether
//! the model can keep to it.
//!
//! A constraint is never left out: what cannot be kept to is refused. Whether a schema, expression
//! or grammar means anything is the engine's to say, which has to compile it.

use super::unsupported;
use crate::model::ServedModel;
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::generation::StopFields;
use dynamo_protocols::openai::structured::{GuidedFields, ResponseFormat, StructuredOutputs};
use dynamo_protocols::structured::{Constraint, StructuredOutput, StructuredSupport};
use serde_json::Value;
use std::sync::Arc;

/// Constraints that a request names, each by its field.
#[derive(Default)]
struct Named(Vec<(&'static str, Constraint)>);

/// The one constraint of a request, within its bounds.
pub(super) fn wanted(
    format: Option<ResponseFormat>,
    guided: GuidedFields,
) -> Result<Option<StructuredOutput>, RequestError> {
    let mut named = Named::default();
    if let Some(format) = format {
        named.take_format(format)?;
    }
    let mut whitespace = guided.guided_whitespace_pattern;
    named.take_json("guided_json", guided.guided_json)?;
    named.take_text("guided_regex", guided.guided_regex, Constraint::Regex);
    named.take_choice("guided_choice", guided.guided_choice);
    named.take_text("guided_grammar", guided.guided_grammar, Constraint::Grammar);
    if let Some(outputs) = guided.structured_outputs {
        let pattern = named.take_outputs(outputs)?;
        whitespace = whitespace.or(pattern);
    }
    if let [(first, _), (second, _), ..] = named.0.as_slice() {
        let message = format!(
            "`{first}` and `{second}` exclude each other; an answer is constrained in one way"
        );
        return Err(RequestError::invalid(*second, message));
    }
    let Some((field, constraint)) = named.0.pop() else {
        return Ok(None);
    };
    let output = StructuredOutput {
        field: field.into(),
        constraint,
        whitespace: whitespace.map(Arc::from),
    };
    output.check()?;
    Ok(Some(output))
}

/// Whether the model can keep to it, given how the answer is to end.
pub(super) fn check(
    output: &StructuredOutput,
    model: &ServedModel,
    stopping: &StopFields,
) -> Result<(), RequestError> {
    if model.engine.structured_output() == StructuredSupport::No {
        let who = format!("the engine of model `{}`", model.card.name);
        return Err(output.unsupported(&who));
    }
    if stopping.ignore_eos == Some(true) {
        let message = format!(
            "`ignore_eos` and `{}` exclude each other: an answer ends where its form is complete",
            output.field
        );
        return Err(RequestError::invalid("ignore_eos", message));
    }
    Ok(())
}

// === impl Named ===

impl Named {
    fn take_format(&mut self, format: ResponseFormat) -> Result<(), RequestError> {
        let constraint = match format.kind.as_str() {
            "text" => return Ok(()),
            "json_object" => match format.schema {
                Some(schema) => {
                    Constraint::JsonSchema(schema_text("response_format.schema", schema)?)
                }
                None => Constraint::JsonObject,
            },
            "json_schema" => {
                const FIELD: &str = "response_format.json_schema.schema";
                let schema = format.json_schema.and_then(|it| it.schema);
                let schema = schema.ok_or_else(|| {
                    let message = format!("`{FIELD}` is required for a `json_schema`");
                    RequestError::invalid(FIELD, message)
                })?;
                Constraint::JsonSchema(schema_text(FIELD, schema)?)
            }
            _ => {
                return Err(unsupported(
                    "response_format",
                    "is served as `text`, `json_object` or `json_schema` only",
                ));
            }
        };
        self.0.push(("response_format", constraint));
        Ok(())
    }

    /// Takes `structured_outputs` apart; gives back its pattern of white space.
    fn take_outputs(&mut self, outputs: StructuredOutputs) -> Result<Option<String>, RequestError> {
        self.take_json("structured_outputs.json", outputs.json)?;
        self.take_text("structured_outputs.regex", outputs.regex, Constraint::Regex);
        self.take_choice("structured_outputs.choice", outputs.choice);
        self.take_text(
            "structured_outputs.grammar",
            outputs.grammar,
            Constraint::Grammar,
        );
        if outputs.json_object == Some(true) {
            let field = "structured_outputs.json_object";
            self.0.push((field, Constraint::JsonObject));
        }
        let none_at_all = outputs.disable_any_whitespace == Some(true);
        Ok(outputs
            .whitespace_pattern
            .or_else(|| none_at_all.then(String::new)))
    }

    fn take_json(
        &mut self,
        field: &'static str,
        schema: Option<Value>,
    ) -> Result<(), RequestError> {
        if let Some(schema) = schema {
            let text = schema_text(field, schema)?;
            self.0.push((field, Constraint::JsonSchema(text)));
        }
        Ok(())
    }

    fn take_text(
        &mut self,
        field: &'static str,
        text: Option<String>,
        form: fn(Arc<str>) -> Constraint,
    ) {
        if let Some(text) = text {
            self.0.push((field, form(text.into())));
        }
    }

    fn take_choice(&mut self, field: &'static str, choices: Option<Vec<String>>) {
        if let Some(choices) = choices {
            self.0.push((field, Constraint::Choice(choices.into())));
        }
    }
}

/// A schema that came as an object, or as the text of one.
fn schema_text(field: &str, schema: Value) -> Result<Arc<str>, RequestError> {
    let schema = match schema {
        Value::String(text) => serde_json::from_str(&text).map_err(|error| {
            let message = format!("`{field}` is text that is not JSON: {error}");
            RequestError::invalid(field, message)
        })?,
        schema => schema,
    };
    if !schema.is_object() {
        let message = format!("`{field}` must be a JSON schema that is an object");
        return Err(RequestError::invalid(field, message));
    }
    Ok(schema.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::openai::{ChatRequest, parse};
    use dynamo_protocols::structured::MAX_REGEX_BYTES;
    use serde_json::json;

    fn of(mut body: Value) -> Result<Option<StructuredOutput>, RequestError> {
        body["model"] = "m".into();
        body["messages"] = json!([]);
        let request: ChatRequest = parse(body.to_string().as_bytes())?;
        wanted(request.chat.response_format, request.guided)
    }

    fn constraint(body: Value) -> (String, Constraint) {
        let output = of(body).unwrap().unwrap();
        (output.field.to_string(), output.constraint)
    }

    #[test]
    fn every_spelling_becomes_the_same_few_constraints() {
        let schema = json!({"type": "object", "properties": {"b": {}, "a": {}}});
        // Properties come in the order in which the client wrote them.
        let text: Arc<str> = r#"{"type":"object","properties":{"b":{},"a":{}}}"#.into();
        let json = |field: &str| (field.to_owned(), Constraint::JsonSchema(Arc::clone(&text)));
        let format = json!({"type": "json_schema",
            "json_schema": {"name": "n", "strict": true, "schema": schema}});
        let rows = [
            (json!({"response_format": format}), json("response_format")),
            (
                json!({"response_format": {"type": "json_object", "schema": schema}}),
                json("response_format"),
            ),
            (json!({"guided_json": schema}), json("guided_json")),
            (
                json!({"guided_json": schema.to_string()}),
                json("guided_json"),
            ),
            (
                json!({"structured_outputs": {"json": schema}}),
                json("structured_outputs.json"),
            ),
            (
                json!({"response_format": {"type": "json_object"}}),
                ("response_format".to_owned(), Constraint::JsonObject),
            ),
            (
                json!({"guided_regex": "a+", "response_format": {"type": "text"}}),
                ("guided_regex".to_owned(), Constraint::Regex("a+".into())),
            ),
            (
                json!({"structured_outputs": {"choice": ["a", "b"], "disable_fallback": true}}),
                (
                    "structured_outputs.choice".to_owned(),
                    Constraint::Choice(["a".to_owned(), "b".to_owned()].into()),
                ),
            ),
            (
                json!({"guided_grammar": "root ::= \"a\"", "guided_decoding_backend": "xgrammar"}),
                (
                    "guided_grammar".to_owned(),
                    Constraint::Grammar("root ::= \"a\"".into()),
                ),
            ),
        ];
        for (body, expected) in rows {
            assert_eq!(constraint(body.clone()), expected, "{body}");
        }
        assert_eq!(of(json!({})), Ok(None));
        assert_eq!(
            of(json!({"guided_json": null, "structured_outputs": {}})),
            Ok(None)
        );
    }

    #[test]
    fn white_space_has_two_spellings_and_none_at_all() {
        let whitespace = |body| of(body).unwrap().unwrap().whitespace;
        let pattern = json!({"guided_json": {}, "guided_whitespace_pattern": " ?"});
        assert_eq!(whitespace(pattern).as_deref(), Some(" ?"));
        let none = json!({"structured_outputs": {"json": {}, "disable_any_whitespace": true}});
        assert_eq!(whitespace(none).as_deref(), Some(""));
        assert_eq!(whitespace(json!({"guided_json": {}})), None);
    }

    #[test]
    fn mistakes_name_their_field() {
        let rows = [
            (json!({"guided_json": 5}), "guided_json"),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_json": true}), "guided_json"),
            (
                json!({"response_format": {"type": "json_schema"}}),
                "response_format.json_schema.schema",
            ),
            (
                json!({"response_format": {"type": "xml"}}),
                "response_format",
            ),
            (json!({"response_format": {}}), "response_format.type"),
            (
                json!({"guided_regex": "a".repeat(MAX_REGEX_BYTES + 1)}),
                "guided_regex",
            ),
            (json!({"guided_choice": []}), "guided_choice"),
            (
                json!({"guided_choice": ["a"], "response_format": {"type": "json_object"}}),
                "guided_choice",
            ),
            (
                json!({"structured_outputs": {"regex": "a", "json_object": true}}),
                "structured_outputs.json_object",
            ),
        ];
        for (body, field) in rows {
            let error = of(body.clone()).unwrap_err();
            assert_eq!(error.code.status(), 400, "{body}");
            assert_eq!(error.param.as_deref(), Some(field), "{body}: {error}");
            assert!(
                error.message.contains(field.rsplit('.').next().unwrap()),
                "{error}"
            );
        }
    }
}
