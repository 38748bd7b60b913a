//! `/health`, `/live` and `/metrics`: for whoever watches the process.

use crate::error::json_response;
use crate::service::App;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use dynamo_runtime::telemetry::metrics::CONTENT_TYPE as METRICS_TYPE;
use serde::Serialize;
use std::sync::Arc;

#[derive(Serialize)]
struct Health {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
    message: &'static str,
    models: Vec<Arc<str>>,
}

/// Whether new work is taken. Load balancers ask this.
pub(crate) async fn health(State(app): State<Arc<App>>) -> Response {
    let models = app
        .models
        .list()
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    if !app.models.has_settled() {
        let starting = Health {
            status: "not_ready",
            stage: Some("starting"),
            message: "waiting to hear which models there are",
            models,
        };
        return json_response(StatusCode::SERVICE_UNAVAILABLE, &starting);
    }
    if app.draining.is_cancelled() {
        let draining = Health {
            status: "not_ready",
            stage: Some("draining"),
            message: "finishing running requests, taking no new ones",
            models,
        };
        return json_response(StatusCode::SERVICE_UNAVAILABLE, &draining);
    }
    let healthy = Health {
        status: "healthy",
        stage: None,
        message: "taking requests",
        models,
    };
    json_response(StatusCode::OK, &healthy)
}

/// Whether the process works at all. Who restarts processes asks this.
pub(crate) async fn live() -> Response {
    #[derive(Serialize)]
    struct Live {
        status: &'static str,
        message: &'static str,
    }
    let live = Live {
        status: "live",
        message: "Service is live",
    };
    json_response(StatusCode::OK, &live)
}

/// The metrics in Prometheus' text form.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from(app.registry.encode()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
    response
}
