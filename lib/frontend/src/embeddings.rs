//! `/v1/embeddings`.

use crate::error::{error_response, json_response};
use crate::exchange::Exchange;
use crate::metrics::RequestMetrics;
use crate::service::App;
use crate::text::text;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::{prepare_embedding, prepare_text_embedding};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::embeddings::{
    Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, EmbeddingValue, EncodingFormat,
};
use dynamo_protocols::openai::gist::EmbeddingGist;
use dynamo_protocols::openai::{Usage, parse};
use std::sync::Arc;

pub(crate) async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Response {
    let (exchange, body) = match Exchange::begin(app, "embeddings", request).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    let (asked, model) = match asked(&exchange, body).await {
        Ok(asked) => asked,
        Err(error) => return exchange.refuse(&error),
    };
    let name = asked.model().to_owned();
    exchange.span.record("model", name.as_str());
    let mut metrics = exchange
        .app
        .metrics
        .begin(exchange.kind, &name, exchange.began);
    let model = metrics.measured(&model);
    let embedded = exchange.in_time(embed(asked, model, &exchange, &mut metrics));
    match embedded.await {
        Ok(response) => {
            metrics.usage(Usage::new(response.usage.prompt_tokens, 0, 0));
            metrics.succeed();
            json_response(StatusCode::OK, &response)
        }
        Err(error) => {
            exchange.span.record("error", error.code.as_str());
            metrics.fail(&error);
            error_response(&error)
        }
    }
}

/// A request in the form that its model's workers take.
enum Asked {
    Tokens(EmbeddingRequest),
    Text(EmbeddingGist, String),
}

impl Asked {
    fn model(&self) -> &str {
        match self {
            Self::Tokens(request) => &request.model,
            Self::Text(gist, _) => &gist.model,
        }
    }
}

/// Reads a request, and finds its model.
async fn asked(
    exchange: &Exchange,
    body: Vec<u8>,
) -> Result<(Asked, Arc<ServedModel>), RequestError> {
    let parsed: Result<EmbeddingRequest, _> = parse(&body);
    let error = match parsed {
        Ok(request) => {
            let model = exchange.find_model(&request.model).await?;
            if model.card.input.is_tokens() {
                return Ok((Asked::Tokens(request), model));
            }
            let gist = EmbeddingGist::read(&body)?;
            return Ok((Asked::Text(gist, text(body)?), model));
        }
        Err(error) => error,
    };
    // Workers that take text may know what is unknown here.
    let Ok(gist) = EmbeddingGist::read(&body) else {
        return Err(error);
    };
    match exchange.find_model(&gist.model).await {
        Ok(model) if !model.card.input.is_tokens() => Ok((Asked::Text(gist, text(body)?), model)),
        Ok(_) | Err(_) => Err(error),
    }
}

async fn embed(
    asked: Asked,
    model: Arc<ServedModel>,
    exchange: &Exchange,
    metrics: &mut RequestMetrics,
) -> Result<EmbeddingResponse, RequestError> {
    let name = asked.model().to_owned();
    let prepared = match asked {
        Asked::Tokens(request) => {
            let (limits, environment) = (exchange.limits(), &exchange.app.environment);
            prepare_embedding(request, model, limits, environment).await?
        }
        Asked::Text(gist, body) => prepare_text_embedding(&gist, body, model)?,
    };
    metrics.prepared(None);
    let answer = prepared
        .model
        .engine
        .embed(prepared.request.clone(), exchange.context.clone())
        .await?;
    prepared.check_count(answer.embeddings.len())?;
    let prompt_tokens = answer.prompt_tokens.unwrap_or(prepared.prompt_tokens);
    let data = answer
        .embeddings
        .into_iter()
        .enumerate()
        .map(|(index, numbers)| {
            prepared.check_dimensions(numbers.len())?;
            Ok(Embedding {
                object: "embedding",
                index,
                embedding: written(numbers, prepared.format),
            })
        })
        .collect::<Result<_, RequestError>>()?;
    Ok(EmbeddingResponse {
        object: "list",
        data,
        model: name,
        usage: EmbeddingUsage {
            prompt_tokens,
            total_tokens: prompt_tokens,
        },
    })
}

fn written(numbers: Vec<f32>, format: EncodingFormat) -> EmbeddingValue {
    match format {
        EncodingFormat::Float => EmbeddingValue::Float(numbers),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            EmbeddingValue::Base64(STANDARD.encode(bytes))
        }
    }
}
