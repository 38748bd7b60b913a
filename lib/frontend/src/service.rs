//! What every request goes through, whatever it asks for: header limits, keys, ids, and a
//! response even if a handler panics.

use crate::auth::Keys;
use crate::config::FrontendOptions;
use crate::context::{REQUEST_ID, id_header, request_context};
use crate::error::error_response;
use crate::metrics::FrontendMetrics;
use crate::routes::is_open;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::response::Response;
use dynamo_backends::Backends;
use dynamo_llm::registry::ModelRegistry;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_runtime::Environment;
use dynamo_runtime::telemetry::{MetricsRegistry, Sampler};
use futures_util::FutureExt;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::Instrument;

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) options: FrontendOptions,
    pub(crate) models: ModelRegistry,
    /// Servers that compute all of them.
    pub(crate) backends: Option<Backends>,
    pub(crate) environment: Environment,
    pub(crate) metrics: FrontendMetrics,
    pub(crate) registry: MetricsRegistry,
    pub(crate) sampler: Sampler,
    pub(crate) keys: Keys,
    /// One place per request for a model.
    pub(crate) places: Arc<Semaphore>,
    /// Cancelled when the process takes no new connections.
    pub(crate) draining: CancellationToken,
    /// Cancelled when it takes no new requests either.
    pub(crate) closed: CancellationToken,
    /// When the frontend started, as time since 1970.
    pub(crate) started: Duration,
}

/// Answers one request. Never fails: what goes wrong is an answer, too.
pub(crate) async fn answer(
    app: Arc<App>,
    router: Router,
    mut request: Request<Body>,
) -> Result<Response, Infallible> {
    let (context, span) = request_context(request.headers(), &app.environment, app.sampler);
    let id = id_header(&context.request_id);
    let mut response = match admit(&app, &request) {
        Err(error) => error_response(&error),
        Ok(()) => {
            request.extensions_mut().insert((context, span.clone()));
            let handled = AssertUnwindSafe(router.oneshot(request).instrument(span.clone()));
            match handled.catch_unwind().await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                // The panic's own message is on stderr already.
                Err(_) => error_response(&RequestError::new(
                    ErrorCode::Internal,
                    "the request met a defect of this service",
                )),
            }
        }
    };
    span.record("status", response.status().as_u16());
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    Ok(response)
}

/// Checks that need nothing but the request's head.
fn admit(app: &App, request: &Request<Body>) -> Result<(), RequestError> {
    let headers = request.headers();
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    if size > app.options.http_header_limit.as_usize()
        || headers.len() > app.options.http_max_headers
    {
        return Err(RequestError::new(
            ErrorCode::HeadersTooLarge,
            format!(
                "the headers may have at most {} bytes and {} fields",
                app.options.http_header_limit.as_usize(),
                app.options.http_max_headers
            ),
        ));
    }
    if is_open(request.uri().path()) {
        return Ok(());
    }
    app.keys.check(headers)
}
