//! Export of finished spans to a collector: OTLP over plain HTTP/1.1, protobuf body.
//!
//! Spans that end go into a bounded queue; one task sends them in batches. Nothing waits for
//! the collector: what does not fit, or is not taken at the first attempt, is dropped and
//! counted. A batch that is sent again later costs memory just when the network is in trouble.
//! TLS is left to a collector on the same machine.

use super::otlp_encode::{FinishedSpan, Resource, request};
use super::spans::Facts;
use super::{OtlpOptions, TelemetryError};
use crate::environment::{Network, WallClock};
use crate::{Environment, Tasks};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::span::{Attributes, Id};
use tracing::{Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait to be sent: OpenTelemetry's own default. At about 1 kB a span the queue
/// stays within a few megabytes.
const QUEUED_SPANS: usize = 2048;

/// Spans in one request: OpenTelemetry's own default.
const BATCH_SPANS: usize = 512;

/// How long a span waits for others: OpenTelemetry's own default.
const EXPORT_INTERVAL: Duration = Duration::from_secs(5);

/// How long a collector may take for one batch: as long as the next one takes to come together.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the last batches may take together when the process ends. Short beside the time in
/// which supervisors kill (30 s), as draining comes before it.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Path of the traces service below a collector's base URL.
const TRACES_PATH: &str = "/v1/traces";

/// The way from spans that end to the exporter.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    sender: mpsc::Sender<FinishedSpan>,
    dropped: Arc<AtomicU64>,
}

/// The layer that queues spans when they end.
#[derive(Debug)]
pub(super) struct SpanExport {
    queue: Option<Queue>,
    clock: Arc<dyn WallClock>,
}

/// When a span began, in nanoseconds since the Unix epoch.
#[derive(Debug)]
struct Began(u64);

/// The task that sends batches.
#[derive(Debug)]
pub(super) struct Exporter {
    tasks: Tasks,
}

/// Where batches go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    /// `host:port` to connect to, and the `Host` header.
    authority: String,
    path: String,
}

