//! The routes: one table, from which the router is built and the API document is checked.

use crate::error::error_response;
use crate::service::App;
use crate::{completions, embeddings, forward, health, models, openapi, routing};
use axum::Router;
use axum::http::{Method, Uri};
use axum::response::Response;
use axum::routing::{MethodRouter, get, post};
use dynamo_protocols::error::{ErrorCode, RequestError};
use std::sync::Arc;

/// Method and path of every route, paths in the API document's form.
pub const ROUTES: &[(&str, &str)] = &[
    ("get", "/health"),
    ("get", "/live"),
    ("get", "/metrics"),
    ("get", "/openapi.json"),
    ("get", "/v1/models"),
    ("get", "/v1/models/{id}"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/embeddings"),
    ("get", "/v1/router/decisions"),
    ("post", "/v1/router/explain"),
    ("get", "/v1/router/status"),
];

/// Routes that need no key: whoever watches the process has none.
const OPEN: &[&str] = &["/health", "/live", "/metrics"];

/// Routes whose requests go to servers as they are, where there are servers.
const FORWARDED: &[&str] = &["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];

/// Whether a path is served without a key.
pub(crate) fn is_open(path: &str) -> bool {
    OPEN.contains(&path)
}

/// The router for `app`.
pub(crate) fn router(app: Arc<App>) -> Router {
    let mut router = Router::new();
    for (_, path) in ROUTES {
        let own = handler(path);
        let handler = match FORWARDED.contains(path) && app.backends.is_some() {
            true => Some(post(forward::forward)),
            false => own,
        };
        if let Some(handler) = handler {
            // Names of models may contain slashes.
            let path = path.replace("{id}", "{*id}");
            router = router.route(&path, handler);
        }
    }
    if app.backends.is_some() {
        // Whatever else servers know: responses, reranking, classification.
        router = router.route("/v1/{*path}", post(forward::forward));
    }
    router
        .fallback(route_not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}

fn handler(path: &str) -> Option<MethodRouter<Arc<App>>> {
    Some(match path {
        "/health" => get(health::health),
        "/live" => get(health::live),
        "/metrics" => get(health::metrics),
        "/openapi.json" => get(openapi::document),
        "/v1/models" => get(models::list),
        "/v1/models/{id}" => get(models::one),
        "/v1/chat/completions" => post(completions::chat),
        "/v1/completions" => post(completions::completions),
        "/v1/embeddings" => post(embeddings::embeddings),
        "/v1/router/decisions" => get(routing::decisions),
        "/v1/router/explain" => post(routing::explain),
        "/v1/router/status" => get(routing::status),
        _ => return None,
    })
}

async fn route_not_found(method: Method, uri: Uri) -> Response {
    let path: String = uri.path().chars().take(128).collect();
    error_response(&RequestError::new(
        ErrorCode::RouteNotFound,
        format!("no route {method} {path}; /openapi.json lists the routes"),
    ))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Response {
    error_response(&RequestError::new(
        ErrorCode::MethodNotAllowed,
        format!(
            "{} does not take {method}; /openapi.json lists the routes",
            uri.path()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_has_a_handler() {
        for (_, path) in ROUTES {
            assert!(handler(path).is_some(), "{path}");
        }
    }
}
