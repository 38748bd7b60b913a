//! Reads a request body, and says precisely what is wrong with it.
//!
//! A body is checked to be UTF-8, then parsed in one pass into the request's type. Nesting is
//! bounded by the parser, so that a body of brackets is an error and not a stack overflow.
//! Errors name the JSON path; they say what was expected and what kind of value was found, and
//! never repeat text that the client sent as a value.

use super::fields::UNSERVED;
use super::nearest::nearest;
use crate::error::{ErrorCode, RequestError};
use serde::de::DeserializeOwned;

/// Names of unknown fields are cut after this many characters when they are repeated.
const LONGEST_ECHO: usize = 64;

/// Reads `body` as a request of type `T`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, RequestError> {
    let text = std::str::from_utf8(body).map_err(|error| {
        RequestError::new(
            ErrorCode::InvalidJson,
            format!(
                "the body is not UTF-8 at byte {}; send JSON encoded as UTF-8",
                error.valid_up_to()
            ),
        )
    })?;
    if text.trim_ascii().is_empty() {
        return Err(RequestError::new(
            ErrorCode::InvalidJson,
            "the body is empty; send a JSON object",
        ));
    }
    let mut input = serde_json::Deserializer::from_str(text);
    let request = serde_path_to_error::deserialize(&mut input).map_err(|error| {
        let path = error.path().to_string();
        explain(&path, error.inner())
    })?;
    input.end().map_err(|error| explain(".", &error))?;
    Ok(request)
}

/// The error for what the parser reported at `path`.
fn explain(path: &str, error: &serde_json::Error) -> RequestError {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let cause = text.strip_suffix(&place).unwrap_or(&text);
    if !error.is_data() {
        return RequestError::new(
            ErrorCode::InvalidJson,
            format!("the body is not valid JSON: {cause}{place}"),
        );
    }
    if let Some(rest) = cause.strip_prefix("unknown field `") {
        return unknown_field(path, rest);
    }
    if let Some(name) = quoted_name(cause, "missing field `") {
        let param = child(path, name);
        return RequestError::invalid(&param, format!("`{param}` is required"));
    }
    if let Some(name) = quoted_name(cause, "duplicate field `") {
        let param = child(path, name);
        let message = format!("`{param}` is given twice; send each field once");
        return RequestError::new(ErrorCode::InvalidJson, message).with_param(param);
    }
    if cause == UNSERVED {
        let message = format!("`{path}` is not served by this version; leave it out");
        return RequestError::new(ErrorCode::UnsupportedParameter, message).with_param(path);
    }
    if path == "." {
        return RequestError::new(ErrorCode::InvalidJson, mismatch("the body", cause));
    }
    RequestError::invalid(path, mismatch(path, cause))
}

/// The error for an unknown field, from serde's words after the opening quote.
fn unknown_field(path: &str, rest: &str) -> RequestError {
    // The client chose the name, this crate the list: the last separator is the real one.
    let (name, list) = rest.rsplit_once("`, ").unwrap_or((rest, ""));
    let (name, list) = match name.find("`, expected ") {
        Some(at) => (&name[..at], &rest[at..]),
        None => (name, list),
    };
    let known = list
        .split('`')
        .filter(|word| !word.is_empty() && !word.contains([' ', ',']));
    let hint = nearest(name, known)
        .map(|known| format!("; did you mean `{known}`?"))
        .unwrap_or_default();
    let param = child(path, &shortened(name));
    let message = format!("unknown field `{param}`{hint}");
    RequestError::new(ErrorCode::UnknownParameter, message).with_param(param)
}

/// The path of a field of the object at `path`.
fn child(path: &str, name: &str) -> String {
    // The parser's path sometimes ends in the field itself already.
    if path == "." || path == "?" || path == name {
        name.to_owned()
    } else if path.ends_with(&format!(".{name}")) {
        path.to_owned()
    } else {
        format!("{}.{name}", path.trim_end_matches(".?"))
    }
}

/// The name between `opening` and the next quote.
fn quoted_name<'a>(cause: &'a str, opening: &str) -> Option<&'a str> {
    cause.strip_prefix(opening)?.strip_suffix('`')
}

/// Says what was expected and what kind of value came instead.
fn mismatch(subject: &str, cause: &str) -> String {
    let Some((found, expected)) = cause.rsplit_once(", expected ") else {
        return format!("{subject}: {cause}");
    };
    let found = if let Some(name) = quoted_name(found, "unknown variant `") {
        format!("\"{}\"", shortened(name))
    } else {
        found_kind(found)
    };
    format!(
        "{subject}: expected {}, got {found}",
        expected_kind(expected)
    )
}

/// The kind of value that was found, without its text. Numbers are kept: they are what the
/// client has to change.
fn found_kind(found: &str) -> String {
    let value = found
        .strip_prefix("invalid type: ")
        .or_else(|| found.strip_prefix("invalid value: "))
        .or_else(|| found.strip_prefix("invalid length "))
        .unwrap_or(found);
    let word = value.split(' ').next().unwrap_or_default();
    match word {
        "string" | "character" => "a string".to_owned(),
        "null" => "null".to_owned(),
        "map" => "an object".to_owned(),
        "sequence" => "a list".to_owned(),
        "boolean" => "a boolean".to_owned(),
        "integer" | "floating" | "number" => shortened(
            value
                .trim_end_matches('`')
                .rsplit('`')
                .next()
                .unwrap_or("a number"),
        ),
        _ => "something else".to_owned(),
    }
}

/// What was expected, in the words of JSON rather than of Rust.
fn expected_kind(expected: &str) -> &str {
    match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a non-negative integer",
        "i8" | "i16" | "i32" | "i64" | "isize" => "an integer",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "an object",
        other if other.starts_with("struct ") => "an object",
        other => other,
    }
}

/// The first characters of a text that the client chose.
fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST_ECHO {
        return text.to_owned();
    }
    let kept: String = text.chars().take(LONGEST_ECHO).collect();
    format!("{kept}...")
}

#[cfg(test)]
mod tests;
