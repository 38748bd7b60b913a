//! Completions of models whose workers take requests as they are.
//!
//! The body goes to a worker unread but for what routing and the answer's form need; its chunks go to
//! the client unchanged. Limits, keys, ids, deadlines, metrics and errors are those of every request.

use crate::completions::failed;
use crate::error::json_response;
use crate::events::{EVENT_BYTES, FRAME_BYTES, sse_response};
use crate::exchange::Exchange;
use crate::metrics::RequestMetrics;
use crate::route_headers::stamp;
use axum::http::StatusCode;
use axum::response::Response;
use bytes::Bytes;
use dynamo_llm::model::ServedModel;
use dynamo_llm::text::{TextAnswer, TextChunk, check};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::openai::gist::Gist;
use dynamo_protocols::openai::stream::{self, Api};
use dynamo_protocols::routing::RouteHints;
use futures_core::Stream;
use futures_util::StreamExt;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::{Sleep, sleep_until, timeout};

/// The events of one answer; `None` once it has ended.
struct TextEvents(Option<Running>);

/// What an answer holds on to until it ends.
struct Running {
    exchange: Exchange,
    answer: TextAnswer,
    first: Option<TextChunk>,
    metrics: RequestMetrics,
    deadline: Pin<Box<Sleep>>,
}

/// The model of a body that token models do not take, if its workers take text.
pub(crate) async fn model_of(
    exchange: &Exchange,
    api: Api,
    body: &[u8],
) -> Option<Arc<ServedModel>> {
    let gist = Gist::read(api, body).ok()?;
    let model = exchange.find_model(&gist.model).await.ok()?;
    (!model.card.input.is_tokens()).then_some(model)
}

/// Answers a request for a model whose workers take text.
pub(crate) async fn respond(
    mut exchange: Exchange,
    api: Api,
    body: Vec<u8>,
    model: Arc<ServedModel>,
) -> Response {
    let checked = check(&model, api, &body).and_then(|gist| Ok((gist, text(body)?)));
    let (gist, body) = match checked {
        Ok(checked) => checked,
        Err(error) => return exchange.refuse(&error),
    };
    exchange.kind.stream = gist.is_stream;
    exchange.span.record("model", gist.model.as_str());
    let metrics = &exchange.app.metrics;
    let mut metrics = metrics.begin(exchange.kind, &gist.model, exchange.began);
    metrics.prepared(None);
    let context = exchange.routed_context(RouteHints::default());
    let starting = TextAnswer::start(&model, api, body, context);
    match gist.is_stream {
        true => streamed(exchange, starting, metrics).await,
        false => whole(exchange, starting, metrics).await,
    }
}

/// Answers when the answer is complete.
async fn whole(
    exchange: Exchange,
    starting: impl Future<Output = Result<TextAnswer, RequestError>>,
    mut metrics: RequestMetrics,
) -> Response {
    let folded = exchange
        .in_time(async { starting.await?.fold(|| metrics.output(1)).await })
        .await;
    match folded {
        Ok(folded) => {
            metrics.usage(folded.usage);
            metrics.succeed();
            let mut response = json_response(StatusCode::OK, &folded.body);
            stamp(&mut response, exchange.routed());
            response
        }
        Err(error) => failed(&exchange, &mut metrics, &error),
    }
}

/// Answers as the answer is made. Its head waits a moment for the first chunk: what fails early is
/// a status.
async fn streamed(
    exchange: Exchange,
    starting: impl Future<Output = Result<TextAnswer, RequestError>>,
    mut metrics: RequestMetrics,
) -> Response {
    let peek = exchange.app.options.http_error_peek;
    let started = exchange
        .in_time(async {
            let mut answer = starting.await?;
            let first = match timeout(peek, answer.next()).await {
                Ok(first) => first.transpose()?,
                Err(_) => None,
            };
            Ok((answer, first))
        })
        .await;
    match started {
        Ok((answer, first)) => {
            let routed = exchange.routed();
            let mut response = sse_response(TextEvents(Some(Running {
                deadline: Box::pin(sleep_until(exchange.deadline)),
                exchange,
                answer,
                first,
                metrics,
            })));
            stamp(&mut response, routed);
            response
        }
        Err(error) => failed(&exchange, &mut metrics, &error),
    }
}

/// The body as text; its reader has seen that it is.
pub(crate) fn text(body: Vec<u8>) -> Result<String, RequestError> {
    String::from_utf8(body)
        .map_err(|_| RequestError::new(ErrorCode::InvalidJson, "the body is not UTF-8"))
}

impl Running {
    /// Writes what is ready. `Ready` means that the answer has ended.
    fn write(&mut self, cx: &mut Context<'_>, out: &mut Vec<u8>) -> Poll<()> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            let error = self.exchange.too_late();
            return self.fail(out, &error);
        }
        while out.len() < FRAME_BYTES {
            let next = match self.first.take() {
                Some(first) => Some(Ok(first)),
                None => ready!(self.answer.poll_next_unpin(cx)),
            };
            match next {
                Some(Ok(chunk)) => {
                    self.metrics.output(u32::from(chunk.is_content));
                    stream::passed_on(out, &chunk.json);
                }
                Some(Err(error)) => return self.fail(out, &error),
                None => {
                    stream::done(out);
                    self.metrics.usage(self.answer.usage());
                    self.metrics.succeed();
                    return Poll::Ready(());
                }
            }
        }
        // Whoever takes this asks again.
        Poll::Pending
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &RequestError) -> Poll<()> {
        stream::error(out, error);
        self.exchange.span.record("error", error.code.as_str());
        self.metrics.usage(self.answer.usage());
        self.metrics.fail(error);
        Poll::Ready(())
    }
}

impl Stream for TextEvents {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(running) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let mut out = Vec::with_capacity(EVENT_BYTES);
        if running.write(cx, &mut out).is_ready() {
            self.0 = None;
        }
        match out.is_empty() {
            true => Poll::Pending,
            false => Poll::Ready(Some(Ok(out.into()))),
        }
    }
}
