//! Log lines: which are written, and how they look.
//!
//! The filter judges events. Spans at `info` and above stay open whatever it says: at `warn` a
//! line still names the trace it belongs to, and traces are exported in full. JSON lines are
//! flat: the fields of the open spans, inner over outer, then the event's own over them.

use super::spans::{Facts, Fields, PARENT_ID, SPAN_ID, TRACE_ID};
use serde_json::{Map, Value};
use std::io::Write as _;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Filter};
use tracing_subscriber::registry::LookupSpan;

/// What is logged when the filter is empty.
pub(super) const DEFAULT_FILTER: &str = "info";

/// The user's filter, for events.
#[derive(Debug)]
pub(super) struct LogFilter(EnvFilter);

/// Writes one JSON object per event.
#[derive(Debug)]
pub(super) struct JsonLines<W> {
    writer: W,
}

// === impl LogFilter ===

impl LogFilter {
    /// Reads a filter in the syntax of `RUST_LOG`.
    pub(super) fn parse(filter: &str) -> Result<Self, ParseError> {
        let filter = match filter.trim() {
            "" => DEFAULT_FILTER,
            filter => filter,
        };
        EnvFilter::builder().parse(filter).map(Self)
    }
}

/// Whether a span stays open whatever the filter says.
fn kept_open(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && *metadata.level() <= Level::INFO
}

impl<S> Filter<S> for LogFilter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        kept_open(metadata) || Filter::enabled(&self.0, metadata, context)
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        // Asked in any case: the filter learns here which spans its directives speak of.
        let interest = Filter::<S>::callsite_enabled(&self.0, metadata);
        if kept_open(metadata) {
            Interest::always()
        } else {
            interest
        }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.0).map(|hint| hint.max(LevelFilter::INFO))
    }

    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        Filter::on_new_span(&self.0, attributes, id, context);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        Filter::on_record(&self.0, id, values, context);
    }

    fn on_enter(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_enter(&self.0, id, context);
    }

    fn on_exit(&self, id: &Id, context: Context<'_, S>) {
        Filter::on_exit(&self.0, id, context);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        Filter::on_close(&self.0, id, context);
    }
}

// === impl JsonLines ===

impl<W> JsonLines<W> {
    /// Lines go to `writer`, each in one write.
    pub(super) fn new(writer: W) -> Self {
        Self { writer }
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Value::Object(line(event, &context)).to_string();
        line.push('\n');
        // There is nowhere left to say that the log cannot be written.
        drop(self.writer.make_writer().write_all(line.as_bytes()));
    }
}

fn line<S>(event: &Event<'_>, context: &Context<'_, S>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let metadata = event.metadata();
    let mut own = Fields::default();
    event.record(&mut own);
    let mut line = Map::new();
    line.insert("time".to_owned(), now().into());
    line.insert("level".to_owned(), metadata.level().as_str().into());
    line.insert("target".to_owned(), metadata.target().into());
    if let (Some(file), Some(number)) = (metadata.file(), metadata.line()) {
        line.insert("file".to_owned(), file.into());
        line.insert("line".to_owned(), number.into());
    }
    let message = own.0.shift_remove("message").unwrap_or_default();
    line.insert("message".to_owned(), message);
    add_spans(&mut line, event, context);
    for (name, value) in own.0 {
        // What every line has keeps its meaning.
        line.insert(free_name(name), value);
    }
    line
}

/// Adds the fields of the spans that the event is in, and the place of the innermost.
fn add_spans<S>(line: &mut Map<String, Value>, event: &Event<'_>, context: &Context<'_, S>)
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let Some(scope) = context.event_scope(event) else {
        return;
    };
    for span in scope.from_root() {
        line.insert("span_name".to_owned(), span.name().into());
        let extensions = span.extensions();
        let Some(facts) = extensions.get::<Facts>() else {
            continue;
        };
        if let Some(place) = &facts.place {
            line.insert(TRACE_ID.to_owned(), place.trace_id.to_string().into());
            line.insert(SPAN_ID.to_owned(), place.span_id.to_string().into());
            match place.parent_id {
                Some(parent) => line.insert(PARENT_ID.to_owned(), parent.to_string().into()),
                None => line.shift_remove(PARENT_ID),
            };
        }
        for (name, value) in &facts.fields {
            line.insert(free_name(name.clone()), value.clone());
        }
    }
}

/// The name under which a field is written: `time` and its like are taken.
fn free_name(name: String) -> String {
    match name.as_str() {
        "time" | "level" | "target" | "file" | "line" | "message" | "span_name" => {
            format!("field_{name}")
        }
        _ => name,
    }
}

fn now() -> String {
    let mut text = String::new();
    // A string takes any text, and the system's clock always has one.
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}
