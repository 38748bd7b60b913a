//! The body of a streamed answer: deltas in, server-sent events out.
//!
//! What is ready is written into one buffer and handed over as one frame, so that a fast engine
//! costs one write for many tokens and a slow one no delay. The generation, its place and its
//! metrics live here: a connection that goes away drops them all.

use crate::exchange::Exchange;
use crate::metrics::RequestMetrics;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use dynamo_llm::postprocess::{ChoiceDelta, Generation};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::stream::{self, ChunkWriter, Delta};
use futures_core::Stream;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::{Sleep, sleep_until};

/// A frame is handed over when it has this many bytes, even if more is ready: enough for dozens
/// of tokens per write, little enough not to hold many streams' text twice.
pub(crate) const FRAME_BYTES: usize = 8 * 1024;

/// Room for a typical event, to begin with.
pub(crate) const EVENT_BYTES: usize = 512;

/// The events of one answer.
pub(crate) struct Events {
    writer: ChunkWriter,
    /// `None` once the answer has ended.
    running: Option<Running>,
}

/// What an answer holds on to until it ends.
struct Running {
    exchange: Exchange,
    generation: Generation,
    first: Option<ChoiceDelta>,
    opened: bool,
    metrics: RequestMetrics,
    deadline: Pin<Box<Sleep>>,
}

/// The response that carries the events.
pub(crate) fn sse_response(
    events: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Proxies that buffer would turn a stream into a wait.
    headers.insert(
        HeaderName::from_static("x-accel-buffering"),
        HeaderValue::from_static("no"),
    );
    response
}

impl Events {
    pub(crate) fn new(
        exchange: Exchange,
        generation: Generation,
        first: Option<ChoiceDelta>,
        writer: ChunkWriter,
        metrics: RequestMetrics,
    ) -> Self {
        Self {
            writer,
            running: Some(Running {
                deadline: Box::pin(sleep_until(exchange.deadline)),
                exchange,
                generation,
                first,
                opened: false,
                metrics,
            }),
        }
    }
}

impl Running {
    /// Writes what is ready. `Ready` means that the answer has ended.
    fn write(&mut self, cx: &mut Context<'_>, writer: &ChunkWriter, out: &mut Vec<u8>) -> Poll<()> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            let error = self.exchange.too_late();
            return self.fail(out, &error);
        }
        if !self.opened {
            self.opened = true;
            for index in (0..).take(self.generation.choices()) {
                writer.open(out, index);
            }
        }
        while out.len() < FRAME_BYTES {
            let next = match self.first.take() {
                Some(first) => Poll::Ready(Some(Ok(first))),
                None => Pin::new(&mut self.generation).poll_next(cx),
            };
            match next {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(delta))) => {
                    self.metrics.output(delta.tokens);
                    write_delta(writer, out, &delta);
                }
                Poll::Ready(Some(Err(error))) => return self.fail(out, &error),
                Poll::Ready(None) => {
                    let usage = self.generation.usage();
                    writer.usage(out, &usage);
                    stream::done(out);
                    self.metrics.usage(usage);
                    self.metrics.succeed();
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    fn fail(&mut self, out: &mut Vec<u8>, error: &RequestError) -> Poll<()> {
        stream::error(out, error);
        let span = &self.exchange.span;
        span.record("error", error.code.as_str());
        self.metrics.usage(self.generation.usage());
        self.metrics.fail(error);
        Poll::Ready(())
    }
}

fn write_delta(writer: &ChunkWriter, out: &mut Vec<u8>, delta: &ChoiceDelta) {
    let logprobs = delta.logprobs.as_deref().filter(|list| !list.is_empty());
    // Text that is withheld for now makes no event.
    if delta.text.is_empty() && logprobs.is_none() && delta.finish.is_none() {
        return;
    }
    writer.delta(
        out,
        &Delta {
            index: delta.index,
            text: &delta.text,
            logprobs,
            finish_reason: delta.finish,
            nvext: delta.extra.as_ref(),
        },
    );
}

impl Stream for Events {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(running) = &mut this.running else {
            return Poll::Ready(None);
        };
        let mut out = Vec::with_capacity(EVENT_BYTES);
        if running.write(cx, &this.writer, &mut out).is_ready() {
            this.running = None;
        }
        if out.is_empty() {
            return Poll::Pending;
        }
        Poll::Ready(Some(Ok(out.into())))
    }
}