/// The exporter's task from within.
struct Sending {
    network: Arc<dyn Network>,
    target: Target,
    resource: Resource,
    queue: mpsc::Receiver<FinishedSpan>,
    dropped: Arc<AtomicU64>,
    failing: bool,
}

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("collector cannot be reached")]
    Connect(#[source] std::io::Error),
    #[error("collector does not speak HTTP")]
    Http(#[from] hyper::Error),
    #[error("request cannot be made")]
    Request(#[from] hyper::http::Error),
    #[error("collector answered {0}")]
    Refused(StatusCode),
    #[error("collector took too long")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("collector closed the connection")]
    Closed,
}

// === impl SpanExport ===

impl SpanExport {
    /// Queues spans that end.
    pub(super) fn to(queue: Queue, environment: &Environment) -> Self {
        Self {
            queue: Some(queue),
            clock: Arc::clone(&environment.clock),
        }
    }

    /// Does nothing.
    pub(super) fn none(environment: &Environment) -> Self {
        Self {
            queue: None,
            clock: Arc::clone(&environment.clock),
        }
    }

    fn now(&self) -> u64 {
        // Good until the year 2554.
        u64::try_from(self.clock.unix_time().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<S> Layer<S> for SpanExport
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // More detail than `info` is for logs.
        if self.queue.is_none() || *attributes.metadata().level() > Level::INFO {
            return;
        }
        let Some(span) = context.span(id) else { return };
        let sampled = span
            .extensions()
            .get::<Facts>()
            .and_then(|facts| facts.place)
            .is_some_and(|place| place.sampled);
        if sampled {
            span.extensions_mut().insert(Began(self.now()));
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let (Some(queue), Some(span)) = (&self.queue, context.span(&id)) else {
            return;
        };
        let extensions = span.extensions();
        let (Some(Began(start)), Some(facts)) =
            (extensions.get::<Began>(), extensions.get::<Facts>())
        else {
            return;
        };
        let Some(place) = facts.place else { return };
        queue.push(FinishedSpan {
            name: span.name().into(),
            place,
            start: *start,
            // The wall clock may have been set back meanwhile.
            end: self.now().max(*start),
            attributes: facts.fields.clone(),
            events: Vec::new(),
            status: None,
        });
    }
}

// === impl Queue ===

impl Queue {
    pub(super) fn push(&self, span: FinishedSpan) {
        if self.sender.try_send(span).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// === impl Exporter ===

impl Exporter {
    /// Starts the task, on a tree of its own: it outlives what it reports on.
    pub(super) fn start(
        options: &OtlpOptions,
        environment: &Environment,
    ) -> Result<(Queue, Self), TelemetryError> {
        let target = Target::parse(&options.endpoint)?;
        let ratio = options.sample_ratio;
        if !(0.0..=1.0).contains(&ratio) {
            return Err(TelemetryError::SampleRatio { ratio });
        }
        tokio::runtime::Handle::try_current().map_err(|_| TelemetryError::NoRuntime)?;
        let (sender, receiver) = mpsc::channel(QUEUED_SPANS);
        let dropped = Arc::new(AtomicU64::new(0));
        let sending = Sending {
            network: Arc::clone(&environment.network),
            target,
            resource: Resource {
                service_name: options.service_name.clone(),
            },
            queue: receiver,
            dropped: Arc::clone(&dropped),
            failing: false,
        };
        let tasks = Tasks::root();
        let stop = tasks.cancellation().clone();
        tasks.spawn("trace export", async move {
            tokio::select! {
                biased;
                () = sending.run(&stop) => {}
                () = too_late(&stop) => {
                    tracing::warn!("traces could not all be exported before the end");
                }
            }
        });
        Ok((Queue { sender, dropped }, Self { tasks }))
    }

    /// Sends what is queued, for as long as [`FLUSH_TIMEOUT`] allows, and ends the task.
    pub(super) async fn stop(self) {
        self.tasks.stop().await;
    }
}

// === impl Sending ===

impl Sending {
    async fn run(mut self, stop: &CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH_SPANS);
        loop {
            let ended = stop
                .run_until_cancelled(collect(&mut self.queue, &mut batch))
                .await;
            match ended {
                Some(true) => self.send(&mut batch).await,
                Some(false) | None => break,
            }
        }
        self.flush(batch).await;
    }

    /// Sends what is left.
    async fn flush(mut self, mut batch: Vec<FinishedSpan>) {
        self.queue.close();
        loop {
            while batch.len() < BATCH_SPANS
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            self.send(&mut batch).await;
        }
    }

    /// Sends a batch once and empties it. The log tells when that begins to fail and when it
    /// works again, not each time.
    async fn send(&mut self, batch: &mut Vec<FinishedSpan>) {
        let body = Bytes::from(request(&self.resource, batch));
        let spans = batch.len();
        batch.clear();
        let sent = timeout(EXPORT_TIMEOUT, self.post(body)).await;
        match sent.map_err(ExportError::from).flatten() {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("trace export works again");
            }
            Ok(()) => {}
            Err(error) => {
                self.dropped.fetch_add(spans as u64, Ordering::Relaxed);
                if !self.failing {
                    self.failing = true;
                    let error: &dyn std::error::Error = &error;
                    tracing::warn!(error, collector = %self.target.authority, "trace export fails");
                }
            }
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::debug!(dropped, "spans were not exported");
        }
    }

    async fn post(&self, body: Bytes) -> Result<(), ExportError> {
        let stream = self.network.connect(&self.target.authority).await;
        let stream = TokioIo::new(stream.map_err(ExportError::Connect)?);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
        let request = hyper::Request::post(&self.target.path)
            .header(HOST, &self.target.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(body))?;
        let answer = tokio::select! {
            biased;
            answer = sender.send_request(request) => answer?,
            ended = connection => {
                ended?;
                return Err(ExportError::Closed);
            }
        };
        if answer.status().is_success() {
            Ok(())
        } else {
            Err(ExportError::Refused(answer.status()))
        }
    }
}

/// Resolves when the end has been waited for long enough.
async fn too_late(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(FLUSH_TIMEOUT).await;
}

/// Fills a batch: waits for a first span, then for more until the batch is full or the interval
/// is over. False when no more will come. Cancelled, it leaves what it has in the batch.
async fn collect(queue: &mut mpsc::Receiver<FinishedSpan>, batch: &mut Vec<FinishedSpan>) -> bool {
    if queue.recv_many(batch, BATCH_SPANS).await == 0 {
        return false;
    }
    let until = Instant::now() + EXPORT_INTERVAL;
    while batch.len() < BATCH_SPANS {
        let more = queue.recv_many(batch, BATCH_SPANS - batch.len());
        match tokio::time::timeout_at(until, more).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}

// === impl Target ===

impl Target {
    fn parse(endpoint: &str) -> Result<Self, TelemetryError> {
        let wrong = |reason| TelemetryError::Endpoint {
            endpoint: endpoint.to_owned(),
            reason,
        };
        let uri: Uri = endpoint.parse().map_err(|_| wrong("it is not a URL"))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(wrong("https is not supported")),
            _ => return Err(wrong("it does not begin with http://")),
        }
        let host = uri.host().ok_or_else(|| wrong("it has no host"))?;
        if uri.query().is_some() {
            return Err(wrong("it has a query"));
        }
        let base = uri.path().trim_end_matches('/');
        let path = match base.strip_suffix(TRACES_PATH) {
            Some(_) => base.to_owned(),
            None => format!("{base}{TRACES_PATH}"),
        };
        Ok(Self {
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            path,
        })
    }
}

#[cfg(test)]
mod tests;
