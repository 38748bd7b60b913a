//! `/v1/embeddings`.

use crate::error::{error_response, json_response};
use crate::exchange::Exchange;
use crate::metrics::RequestMetrics;
use crate::service::App;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::prepare_embedding;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::embeddings::{
    Embedding, EmbeddingRequest, EmbeddingResponse, EmbeddingUsage, EmbeddingValue, EncodingFormat,
};
use dynamo_protocols::openai::{Usage, parse};
use std::sync::Arc;

pub(crate) async fn embeddings(State(app): State<Arc<App>>, request: Request) -> Response {
    let (exchange, body) = match Exchange::begin(app, "embeddings", request).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    let parsed: Result<EmbeddingRequest, _> = parse(&body);
    drop(body);
    let request = match parsed {
        Ok(request) => request,
        Err(error) => return exchange.refuse(&error),
    };
    let model = match exchange.find_model(&request.model).await {
        Ok(model) => model,
        Err(error) => return exchange.refuse(&error),
    };
    exchange.span.record("model", request.model.as_str());
    let mut metrics = exchange
        .app
        .metrics
        .begin(exchange.kind, &request.model, exchange.began);
    let model = metrics.measured(&model);
    let embedded = exchange.in_time(embed(request, model, &exchange, &mut metrics));
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

async fn embed(
    request: EmbeddingRequest,
    model: Arc<ServedModel>,
    exchange: &Exchange,
    metrics: &mut RequestMetrics,
) -> Result<EmbeddingResponse, RequestError> {
    let name = request.model.clone();
    let prepared =
        prepare_embedding(request, model, exchange.limits(), &exchange.app.environment).await?;
    metrics.prepared(None);
    let expected = prepared.request.inputs.len();
    let answer = prepared
        .model
        .engine
        .embed(prepared.request.clone(), exchange.context.clone())
        .await?;
    if answer.embeddings.len() != expected {
        return Err(RequestError::new(
            ErrorCode::EngineFailed,
            "the engine did not embed every input",
        ));
    }
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
            prompt_tokens: prepared.prompt_tokens,
            total_tokens: prepared.prompt_tokens,
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
