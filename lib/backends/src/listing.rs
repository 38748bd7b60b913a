//! What a server says that it serves: the answer to `GET /v1/models`. Pure.

use serde::Deserialize;
use std::borrow::Cow;

/// Models of one server: a base model and its adapters, with room to spare.
pub const MAX_MODELS: usize = 1_024;

/// Longest name of a model: longer than any path on a model hub.
const MAX_NAME_BYTES: usize = 512;

/// A model of a server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedModel {
    /// The name that requests have.
    pub name: String,
    /// It is a LoRA adapter of another model.
    pub is_adapter: bool,
    /// Most tokens of prompt and answer together, if the server says so.
    pub context_length: Option<u32>,
}

/// Why the answer is nonsense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ListingError {
    /// Not the JSON of a list of models.
    #[error("its list of models cannot be read: {0}")]
    Malformed(String),
    /// It serves nothing.
    #[error("it lists no models")]
    Empty,
    /// More than [`MAX_MODELS`], or a name that is too long.
    #[error("its list of models is too large")]
    TooLarge,
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    data: Vec<Entry<'a>>,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    /// vLLM's adapters name their model here.
    #[serde(borrow, default)]
    parent: Option<Cow<'a, str>>,
    #[serde(default)]
    max_model_len: Option<u32>,
    #[serde(default)]
    context_window: Option<u32>,
}

/// Reads an answer; the models are sorted by name.
pub fn read(body: &[u8]) -> Result<Vec<ListedModel>, ListingError> {
    let list: List<'_> =
        serde_json::from_slice(body).map_err(|error| ListingError::Malformed(error.to_string()))?;
    if list.data.is_empty() {
        return Err(ListingError::Empty);
    }
    let too_long = |entry: &Entry<'_>| entry.id.is_empty() || entry.id.len() > MAX_NAME_BYTES;
    if list.data.len() > MAX_MODELS || list.data.iter().any(too_long) {
        return Err(ListingError::TooLarge);
    }
    let models = list.data.into_iter().map(|entry| ListedModel {
        name: entry.id.into_owned(),
        is_adapter: entry.parent.is_some_and(|parent| !parent.is_empty()),
        context_length: entry.max_model_len.or(entry.context_window),
    });
    let mut models: Vec<_> = models.collect();
    models.sort();
    models.dedup_by(|a, b| a.name == b.name);
    Ok(models)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_vllm_and_others_answer_is_read() {
        let body = br#"{"object":"list","data":[
            {"id":"sql-lora","object":"model","root":"/loras/sql","parent":"llama"},
            {"id":"llama","object":"model","created":1,"owned_by":"vllm","root":"llama",
             "parent":null,"max_model_len":8192,"permission":[{"id":"p"}]},
            {"id":"own","context_window":4096}]}"#;
        let models = read(body).unwrap();
        let names: Vec<_> = models.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["llama", "own", "sql-lora"]);
        assert_eq!(models[0].context_length, Some(8192));
        assert_eq!(models[1].context_length, Some(4096));
        assert!(models[2].is_adapter && !models[0].is_adapter);
    }

    #[test]
    fn nonsense_is_told_from_a_list() {
        for body in [
            "",
            "<html>",
            "{}",
            r#"{"data":{}}"#,
            r#"{"data":[{}]}"#,
            "[]",
        ] {
            let error = read(body.as_bytes()).unwrap_err();
            assert!(matches!(error, ListingError::Malformed(_)), "{body}");
        }
        assert_eq!(read(br#"{"data":[]}"#), Err(ListingError::Empty));
        let many: Vec<String> = (0..=MAX_MODELS)
            .map(|n| format!(r#"{{"id":"{n}"}}"#))
            .collect();
        let many = format!(r#"{{"data":[{}]}}"#, many.join(","));
        assert_eq!(read(many.as_bytes()), Err(ListingError::TooLarge));
    }
}
