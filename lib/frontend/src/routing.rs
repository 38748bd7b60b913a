//! What the router would do, does and has done: `/v1/router/explain`, `/v1/router/status`,
//! `/v1/router/decisions`.

use crate::error::{error_response, json_response};
use crate::exchange::Exchange;
use crate::service::App;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use dynamo_kv_router::explain::Explanation;
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::{Prepared, prepare_chat, prepare_completion};
use dynamo_llm::role::WorkerType;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::{ChatRequest, CompletionRequest, parse};
use dynamo_routing::WorkerRouter;
use dynamo_routing::diagnosis::{Finding, diagnose};
use dynamo_routing::figures::Figures;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;

/// Decisions of each model that are shown: the last ones.
const SHOWN_DECISIONS: usize = 100;

/// The answer to a request that is only explained.
#[derive(Serialize)]
struct Explained<'a> {
    model: &'a str,
    prompt_tokens: u64,
    #[serde(flatten)]
    explanation: Explanation,
}

/// The router of a model.
#[derive(Serialize)]
struct Status<'a> {
    model: &'a str,
    /// What its workers do of a request.
    worker_type: WorkerType,
    #[serde(flatten)]
    figures: Figures,
    findings: Vec<Finding>,
}

/// Tells the two kinds of body apart.
#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

/// Explains where a chat or completion would go. Nothing is booked and no engine is asked.
pub(crate) async fn explain(State(app): State<Arc<App>>, request: Request) -> Response {
    let (exchange, body) = match Exchange::begin(app, "router_explain", request).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    let explained = exchange.in_time(async {
        let mut prepared = prepare(&exchange, &body).await?;
        let router = router_of(&prepared.model)?;
        let context = exchange.routed_context(std::mem::take(&mut prepared.hints));
        let first = prepared
            .requests
            .first()
            .ok_or_else(|| RequestError::invalid("prompt", "the request has no prompt"))?;
        let explained = Explained {
            model: &prepared.model.card.name,
            prompt_tokens: first.input_len() as u64,
            explanation: router.explain(first, &context),
        };
        Ok(json_response(StatusCode::OK, &explained))
    });
    match explained.await {
        Ok(response) => response,
        Err(error) => exchange.refuse(&error),
    }
}

async fn prepare(exchange: &Exchange, body: &[u8]) -> Result<Prepared, RequestError> {
    let app = &exchange.app;
    let (limits, environment) = (exchange.limits(), &app.environment);
    // What is malformed beyond this is told by the parsers below.
    let is_chat = serde_json::from_slice::<Kind<'_>>(body).is_ok_and(|it| it.messages.is_some());
    if is_chat {
        let request: ChatRequest = parse(body)?;
        let model = app.models.find(&request.model)?;
        prepare_chat(request, model, limits, environment).await
    } else {
        let request: CompletionRequest = parse(body)?;
        let model = app.models.find(&request.model)?;
        prepare_completion(request, model, limits, environment).await
    }
}

fn router_of(model: &ServedModel) -> Result<&Arc<WorkerRouter>, RequestError> {
    model.router.as_ref().ok_or_else(|| {
        RequestError::new(
            ErrorCode::UnsupportedParameter,
            format!(
                "model `{}` runs in this very process: there is nothing to route",
                model.card.name
            ),
        )
    })
}

/// Every router in numbers, and what is wrong with it.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Response {
    let (models, prefill) = (app.models.list(), app.models.prefill_pools().routers());
    let status = |model, worker_type, router: &WorkerRouter| {
        let figures = router.figures();
        Status {
            model,
            worker_type,
            findings: diagnose(&figures),
            figures,
        }
    };
    let answering = models.iter().filter_map(|(name, model)| {
        let router = model.router.as_ref()?;
        Some(status(&**name, model.card.worker_type, router))
    });
    let prefill = prefill.iter();
    let prefilling = prefill.map(|(name, router)| status(name, WorkerType::Prefill, router));
    let statuses: Vec<Status<'_>> = answering.chain(prefilling).collect();
    json_response(StatusCode::OK, &serde_json::json!({ "routers": statuses }))
}

/// The last decisions, the latest first. They name no content: lengths, loads and costs alone.
pub(crate) async fn decisions(State(app): State<Arc<App>>) -> Response {
    let mut all = serde_json::Map::new();
    for (name, model) in app.models.list() {
        let Some(router) = &model.router else {
            continue;
        };
        let shown = router.with_router(|router| {
            let decisions = router.decisions().iter().rev().take(SHOWN_DECISIONS);
            serde_json::to_value(decisions.collect::<Vec<_>>())
        });
        match shown {
            Ok(shown) => drop(all.insert(name.to_string(), shown)),
            Err(error) => {
                let message = format!("decisions cannot be shown: {error}");
                return error_response(&RequestError::new(ErrorCode::Internal, message));
            }
        }
    }
    json_response(StatusCode::OK, &serde_json::json!({ "decisions": all }))
}
