//! What the process tells about itself: log lines, traces and metrics.
//!
//! [`init`] installs one subscriber per process. Logs go to standard error, as text for people
//! or as JSON lines; traces are exported over OTLP only where an endpoint is given. Metrics are
//! in [`metrics`]. Nothing here decides anything that a request can notice: telemetry that
//! cannot keep up is dropped and counted, never waited for.

pub mod endpoint_metrics;
pub mod metrics;
pub mod own_labels;
pub mod process_metrics;
pub mod recorder;
pub mod spans;
pub mod trace_context;

mod log;
mod otlp;
mod otlp_encode;
#[cfg(test)]
mod tests;

pub use endpoint_metrics::{EndpointMetrics, ErrorType};
pub use metrics::{MetricsError, MetricsRegistry};
pub use own_labels::{OwnLabels, OwnLabelsError};
pub use recorder::{OpenSpan, SpanRecorder};
pub use trace_context::{Sampler, TraceContext};

use crate::Environment;
use crate::config::{LogFormat, RuntimeOptions};
use crate::telemetry::log::{JsonLines, LogFilter};
use crate::telemetry::otlp::{Exporter, SpanExport};
use crate::telemetry::spans::SpanFacts;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry};

/// What to tell, and to whom.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryOptions {
    /// What to log, in the syntax of `RUST_LOG`; empty means `info`.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Whether readable lines may be coloured: standard error is a terminal.
    pub colour: bool,
    /// Where traces go, if anywhere.
    pub otlp: Option<OtlpOptions>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpOptions {
    /// Base URL of the collector, such as `http://127.0.0.1:4318`; `/v1/traces` is added where
    /// it is not there.
    pub endpoint: String,
    /// What the traces are of.
    pub service_name: String,
    /// The share of the traces beginning here that is recorded, from 0 to 1.
    pub sample_ratio: f64,
}

/// Why telemetry does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The log filter cannot be read.
    #[error(
        "log filter `{filter}` cannot be read; give a level (`error`, `warn`, `info`, `debug`, \
         `trace`, `off`) or a list such as `info,dynamo_runtime=debug` in --log-level or DYN_LOG"
    )]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The address for traces cannot be used.
    #[error(
        "trace endpoint `{endpoint}` cannot be used ({reason}); give --otel-endpoint the address of \
         an OTLP/HTTP collector such as `http://127.0.0.1:4318`"
    )]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The share of recorded traces is no share.
    #[error("trace sample ratio {ratio} is not between 0 and 1")]
    SampleRatio {
        /// The ratio.
        ratio: f64,
    },
    /// Traces are to be exported and there is no runtime to do it on.
    #[error("trace export was started outside of an async runtime")]
    NoRuntime,
    /// The process has a subscriber already.
    #[error("telemetry was initialised before in this process")]
    AlreadyInitialised,
}

/// Keeps telemetry going; [`TelemetryGuard::shutdown`] sends what is left.
#[derive(Debug)]
#[must_use = "traces that are not sent yet are lost with the guard"]
pub struct TelemetryGuard {
    exporter: Option<Exporter>,
    sampler: Sampler,
    recorder: SpanRecorder,
}

// === impl TelemetryOptions ===

impl TelemetryOptions {
    /// The part of the runtime's options that is about telemetry; whether standard error is a
    /// terminal is for the binary to find out.
    pub fn new(options: &RuntimeOptions, stderr_is_terminal: bool) -> Self {
        Self {
            log: options.log_level.clone(),
            log_format: options.log_format,
            colour: stderr_is_terminal,
            otlp: options.otel_export.then(|| OtlpOptions {
                endpoint: options.otel_endpoint.clone(),
                service_name: options.otel_service_name.clone(),
                sample_ratio: options.otel_sample_ratio,
            }),
        }
    }
}

// === impl TelemetryGuard ===

impl TelemetryGuard {
    /// How traces that begin in this process are sampled: not at all when none are exported.
    pub fn sampler(&self) -> Sampler {
        self.sampler
    }

    /// Records spans that are named while the process runs; none where none are exported.
    pub fn recorder(&self) -> SpanRecorder {
        self.recorder.clone()
    }

    /// Sends the traces that are not sent yet, for no longer than five seconds.
    /// Called after everything that makes spans has ended.
    pub async fn shutdown(self) {
        if let Some(exporter) = self.exporter {
            exporter.stop().await;
        }
    }
}

/// Installs logging, and trace export if it is asked for, for the whole process. With trace
/// export it must be called within the async runtime.
pub fn init(
    options: &TelemetryOptions,
    environment: &Environment,
) -> Result<TelemetryGuard, TelemetryError> {
    let (subscriber, guard) = subscriber(options, environment, std::io::stderr)?;
    tracing::subscriber::set_global_default(subscriber)
        .map_err(|_| TelemetryError::AlreadyInitialised)?;
    Ok(guard)
}

/// What [`init`] installs, with a writer of one's own.
fn subscriber<W>(
    options: &TelemetryOptions,
    environment: &Environment,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + use<W>, TelemetryGuard), TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = LogFilter::parse(&options.log).map_err(|source| TelemetryError::Filter {
        filter: options.log.clone(),
        source,
    })?;
    let (export, guard) = match &options.otlp {
        Some(otlp) => {
            let (queue, exporter) = Exporter::start(otlp, environment)?;
            let guard = TelemetryGuard {
                exporter: Some(exporter),
                sampler: Sampler::ratio(otlp.sample_ratio),
                recorder: SpanRecorder::to(queue.clone(), environment),
            };
            (SpanExport::to(queue, environment), guard)
        }
        None => {
            let guard = TelemetryGuard {
                exporter: None,
                sampler: Sampler::NEVER,
                recorder: SpanRecorder::default(),
            };
            (SpanExport::none(environment), guard)
        }
    };
    // One filter for all: it keeps open every span that is exported.
    let layers = SpanFacts
        .and_then(export)
        .and_then(lines(options, writer))
        .with_filter(filter);
    Ok((Registry::default().with(layers), guard))
}

/// The layer that writes log lines.
fn lines<W>(options: &TelemetryOptions, writer: W) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    match options.log_format {
        LogFormat::Jsonl => JsonLines::new(writer).boxed(),
        LogFormat::Readable => tracing_subscriber::fmt::layer()
            .with_ansi(options.colour)
            .with_writer(writer)
            .boxed(),
    }
}
