//! The fields by which clients ask for structured output: OpenAI's `response_format`, and those
//! of engines (`guided_*`, `structured_outputs`).
//!
//! What they mean together is decided in `dynamo-llm`.

use super::fields::Unserved;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// The form of the answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The schema of a `json_schema`.
    pub json_schema: Option<JsonSchemaFormat>,
    /// The schema of a `json_object`, as llama.cpp's server takes it.
    pub schema: Option<Value>,
    /// Of a `structural_tag`.
    pub structures: Option<Unserved>,
    /// Of a `structural_tag`.
    pub triggers: Option<Unserved>,
    /// Of a `structural_tag`.
    pub format: Option<Unserved>,
}

/// A named JSON schema.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JsonSchemaFormat {
    /// What it is called; informative.
    pub name: Option<String>,
    /// What it is for; informative.
    pub description: Option<String>,
    /// The schema.
    pub schema: Option<Value>,
    /// Whether to keep to it exactly, which is done either way.
    pub strict: Option<bool>,
}

fields! {
    /// Fields of engines that say what the answer must look like.
    pub struct GuidedFields {
        /// A JSON schema, as an object or as text.
        guided_json: Value,
        /// A regular expression.
        guided_regex: String,
        /// Texts to choose from.
        guided_choice: Vec<String>,
        /// A grammar.
        guided_grammar: String,
        /// What is to keep to it; informative: there is one way here.
        guided_decoding_backend: IgnoredAny,
        /// White space between JSON tokens, as a regular expression.
        guided_whitespace_pattern: String,
        /// The same fields in one object.
        structured_outputs: StructuredOutputs,
    }
}

/// `structured_outputs`: one of its constraints, and how to keep to it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON schema, as an object or as text.
    pub json: Option<Value>,
    /// A regular expression.
    pub regex: Option<String>,
    /// Texts to choose from.
    pub choice: Option<Vec<String>>,
    /// A grammar.
    pub grammar: Option<String>,
    /// A JSON object of any form.
    pub json_object: Option<bool>,
    /// White space between JSON tokens, as a regular expression.
    pub whitespace_pattern: Option<String>,
    /// No white space between JSON tokens.
    pub disable_any_whitespace: Option<bool>,
    /// Whether another way may be taken if this one fails; informative: there is one way here.
    pub disable_fallback: Option<IgnoredAny>,
    /// Closes objects that the schema leaves open.
    pub disable_additional_properties: Option<Unserved>,
    /// Constrains parts of the answer.
    pub structural_tag: Option<Unserved>,
}
