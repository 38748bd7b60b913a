//! `/v1/chat/completions` and `/v1/completions`: two wire forms of one course.
//!
//! The head of a streamed answer waits a moment for the first output: what fails early is a
//! status, and what fails later an event.

use crate::error::{error_response, json_response};
use crate::events::{Events, sse_response};
use crate::exchange::Exchange;
use crate::metrics::RequestMetrics;
use crate::route_headers::stamp;
use crate::service::App;
use crate::text;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use dynamo_llm::model::ServedModel;
use dynamo_llm::postprocess::{ChoiceDelta, Generation};
use dynamo_llm::preprocess::{Prepared, prepare_chat, prepare_completion};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::generation::OutputFields;
use dynamo_protocols::openai::stream::{Api, ChunkWriter};
use dynamo_protocols::openai::{ChatRequest, CompletionRequest, parse};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A parsed request of either API.
enum Parsed {
    Chat(Box<ChatRequest>),
    Completion(Box<CompletionRequest>),
}

pub(crate) async fn chat(State(app): State<Arc<App>>, request: Request) -> Response {
    respond(app, Api::Chat, request).await
}

pub(crate) async fn completions(State(app): State<Arc<App>>, request: Request) -> Response {
    respond(app, Api::Completions, request).await
}

async fn respond(app: Arc<App>, api: Api, request: Request) -> Response {
    let endpoint = match api {
        Api::Chat => "chat_completions",
        Api::Completions => "completions",
    };
    let (mut exchange, body) = match Exchange::begin(app, endpoint, request).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    let parsed = match Parsed::read(api, &body) {
        Ok(parsed) => parsed,
        // Workers that take text may know what is unknown here.
        Err(error) => match text::model_of(&exchange, api, &body).await {
            Some(model) => return Box::pin(text::respond(exchange, api, body, model)).await,
            None => return exchange.refuse(&error),
        },
    };
    exchange.kind.stream = parsed.output().is_stream();
    let model = match exchange.find_model(parsed.model()).await {
        Ok(model) => model,
        Err(error) => return exchange.refuse(&error),
    };
    if !model.card.input.is_tokens() {
        drop(parsed);
        return Box::pin(text::respond(exchange, api, body, model)).await;
    }
    drop(body);
    exchange.span.record("model", parsed.model());
    let metrics = exchange
        .app
        .metrics
        .begin(exchange.kind, parsed.model(), exchange.began);
    let model = metrics.measured(&model);
    if exchange.kind.stream {
        Box::pin(stream(exchange, api, parsed, model, metrics)).await
    } else {
        Box::pin(whole(exchange, parsed, model, metrics)).await
    }
}

/// Answers when the answer is complete.
async fn whole(
    exchange: Exchange,
    parsed: Parsed,
    served: Arc<ServedModel>,
    mut metrics: RequestMetrics,
) -> Response {
    let model = parsed.model().to_owned();
    let is_chat = matches!(parsed, Parsed::Chat(_));
    let folded = exchange
        .in_time(async {
            let mut prepared = parsed.prepare(served, &exchange).await?;
            metrics.prepared(prepared.template);
            let context = exchange.routed_context(std::mem::take(&mut prepared.hints));
            let generation = Generation::start(prepared, context).await?;
            generation.fold(|delta| metrics.output(delta.tokens)).await
        })
        .await;
    let folded = match folded {
        Ok(folded) => folded,
        Err(error) => return failed(&exchange, &mut metrics, &error),
    };
    metrics.usage(folded.usage);
    metrics.succeed();
    let mut response = if is_chat {
        let (id, created) = exchange.stamp("chatcmpl");
        json_response(StatusCode::OK, &folded.into_chat(id, model, created))
    } else {
        let (id, created) = exchange.stamp("cmpl");
        json_response(StatusCode::OK, &folded.into_completion(id, model, created))
    };
    stamp(&mut response, exchange.routed());
    response
}

/// Answers as the answer is made.
async fn stream(
    exchange: Exchange,
    api: Api,
    parsed: Parsed,
    served: Arc<ServedModel>,
    mut metrics: RequestMetrics,
) -> Response {
    let (id, created) = exchange.stamp(match api {
        Api::Chat => "chatcmpl",
        Api::Completions => "cmpl",
    });
    let include_usage = parsed.output().include_usage();
    let writer = ChunkWriter::new(api, &id, parsed.model(), created, include_usage);
    let started = exchange
        .in_time(async {
            let mut prepared = parsed.prepare(served, &exchange).await?;
            metrics.prepared(prepared.template);
            let context = exchange.routed_context(std::mem::take(&mut prepared.hints));
            let mut generation = Generation::start(prepared, context).await?;
            let first = peek(&mut generation, exchange.app.options.http_error_peek).await?;
            Ok((generation, first))
        })
        .await;
    match started {
        Ok((generation, first)) => {
            let routed = exchange.routed();
            let events = Events::new(exchange, generation, first, writer, metrics);
            let mut response = sse_response(events);
            stamp(&mut response, routed);
            response
        }
        Err(error) => failed(&exchange, &mut metrics, &error),
    }
}

/// The first output, if it comes soon; its failure is the request's.
async fn peek(
    generation: &mut Generation,
    wait: Duration,
) -> Result<Option<ChoiceDelta>, RequestError> {
    match timeout(wait, generation.next()).await {
        Ok(first) => first.transpose(),
        Err(_) => Ok(None),
    }
}

pub(crate) fn failed(
    exchange: &Exchange,
    metrics: &mut RequestMetrics,
    error: &RequestError,
) -> Response {
    exchange.span.record("error", error.code.as_str());
    metrics.fail(error);
    error_response(error)
}

// === impl Parsed ===

impl Parsed {
    fn read(api: Api, body: &[u8]) -> Result<Self, RequestError> {
        match api {
            Api::Chat => parse(body).map(Box::new).map(Self::Chat),
            Api::Completions => parse(body).map(Box::new).map(Self::Completion),
        }
    }

    fn model(&self) -> &str {
        match self {
            Self::Chat(request) => &request.model,
            Self::Completion(request) => &request.model,
        }
    }

    fn output(&self) -> &OutputFields {
        match self {
            Self::Chat(request) => &request.output,
            Self::Completion(request) => &request.output,
        }
    }

    async fn prepare(
        self,
        model: Arc<ServedModel>,
        exchange: &Exchange,
    ) -> Result<Prepared, RequestError> {
        let (limits, environment) = (exchange.limits(), &exchange.app.environment);
        match self {
            Self::Chat(request) => prepare_chat(*request, model, limits, environment).await,
            Self::Completion(request) => {
                prepare_completion(*request, model, limits, environment).await
            }
        }
    }
}
