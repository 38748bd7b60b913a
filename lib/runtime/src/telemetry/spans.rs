//! Spans at the borders of a process, and what logs and exports know about each span.
//!
//! A span is made from a [`TraceContext`] by one of the constructors here; `SpanFacts` is the
//! layer that reads the ids back from its fields. Spans below it (`route`, `engine`) take part
//! by themselves: their ids are derived from their parent's, so nothing but the border needs
//! random bits. A span that is below no border has fields but no place in a trace.

use super::trace_context::{SpanId, TraceContext, TraceId};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use tracing::Span;
use tracing::field::{Empty, Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Subscriber, info_span};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

/// Fields of the place in a trace; the other fields are attributes.
pub(super) const TRACE_ID: &str = "trace_id";
pub(super) const SPAN_ID: &str = "span_id";
pub(super) const PARENT_ID: &str = "parent_id";
const SAMPLED: &str = "sampled";

/// Where a span stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) trace_id: TraceId,
    pub(super) span_id: SpanId,
    pub(super) parent_id: Option<SpanId>,
    pub(super) sampled: bool,
    /// Whether it was made from a context, and so stands at a border.
    pub(super) border: bool,
}

/// What is known about an open span.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) fields: Map<String, Value>,
    pub(super) place: Option<Place>,
    children: AtomicU64,
}

/// The layer that keeps [`Facts`] for the layers above it.
#[derive(Debug)]
pub(super) struct SpanFacts;

/// Collects fields as JSON values.
#[derive(Debug, Default)]
pub(super) struct Fields(pub(super) Map<String, Value>);

// === constructors ===

/// The span of an HTTP request. `model` and `status` are recorded when they are known, `error`
/// if it fails.
pub fn http_request(context: &TraceContext, request_id: &str) -> Span {
    let span = info_span!(
        "http_request",
        request_id,
        trace_id = %context.trace_id(),
        span_id = %context.span_id(),
        parent_id = Empty,
        sampled = context.sampled(),
        model = Empty,
        status = Empty,
        error = Empty,
    );
    record_parent(&span, context);
    span
}

/// The span of a request that a worker takes from the request plane. `instance_id` and
/// `attempt` are recorded when they are known, `error` if it fails.
pub fn request_plane(context: &TraceContext, request_id: &str, endpoint: &str) -> Span {
    let span = info_span!(
        "request_plane",
        request_id,
        endpoint,
        trace_id = %context.trace_id(),
        span_id = %context.span_id(),
        parent_id = Empty,
        sampled = context.sampled(),
        instance_id = Empty,
        attempt = Empty,
        error = Empty,
    );
    record_parent(&span, context);
    span
}

fn record_parent(span: &Span, context: &TraceContext) {
    if let Some(parent) = context.parent_id() {
        span.record(PARENT_ID, tracing::field::display(parent));
    }
}

// === impl Place ===

impl Place {
    /// Reads the place that a constructor wrote, and takes it out of the fields.
    fn take(fields: &mut Map<String, Value>) -> Option<Self> {
        if !fields.contains_key(TRACE_ID) || !fields.contains_key(SPAN_ID) {
            return None;
        }
        let trace_id = TraceId::parse(fields.shift_remove(TRACE_ID)?.as_str()?)?;
        let span_id = SpanId::parse(fields.shift_remove(SPAN_ID)?.as_str()?)?;
        let sampled = fields.shift_remove(SAMPLED);
        Some(Self {
            trace_id,
            span_id,
            parent_id: None,
            sampled: sampled.is_some_and(|value| value == true),
            border: true,
        })
    }

    /// The place of a parent's next child.
    fn below(parent: &Facts) -> Option<Self> {
        let place = parent.place?;
        let number = parent.children.fetch_add(1, Ordering::Relaxed);
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&place.span_id.to_bytes());
        seed[8..].copy_from_slice(&number.to_be_bytes());
        Some(Self {
            span_id: SpanId::from_bits(xxhash_rust::xxh3::xxh3_64(&seed)),
            parent_id: Some(place.span_id),
            border: false,
            ..place
        })
    }
}

// === impl Facts ===

impl Facts {
    fn add(&mut self, mut fields: Map<String, Value>) {
        if let Some(place) = &mut self.place
            && let Some(parent) = fields.shift_remove(PARENT_ID)
        {
            place.parent_id = parent.as_str().and_then(SpanId::parse);
        }
        self.fields.append(&mut fields);
    }
}

// === impl SpanFacts ===

impl<S> Layer<S> for SpanFacts
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let place = Place::take(&mut fields.0).or_else(|| {
            let parent = span.parent()?;
            Place::below(parent.extensions().get::<Facts>()?)
        });
        span.extensions_mut().insert(Facts {
            fields: fields.0,
            place,
            children: AtomicU64::new(0),
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        values.record(&mut fields);
        if let Some(facts) = span.extensions_mut().get_mut::<Facts>() {
            facts.add(fields.0);
        }
    }
}

// === impl Fields ===

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0
            .insert(field.name().to_owned(), format!("{value:?}").into());
    }
}
