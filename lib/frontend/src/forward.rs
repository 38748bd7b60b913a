//! Requests that servers answer: passed on as they are, and their answers too.
//!
//! What is this service's own about them: limits, keys, ids, deadlines, metrics, and the error of
//! an answer that does not come to its end.

use crate::error::error_response;
use crate::exchange::Exchange;
use crate::metrics::{NO_MODEL, RequestMetrics};
use crate::route_headers::stamp;
use crate::service::App;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use bytes::Bytes;
use dynamo_backends::inquiry::Gist;
use dynamo_backends::{Answer, AnswerBody, AnswerFacts, AnswerStream, Backends, Inquiry};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::{Usage, stream};
use futures_core::Stream;
use futures_util::StreamExt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::{Sleep, sleep_until};

/// The body of an answer on its way, with what it holds on to until it ends.
struct Passing {
    /// `None` once the answer has ended.
    running: Option<Running>,
}

struct Running {
    exchange: Exchange,
    answer: Box<AnswerStream>,
    metrics: RequestMetrics,
    deadline: Pin<Box<Sleep>>,
}

pub(crate) async fn forward(State(app): State<Arc<App>>, request: Request) -> Response {
    let Some(backends) = app.backends.clone() else {
        return error_response(&RequestError::new(
            ErrorCode::Internal,
            "there is no server to pass the request on to",
        ));
    };
    let uri = request.uri();
    let endpoint = endpoint(uri.path());
    let path = uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let headers = request.headers().clone();
    let (exchange, body) = match Exchange::begin(app, endpoint, request).await {
        Ok(begun) => begun,
        Err(response) => return response,
    };
    let inquiry = Inquiry {
        path,
        headers,
        body: Bytes::from(body),
        context: exchange.context.clone(),
        peek: exchange.app.options.http_error_peek,
    };
    pass(exchange, &backends, &inquiry).await
}

async fn pass(mut exchange: Exchange, backends: &Backends, inquiry: &Inquiry) -> Response {
    let gist = match Gist::read(&inquiry.body) {
        Ok(gist) => gist,
        Err(error) => return exchange.refuse(&error),
    };
    exchange.kind.stream = gist.is_stream();
    let app = &exchange.app;
    let model = gist
        .model
        .as_deref()
        .and_then(|name| app.models.find(name).ok());
    // A name that nobody serves is no label: clients may send any.
    let label = model.as_ref().map_or(NO_MODEL, |model| &model.card.name);
    exchange.span.record("model", label);
    let mut metrics = app.metrics.begin(exchange.kind, label, exchange.began);
    let model = model.map(|model| metrics.measured(&model));
    let slip = |hints| exchange.routed_context(hints).route;
    let answered = exchange
        .in_time(backends.ask(inquiry, &gist, model.as_ref(), &slip))
        .await;
    match answered {
        Ok(answer) => respond(exchange, answer, metrics),
        Err(error) => {
            exchange.span.record("error", error.code.as_str());
            metrics.fail(&error);
            error_response(&error)
        }
    }
}

fn respond(exchange: Exchange, answer: Answer, mut metrics: RequestMetrics) -> Response {
    let routed = exchange.routed();
    let Answer {
        status,
        headers,
        body,
    } = answer;
    let body = match body {
        AnswerBody::Whole(bytes, facts) => {
            metrics.output(1);
            conclude(&mut metrics, facts);
            Body::from(bytes)
        }
        AnswerBody::Stream(answer) => Body::from_stream(Passing {
            running: Some(Running {
                deadline: Box::pin(sleep_until(exchange.deadline)),
                exchange,
                answer,
                metrics,
            }),
        }),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    stamp(&mut response, routed);
    response
}

fn conclude(metrics: &mut RequestMetrics, facts: AnswerFacts) {
    let counts = facts.counts;
    let prompt = counts.prompt.unwrap_or(0);
    let completion = counts.completion.unwrap_or(facts.events);
    let cached = counts.cached.unwrap_or(0);
    metrics.usage(Usage::new(prompt, completion, cached));
    metrics.succeed();
}

/// The label of a path.
fn endpoint(path: &str) -> &'static str {
    match path {
        "/v1/chat/completions" => "chat_completions",
        "/v1/completions" => "completions",
        "/v1/embeddings" => "embeddings",
        "/v1/responses" => "responses",
        _ => "other",
    }
}

impl Running {
    /// The last bytes of an answer that failed.
    fn fail(mut self, error: &RequestError) -> io::Result<Bytes> {
        self.exchange.span.record("error", error.code.as_str());
        self.metrics.fail(error);
        if !self.answer.is_events() {
            // Half a document has no place for an error: the connection is cut.
            return Err(io::Error::other(error.clone()));
        }
        let mut out = Vec::new();
        if self.answer.is_mid_event() {
            out.extend_from_slice(b"\n\n");
        }
        stream::error(&mut out, error);
        Ok(out.into())
    }
}

impl Stream for Passing {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(running) = &mut self.running else {
            return Poll::Ready(None);
        };
        let failed = match running.answer.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(piece))) => {
                running.metrics.output(piece.events);
                return Poll::Ready(Some(Ok(piece.bytes)));
            }
            Poll::Ready(None) => {
                let facts = running.answer.facts();
                conclude(&mut running.metrics, facts);
                self.running = None;
                return Poll::Ready(None);
            }
            Poll::Ready(Some(Err(error))) => error,
            Poll::Pending => match running.deadline.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) => running.exchange.too_late(),
            },
        };
        Poll::Ready(self.running.take().map(|running| running.fail(&failed)))
    }
}
