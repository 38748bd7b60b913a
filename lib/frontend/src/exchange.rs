//! A request for a model, from its head to the answer's end: its place, its deadline, its id.
//!
//! A place is taken before the body is read, so that memory for bodies is bounded too, and given
//! back when the answer is complete or its client gone.

use crate::body::read_json;
use crate::context::new_id;
use crate::deadline_headers;
use crate::error::error_response;
use crate::metrics::RequestKind;
use crate::route_headers;
use crate::service::App;
use axum::extract::Request;
use axum::response::Response;
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::PreprocessLimits;
use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::routing::{RouteHints, RouteSlip, Routed};
use std::future::Future;
use std::sync::{Arc, OnceLock};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout_at};
use tracing::Span;

/// A request for a model on its way.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) app: Arc<App>,
    pub(crate) context: RequestContext,
    pub(crate) kind: RequestKind,
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    /// Open until the answer has ended.
    pub(crate) span: Span,
    /// What the headers ask of the choice of a worker.
    hints: RouteHints,
    /// That and what the body asks, once it is known, and what was chosen.
    route: OnceLock<Arc<RouteSlip>>,
    _place: OwnedSemaphorePermit,
}

impl Exchange {
    /// Takes a place and reads the body. What fails is counted, and is an answer already.
    pub(crate) async fn begin(
        app: Arc<App>,
        endpoint: &'static str,
        request: Request,
    ) -> Result<(Self, Vec<u8>), Response> {
        let kind = RequestKind {
            endpoint,
            stream: false,
        };
        let metrics = app.metrics.clone();
        Self::admit(app, kind, request).await.map_err(|error| {
            metrics.refused(kind, &error);
            error_response(&error)
        })
    }

    async fn admit(
        app: Arc<App>,
        kind: RequestKind,
        request: Request,
    ) -> Result<(Self, Vec<u8>), RequestError> {
        if app.closed.is_cancelled() {
            return Err(RequestError::new(
                ErrorCode::Draining,
                "this process is stopping and takes no new requests; try again",
            ));
        }
        let place = Arc::clone(&app.places).try_acquire_owned().map_err(|_| {
            RequestError::new(
                ErrorCode::RateLimited,
                format!(
                    "this process serves {} requests at once and has that many; try again shortly",
                    app.options.http_max_requests
                ),
            )
        })?;
        let began = Instant::now();
        let (mut parts, body) = request.into_parts();
        let (context, span) = parts.extensions.remove().unwrap_or_else(|| {
            // Only the service makes requests, and it always says.
            (RequestContext::default(), Span::none())
        });
        let hints = route_headers::route_hints(&parts.headers)?;
        let asked = deadline_headers::deadlines(&parts.headers)?;
        let limit = asked.request.unwrap_or(app.options.http_request_timeout);
        let body = read_json(&parts.headers, body, &app.options).await?;
        let exchange = Self {
            deadline: began + limit,
            context: RequestContext {
                deadlines: asked.parts,
                ..context
            },
            span,
            hints,
            route: OnceLock::new(),
            kind,
            began,
            _place: place,
            app,
        };
        Ok((exchange, body))
    }

    /// The model of this name, once it is here if it is on its way.
    pub(crate) async fn find_model(&self, name: &str) -> Result<Arc<ServedModel>, RequestError> {
        let patience = self.context.deadlines.queue;
        let found = self.app.models.find_ready(name, patience);
        self.in_time(found).await
    }

    /// The answer to a request that failed before its model was known.
    pub(crate) fn refuse(&self, error: &RequestError) -> Response {
        self.app.metrics.refused(self.kind, error);
        error_response(error)
    }

    /// The request's context with what headers and body ask of the choice of a worker.
    pub(crate) fn routed_context(&self, body: RouteHints) -> RequestContext {
        let merged = || route_headers::slip(self.hints.clone(), body);
        RequestContext {
            route: Some(Arc::clone(self.route.get_or_init(merged))),
            ..self.context.clone()
        }
    }

    /// Who serves the request, if somebody was chosen.
    pub(crate) fn routed(&self) -> Option<Routed> {
        self.route.get()?.routed()
    }

    /// Waits for `work` until the request's deadline.
    pub(crate) async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, RequestError>>,
    ) -> Result<T, RequestError> {
        match timeout_at(self.deadline, work).await {
            Ok(done) => done,
            Err(_) => Err(self.too_late()),
        }
    }

    /// The error of the request past its deadline.
    pub(crate) fn too_late(&self) -> RequestError {
        let limit = self.deadline.saturating_duration_since(self.began);
        RequestError::new(
            ErrorCode::RequestTimeout,
            format!(
                "the request took longer than {} seconds; ask for less, or allow more with \
                 --http-request-timeout or the x-dynamo-request-timeout-ms header",
                limit.as_secs_f64()
            ),
        )
    }

    /// The service's bounds on prompts.
    pub(crate) fn limits(&self) -> PreprocessLimits {
        PreprocessLimits {
            max_prompt_tokens: self.app.options.max_prompt_tokens,
        }
    }

    /// An id for the answer, and the time in seconds since 1970.
    pub(crate) fn stamp(&self, prefix: &str) -> (String, u64) {
        let environment = &self.app.environment;
        (
            format!("{prefix}-{}", new_id(environment)),
            environment.clock.unix_time().as_secs(),
        )
    }
}
