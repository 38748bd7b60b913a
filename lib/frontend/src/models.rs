//! `/v1/models`: what is served now.

use crate::error::{error_response, json_response};
use crate::service::App;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use dynamo_llm::model::ServedModel;
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::{ModelEntry, ModelList};
use std::sync::Arc;

pub(crate) async fn list(State(app): State<Arc<App>>) -> Response {
    let entries = app
        .models
        .list()
        .iter()
        .map(|(name, model)| entry(&app, name, model))
        .collect();
    json_response(StatusCode::OK, &ModelList::new(entries))
}

pub(crate) async fn one(State(app): State<Arc<App>>, uri: Uri) -> Response {
    let name = uri.path().trim_start_matches("/v1/models/");
    let found = percent_decoded(name).and_then(|name| {
        let model = app.models.find(&name)?;
        Ok(entry(&app, &name, &model))
    });
    match found {
        Ok(entry) => json_response(StatusCode::OK, &entry),
        Err(error) => error_response(&error),
    }
}

fn entry(app: &App, name: &str, model: &ServedModel) -> ModelEntry {
    // Servers need not say it.
    let context = Some(u64::from(model.card.context_length)).filter(|length| *length > 0);
    ModelEntry::new(name, app.started.as_secs(), context)
}

/// The text that a percent-encoded path segment stands for.
fn percent_decoded(path: &str) -> Result<String, RequestError> {
    let malformed = || RequestError::invalid("model", "the model's name in the path is malformed");
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2).ok_or_else(malformed)?;
        let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| malformed())?);
        rest = after;
    }
    String::from_utf8(bytes).map_err(|_| malformed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_paths_are_decoded() {
        assert_eq!(percent_decoded("a%2Fb%20c/d").unwrap(), "a/b c/d");
        for malformed in ["%", "%2", "%zz", "%ff"] {
            assert!(percent_decoded(malformed).is_err(), "{malformed}");
        }
    }
}
