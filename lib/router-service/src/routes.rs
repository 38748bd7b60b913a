//! The routes and what they do.

use crate::answer::{Done, Health, Load, Selected, Worker, cached_tokens};
use crate::http::App;
use crate::question::{Asked, Question};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{delete, get, post};
use dynamo_frontend::{error_response, json_response, read_body};
use dynamo_kv_router::decision_log::End;
use dynamo_llm::routed_models::RoutedModel;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::parse;
use dynamo_routing::Placement;
use dynamo_routing::figures::WorkerFigures;
use dynamo_runtime::telemetry::metrics::CONTENT_TYPE as METRICS_TYPE;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Largest body: a million tokens, written out.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// How long a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Attempts at an id that is not taken. With ids of 64 bits one is enough.
const ID_ATTEMPTS: usize = 8;

/// What was left to say when a request ended.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ended {
    /// Prompt tokens that the worker found in its cache.
    #[serde(default)]
    cached_tokens: Option<u64>,
}

/// The router of the routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/select", post(select))
        .route("/select_and_reserve", post(select_and_reserve))
        .route("/reservations/{id}", delete(end))
        .route(
            "/reservations/{id}/prefill_complete",
            post(prefill_complete),
        )
        .route("/reservations/{id}/output_block", post(output_block))
        .route("/workers", get(workers))
        .route("/loads", get(loads))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(Arc::clone(&app), count))
        .with_state(app)
}

async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = label(request.uri().path());
    let response = next.run(request).await;
    app.metrics.answered(route, response.status().as_u16());
    response
}

/// A path as a label: without ids, and without what clients make up.
fn label(path: &str) -> &'static str {
    const PLAIN: &[&str] = &[
        "/select",
        "/select_and_reserve",
        "/workers",
        "/loads",
        "/health",
        "/metrics",
    ];
    let rest = path.strip_prefix("/reservations/");
    match rest.map(|rest| rest.split_once('/')) {
        Some(None) => "/reservations/{id}",
        Some(Some((_, "prefill_complete"))) => "/reservations/{id}/prefill_complete",
        Some(Some((_, "output_block"))) => "/reservations/{id}/output_block",
        Some(Some(_)) => "none",
        None => PLAIN.iter().find(|it| **it == path).map_or("none", |it| it),
    }
}

fn answer<T: Serialize>(result: Result<T, RequestError>) -> Response {
    match result {
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(error) => error_response(&error),
    }
}

async fn select(State(app): State<Arc<App>>, request: Request) -> Response {
    let selected = async {
        let (model, asked) = ask(&app, request).await?;
        let router = model.engine.router();
        let explained = router.explain_prompt(&asked.prompt(), Some(Arc::clone(&asked.slip)));
        let block_size = router.block_size().get();
        let Some(worker) = explained.winner else {
            let reason = explained.refusal.unwrap_or_else(|| "no worker".to_owned());
            return Err(RequestError::new(ErrorCode::NoCapacity, reason));
        };
        let cached_tokens = cached_tokens(&explained, worker, block_size).min(asked.isl_tokens);
        Ok(Selected {
            reservation_id: None,
            worker_id: worker.instance,
            dp_rank: worker.dp_rank,
            mode: explained.mode.as_str(),
            block_size,
            prompt_tokens: asked.isl_tokens,
            cached_tokens,
            overlap_blocks: cached_tokens / u64::from(block_size),
            explanation: match asked.slip.hints.explain {
                true => serde_json::to_value(&explained).ok(),
                false => None,
            },
            model: Arc::clone(&model.name),
        })
    };
    answer(selected.await)
}

async fn select_and_reserve(State(app): State<Arc<App>>, request: Request) -> Response {
    let reserved = async {
        let (model, asked) = ask(&app, request).await?;
        // Before it waits for a worker in vain.
        if !app.with_reservations(|held| held.has_room()) {
            return Err(full(&app));
        }
        let router = model.engine.router();
        let slip = Some(Arc::clone(&asked.slip));
        let placement = router.place(&asked.prompt(), slip).await?;
        let block_size = router.block_size().get();
        let cached_tokens = placement.predicted_tokens();
        let routed = asked.slip.routed();
        let selected = Selected {
            model: Arc::clone(&model.name),
            reservation_id: None,
            worker_id: placement.worker().instance,
            dp_rank: placement.worker().dp_rank,
            mode: placement.mode().as_str(),
            block_size,
            prompt_tokens: asked.isl_tokens,
            cached_tokens,
            overlap_blocks: cached_tokens / u64::from(block_size),
            explanation: routed.and_then(|routed| routed.explanation),
        };
        let id = reserve(&app, placement).ok_or_else(|| full(&app))?;
        Ok(Selected {
            reservation_id: Some(format!("{id:016x}")),
            ..selected
        })
    };
    answer(reserved.await)
}

