//! Structured output: what an answer must look like, said by the client and kept to by the engine.
//!
//! A [`StructuredOutput`] travels inside the sampling part of an engine request. An engine that
//! does not know it must never get it, because it would answer without keeping to it: engines say
//! by [`StructuredSupport`] what they can do, workers announce it with their instance, and whoever
//! sends requests on asks only those that can.
//!
//! Invariants
//! - The constraint is text, bounded in size, and not compiled: compiling needs the vocabulary and
//!   belongs to the engine.
//! - It is about generated tokens alone, so that an engine that continues an answer replays
//!   `generated_ids` and gets to the same state.

use crate::error::{ErrorCode, RequestError};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Most bytes of a JSON schema. The largest ones in public use (of clinical records) are about
/// twice as large, and take seconds to compile.
pub const MAX_SCHEMA_BYTES: usize = 256 * 1024;

/// Most bytes of a regular expression: people write hundreds, generators thousands.
pub const MAX_REGEX_BYTES: usize = 16 * 1024;

/// Most bytes of a grammar; that of a programming language has about 10,000.
pub const MAX_GRAMMAR_BYTES: usize = 64 * 1024;

/// Most texts to choose from: more are a list to look up, not a choice.
pub const MAX_CHOICES: usize = 1_024;

/// Most bytes of all texts to choose from.
pub const MAX_CHOICE_BYTES: usize = 64 * 1024;

/// Most bytes of a pattern of white space: it is part of every place between two JSON tokens.
pub const MAX_WHITESPACE_BYTES: usize = 256;

/// What an answer must look like, and which field of the request says so.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StructuredOutput {
    /// The field of the client's request, in JSON path form, for messages about it.
    pub field: Arc<str>,
    /// What the whole text must match.
    pub constraint: Constraint,
    /// A regular expression of the white space between JSON tokens: empty is none at all, `None`
    /// leaves it to the engine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whitespace: Option<Arc<str>>,
}

/// What the whole text of an answer must match.
///
/// A form that this build does not know is an error when a request is read: it is never skipped.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// A JSON object of any form.
    JsonObject,
    /// JSON that is valid against a schema, itself written as JSON.
    JsonSchema(Arc<str>),
    /// A regular expression, from first to last character.
    Regex(Arc<str>),
    /// One of some texts.
    Choice(Arc<[String]>),
    /// A context-free grammar, in Lark's form or in GBNF (`root ::= ...`).
    Grammar(Arc<str>),
}

/// How far an engine keeps to structured output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StructuredSupport {
    /// It does not: such requests are refused.
    #[default]
    No,
    /// In answers that it begins itself. One that another worker has begun it would constrain as
    /// if nothing had been generated yet, so such an answer does not move.
    FromStart,
    /// Also in answers that another worker has begun, whose tokens it replays first.
    Replayed,
}

// === impl StructuredOutput ===

impl StructuredOutput {
    /// Checks the bounds, and that there is something to match.
    pub fn check(&self) -> Result<(), RequestError> {
        match &self.constraint {
            Constraint::JsonObject => {}
            Constraint::JsonSchema(schema) => self.at_most(schema.len(), MAX_SCHEMA_BYTES)?,
            Constraint::Regex(regex) => self.at_most(regex.len(), MAX_REGEX_BYTES)?,
            Constraint::Choice(choices) => self.check_choices(choices)?,
            Constraint::Grammar(grammar) => {
                self.at_most(grammar.len(), MAX_GRAMMAR_BYTES)?;
                if grammar.trim().is_empty() {
                    return Err(self.refusal("is empty; write a grammar or leave it out"));
                }
            }
        }
        if let Some(pattern) = &self.whitespace
            && pattern.len() > MAX_WHITESPACE_BYTES
        {
            let what = format!(
                "comes with a pattern of white space of {} bytes; at most {MAX_WHITESPACE_BYTES} \
                 are taken",
                pattern.len()
            );
            return Err(self.refusal(&what));
        }
        Ok(())
    }

    /// An error about the field, which `what` follows.
    pub fn refusal(&self, what: &str) -> RequestError {
        RequestError::invalid(&*self.field, format!("`{}` {what}", self.field))
    }

