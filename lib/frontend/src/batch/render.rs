//! One line's way to its result: ask the model, and write the answer in the line's own form.

use super::BatchOptions;
use super::line::{Ask, BatchApi, read};
use crate::local::LocalClient;
use dynamo_llm::postprocess::Folded;
use dynamo_protocols::RequestError;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// An answer and what it took.
pub(super) struct Answer {
    body: Value,
    tokens_in: u64,
    tokens_out: u64,
}

/// Asks for one line.
pub(super) async fn answer(
    client: &LocalClient,
    options: &BatchOptions,
    line: &str,
    number: u64,
) -> Result<Answer, RequestError> {
    let id: Arc<str> = format!("batch-{number}").into();
    match read(line)? {
        Ask::Prompt(text) => prompt(client, options, &text, id).await,
        Ask::Request { api, body, .. } => request(client, api, body.get().as_bytes(), id).await,
    }
}

/// Writes the result of a line in the line's own form.
pub(super) fn result(
    line: &str,
    answered: Result<Answer, RequestError>,
    elapsed: Duration,
) -> (Map<String, Value>, Result<(u64, u64), RequestError>) {
    let counts = match &answered {
        Ok(answer) => Ok((answer.tokens_in, answer.tokens_out)),
        Err(error) => Err(error.clone()),
    };
    let written = match (read(line), answered) {
        (Ok(Ask::Request { custom_id, .. }), answered) => request_result(custom_id, answered),
        (Ok(Ask::Prompt(text)), answered) => prompt_result(text, answered, elapsed),
        // A line that cannot be read was not asked: it has an error and no answer.
        (Err(error), _) => fields([("error", error_value(&error))]),
    };
    (written, counts)
}

fn fields<const N: usize>(entries: [(&str, Value); N]) -> Map<String, Value> {
    entries
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
}

async fn prompt(
    client: &LocalClient,
    options: &BatchOptions,
    text: &str,
    id: Arc<str>,
) -> Result<Answer, RequestError> {
    let (model, served) = client.model(None)?;
    let mut body = json!({
        "model": model.as_ref(),
        "temperature": options.batch_temperature,
    });
    if let Some(most) = options.batch_max_tokens {
        body["max_tokens"] = most.into();
    }
    // A model without a chat template completes the text as it is.
    let asked = if served.template.is_some() {
        body["messages"] = json!([{"role": "user", "content": text}]);
        client.chat(body.to_string().as_bytes(), id).await?
    } else {
        body["prompt"] = text.into();
        client.completion(body.to_string().as_bytes(), id).await?
    };
    let folded = asked.generation.fold(|_| {}).await?;
    let usage = folded.usage;
    let choice = folded.choices.into_iter().next().unwrap_or_default();
    Ok(Answer {
        body: json!({"response": choice.text, "finish_reason": choice.finish}),
        tokens_in: usage.prompt_tokens,
        tokens_out: usage.completion_tokens,
    })
}

async fn request(
    client: &LocalClient,
    api: BatchApi,
    body: &[u8],
    id: Arc<str>,
) -> Result<Answer, RequestError> {
    let created = client.unix_time().as_secs();
    if api == BatchApi::Embeddings {
        let (response, tokens) = client.embedding(body, id).await?;
        let data: Vec<Value> = (0_u32..)
            .zip(response.embeddings)
            .map(|(index, embedding)| json!({"object": "embedding", "index": index, "embedding": embedding}))
            .collect();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens});
        return Ok(Answer {
            body: json!({"object": "list", "data": data, "usage": usage}),
            tokens_in: tokens,
            tokens_out: 0,
        });
    }
    let asked = match api {
        BatchApi::Chat => client.chat(body, Arc::clone(&id)).await?,
        BatchApi::Completions | BatchApi::Embeddings => {
            client.completion(body, Arc::clone(&id)).await?
        }
    };
    let folded: Folded = asked.generation.fold(|_| {}).await?;
    let usage = folded.usage;
    let id = id.as_ref().to_owned();
    let body = match api {
        BatchApi::Chat => serde_json::to_value(folded.into_chat(id, asked.model, created)),
        BatchApi::Completions | BatchApi::Embeddings => {
            serde_json::to_value(folded.into_completion(id, asked.model, created))
        }
    };
    Ok(Answer {
        body: body.unwrap_or(Value::Null),
        tokens_in: usage.prompt_tokens,
        tokens_out: usage.completion_tokens,
    })
}

fn prompt_result(
    text: String,
    answered: Result<Answer, RequestError>,
    elapsed: Duration,
) -> Map<String, Value> {
    let elapsed_ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    match answered {
        Ok(answer) => fields([
            ("text", text.into()),
            ("response", answer.body["response"].clone()),
            ("tokens_in", answer.tokens_in.into()),
            ("tokens_out", answer.tokens_out.into()),
            ("elapsed_ms", elapsed_ms.into()),
            ("finish_reason", answer.body["finish_reason"].clone()),
        ]),
        Err(error) => fields([
            ("text", text.into()),
            ("elapsed_ms", elapsed_ms.into()),
            ("error", error_value(&error)),
        ]),
    }
}

fn request_result(custom_id: String, answered: Result<Answer, RequestError>) -> Map<String, Value> {
    let (status, body, error) = match answered {
        Ok(answer) => (200, answer.body, Value::Null),
        Err(error) => {
            let value = error_value(&error);
            (error.status(), json!({"error": value}), value)
        }
    };
    fields([
        ("custom_id", custom_id.into()),
        ("response", json!({"status_code": status, "body": body})),
        ("error", error),
    ])
}

fn error_value(error: &RequestError) -> Value {
    json!({
        "code": error.code.as_str(),
        "message": error.message,
        "param": error.param,
    })
}