/// Reads a question and finds its model.
async fn ask(app: &App, request: Request) -> Result<(Arc<RoutedModel>, Asked), RequestError> {
    if app.draining.is_cancelled() {
        return Err(RequestError::new(
            ErrorCode::Draining,
            "this router is stopping; ask another",
        ));
    }
    let body = read(request).await?;
    let question: Question = parse(&body)?;
    let model = app.models.find(&question.model)?;
    let asked = question.check(&model)?;
    Ok((model, asked))
}

async fn read(request: Request) -> Result<Vec<u8>, RequestError> {
    let (parts, body) = request.into_parts();
    read_body(&parts.headers, body, MAX_BODY_BYTES, BODY_TIMEOUT).await
}

/// Holds a placement under a new id. `None` if there is no room any more.
fn reserve(app: &App, placement: Placement) -> Option<u64> {
    let mut placement = Box::new(placement);
    for _ in 0..ID_ATTEMPTS {
        let (id, now) = (app.environment.random.next_u64(), app.now());
        match app.with_reservations(|held| held.insert(id, placement, now)) {
            Ok(()) => return Some(id),
            Err(back) => placement = back,
        }
    }
    None
}

fn full(app: &App) -> RequestError {
    RequestError::new(
        ErrorCode::RateLimited,
        format!(
            "{} reservations are held already; end those whose requests are over, or raise \
             --max-reservations",
            app.max_reservations
        ),
    )
}

fn unknown(id: &str) -> RequestError {
    let id: String = id.chars().take(32).collect();
    RequestError::new(
        ErrorCode::ReservationNotFound,
        format!("no reservation `{id}` is held: it was ended, or its time was up"),
    )
}

fn read_id(text: &str) -> Result<u64, RequestError> {
    let is_plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_plain.then(|| u64::from_str_radix(text, 16).ok());
    id.flatten().ok_or_else(|| unknown(text))
}

async fn prefill_complete(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    answer(progress(&app, &id, Placement::prefill_complete))
}

async fn output_block(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    answer(progress(&app, &id, Placement::output_block))
}

fn progress(app: &App, id: &str, step: fn(&mut Placement)) -> Result<Done, RequestError> {
    let (number, now) = (read_id(id)?, app.now());
    let known = app.with_reservations(|held| held.get(number, now).map(|it| step(it)));
    known.ok_or_else(|| unknown(id))?;
    Ok(Done { status: "ok" })
}

async fn end(State(app): State<Arc<App>>, Path(id): Path<String>, request: Request) -> Response {
    let ended = async {
        let number = read_id(&id)?;
        let body = read(request).await?;
        let ended: Ended = match body.is_empty() {
            true => Ended::default(),
            false => parse(&body)?,
        };
        let taken = app.with_reservations(|held| held.remove(number));
        let placement = taken.ok_or_else(|| unknown(&id))?;
        placement.end(ended.cached_tokens, End::Finished);
        Ok(Done { status: "ok" })
    };
    answer(ended.await)
}

/// Something of every rank of every worker.
fn of_ranks<T>(app: &App, of: impl Fn(&Arc<RoutedModel>, u32, WorkerFigures) -> T) -> Vec<T> {
    let models = app.models.list();
    let ranks = models.iter().flat_map(|model| {
        let figures = model.engine.router().figures();
        let block_size = figures.block_size;
        let workers = figures.workers.into_iter();
        workers
            .map(|worker| of(model, block_size, worker))
            .collect::<Vec<_>>()
    });
    ranks.collect()
}

async fn workers(State(app): State<Arc<App>>) -> Response {
    let workers = of_ranks(&app, |model, block_size, worker| Worker {
        model: Arc::clone(&model.name),
        worker_id: worker.worker.instance,
        dp_rank: worker.worker.dp_rank,
        cached_blocks: worker.cached_blocks,
        total_blocks: worker.load.total_blocks,
        block_size,
    });
    json_response(StatusCode::OK, &serde_json::json!({ "workers": workers }))
}

async fn loads(State(app): State<Arc<App>>) -> Response {
    let loads = of_ranks(&app, |model, _, worker| Load {
        model: Arc::clone(&model.name),
        worker_id: worker.worker.instance,
        dp_rank: worker.worker.dp_rank,
        active_requests: worker.requests,
        active_prefill_tokens: worker.prefill_tokens,
        active_blocks: worker.active_blocks,
        reported: worker.load,
    });
    json_response(StatusCode::OK, &serde_json::json!({ "loads": loads }))
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let models = app.models.list();
    let (status, word) = match app.draining.is_cancelled() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "healthy"),
    };
    let health = Health {
        status: word,
        models: models.iter().map(|it| Arc::clone(&it.name)).collect(),
        reservations: app.with_reservations(|held| held.len()),
    };
    json_response(status, &health)
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from(app.registry.encode()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}

async fn route_not_found(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(128).collect();
    error_response(&RequestError::new(
        ErrorCode::RouteNotFound,
        format!("no route {method} {path}; docs/routing-replicas.md lists the routes"),
    ))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(128).collect();
    error_response(&RequestError::new(
        ErrorCode::MethodNotAllowed,
        format!("{path} does not take {method}; docs/routing-replicas.md lists the routes"),
    ))
}