    /// The error of an engine that cannot keep to it.
    pub fn unsupported(&self, who: &str) -> RequestError {
        let message = format!(
            "`{}` is not served by {who}, which cannot constrain what it generates; leave it out, \
             or ask a model whose engine can (docs/structured-output.md)",
            self.field
        );
        RequestError::new(ErrorCode::UnsupportedParameter, message).with_param(&*self.field)
    }

    fn at_most(&self, bytes: usize, most: usize) -> Result<(), RequestError> {
        if bytes > most {
            return Err(self.refusal(&format!("may have at most {most} bytes, got {bytes}")));
        }
        Ok(())
    }

    fn check_choices(&self, choices: &[String]) -> Result<(), RequestError> {
        if choices.is_empty() {
            return Err(self.refusal("has nothing to choose from; give at least one text"));
        }
        if choices.len() > MAX_CHOICES {
            let what = format!(
                "may have at most {MAX_CHOICES} texts, got {}",
                choices.len()
            );
            return Err(self.refusal(&what));
        }
        if choices.iter().any(String::is_empty) {
            return Err(self.refusal("has an empty text; an answer has at least one character"));
        }
        self.at_most(choices.iter().map(String::len).sum(), MAX_CHOICE_BYTES)
    }
}

// === impl StructuredSupport ===

impl StructuredSupport {
    /// Key of the metadata by which an instance announces it.
    pub const METADATA_KEY: &'static str = "structured_output";

    /// The word that is announced.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::FromStart => "from_start",
            Self::Replayed => "replayed",
        }
    }

    /// What an instance announces. One that says nothing, or something that this build does not
    /// know, is not trusted with it.
    pub fn announced(word: Option<&str>) -> Self {
        match word {
            Some("from_start") => Self::FromStart,
            Some("replayed") => Self::Replayed,
            _ => Self::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::SamplingParams;

    fn output(constraint: Constraint) -> StructuredOutput {
        StructuredOutput {
            field: "guided_x".into(),
            constraint,
            whitespace: None,
        }
    }

    #[test]
    fn bounds_name_the_field_and_the_bound() {
        let choice = |texts: Vec<String>| output(Constraint::Choice(texts.into()));
        let rows = [
            (
                output(Constraint::Regex("a".repeat(16_385).into())),
                "16384",
            ),
            (
                output(Constraint::Grammar("a".repeat(65_537).into())),
                "65536",
            ),
            (output(Constraint::Grammar(" \n".into())), "empty"),
            (
                output(Constraint::JsonSchema(" ".repeat(262_145).into())),
                "262144",
            ),
            (choice(Vec::new()), "at least one"),
            (choice(vec![String::new()]), "empty text"),
            (choice(vec!["a".to_owned(); 1_025]), "1024 texts"),
            (choice(vec!["a".repeat(65_537)]), "65536 bytes"),
        ];
        for (output, part) in rows {
            let error = output.check().unwrap_err();
            assert_eq!(error.code, ErrorCode::InvalidRequest);
            assert_eq!(error.param.as_deref(), Some("guided_x"));
            assert!(error.message.contains(part), "{error}");
        }
        assert_eq!(choice(vec!["a".to_owned(); 1_024]).check(), Ok(()));
    }

    #[test]
    fn an_unknown_form_is_an_error_and_no_constraint_takes_no_room() {
        let newer = r#"{"structured":{"field":"f","constraint":{"sonnet":"x"}}}"#;
        assert!(serde_json::from_str::<SamplingParams>(newer).is_err());
        let text = serde_json::to_string(&SamplingParams::default()).unwrap();
        assert!(!text.contains("structured"), "{text}");
        let ours = SamplingParams {
            structured: Some(Arc::new(output(Constraint::JsonObject))),
            ..SamplingParams::default()
        };
        let text = serde_json::to_string(&ours).unwrap();
        assert_eq!(serde_json::from_str::<SamplingParams>(&text).unwrap(), ours);
    }

    #[test]
    fn only_known_words_are_trusted() {
        for support in [
            StructuredSupport::No,
            StructuredSupport::FromStart,
            StructuredSupport::Replayed,
        ] {
            assert_eq!(
                StructuredSupport::announced(Some(support.as_str())),
                support
            );
        }
        assert_eq!(StructuredSupport::announced(None), StructuredSupport::No);
        assert_eq!(
            StructuredSupport::announced(Some("v9")),
            StructuredSupport::No
        );
    }
}
