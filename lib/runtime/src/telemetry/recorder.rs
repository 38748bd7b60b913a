//! Spans that are named while the process runs: those of workers' own code.
//!
//! Spans of this process are `tracing`'s, whose names and fields are known when it is compiled. What
//! a program in another language calls its spans is not, so that these go to the exporter themselves.
//!
//! Invariants
//! - A span of a trace that is not recorded costs nothing but the question.
//! - What one span holds is bounded; what does not fit is left out.

use super::otlp::Queue;
use super::otlp_encode::{FinishedSpan, SpanEvent};
use super::spans::Place;
use super::trace_context::{SpanId, Traceparent};
use crate::Environment;
use crate::environment::{RandomSource, WallClock};
use serde_json::{Map, Value};
use std::sync::Arc;

pub use super::otlp_encode::SpanStatus;

/// Attributes of a span or of an event: OpenTelemetry's own default.
const MAX_ATTRIBUTES: usize = 128;

/// Events of a span: OpenTelemetry's own default.
const MAX_EVENTS: usize = 128;

/// Bytes of a name or a text: a sentence or two, not a prompt.
const MAX_TEXT: usize = 4_096;

/// Makes spans, where spans are exported. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SpanRecorder(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    queue: Queue,
    clock: Arc<dyn WallClock>,
    random: Arc<dyn RandomSource>,
}

/// A span that has begun. It is exported when it is closed, or dropped.
#[derive(Debug)]
pub struct OpenSpan {
    recording: Arc<Recording>,
    /// `None` once it is closed.
    span: Option<FinishedSpan>,
}

impl SpanRecorder {
    pub(super) fn to(queue: Queue, environment: &Environment) -> Self {
        Self(Some(Arc::new(Recording {
            queue,
            clock: Arc::clone(&environment.clock),
            random: Arc::clone(&environment.random),
        })))
    }

    /// Begins a span below the one that `traceparent` names; none if its trace is not recorded.
    pub fn start(&self, traceparent: &str, name: &str) -> Option<OpenSpan> {
        let recording = self.0.as_ref()?;
        let parent = Traceparent::parse(traceparent).filter(Traceparent::sampled)?;
        let start = recording.now();
        let span = FinishedSpan {
            name: cut(name).into(),
            place: Place {
                trace_id: parent.trace_id,
                span_id: SpanId::from_bits(recording.random.next_u64()),
                parent_id: Some(parent.span_id),
                sampled: true,
                border: false,
            },
            start,
            end: start,
            attributes: Map::new(),
            events: Vec::new(),
            status: None,
        };
        Some(OpenSpan {
            recording: Arc::clone(recording),
            span: Some(span),
        })
    }
}

impl Recording {
    fn now(&self) -> u64 {
        u64::try_from(self.clock.unix_time().as_nanos()).unwrap_or(u64::MAX)
    }
}

impl OpenSpan {
    /// What names it to those below it.
    pub fn traceparent(&self) -> Option<String> {
        let place = self.span.as_ref()?.place;
        Some(format!("00-{}-{}-01", place.trace_id, place.span_id))
    }

    /// Sets an attribute.
    pub fn set_attribute(&mut self, key: &str, value: Value) {
        if let Some(span) = &mut self.span {
            put(&mut span.attributes, key, value);
        }
    }

    /// Adds something that happens now.
    pub fn add_event(&mut self, name: &str, attributes: Map<String, Value>) {
        let at = self.recording.now();
        if let Some(span) = self.span.as_mut().filter(|it| it.events.len() < MAX_EVENTS) {
            let mut kept = Map::new();
            for (key, value) in attributes {
                put(&mut kept, &key, value);
            }
            span.events.push(SpanEvent {
                name: cut(name),
                at,
                attributes: kept,
            });
        }
    }

    /// Says how it ends.
    pub fn set_status(&mut self, status: SpanStatus) {
        if let Some(span) = &mut self.span {
            span.status = Some(match status {
                SpanStatus::Ok => SpanStatus::Ok,
                SpanStatus::Error(why) => SpanStatus::Error(cut(&why)),
            });
        }
    }

    /// Ends it, once.
    pub fn close(&mut self) {
        if let Some(mut span) = self.span.take() {
            // The wall clock may have been set back meanwhile.
            span.end = self.recording.now().max(span.start);
            self.recording.queue.push(span);
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        self.close();
    }
}

fn put(attributes: &mut Map<String, Value>, key: &str, value: Value) {
    if attributes.len() >= MAX_ATTRIBUTES && !attributes.contains_key(key) {
        return;
    }
    let value = match value {
        Value::String(text) => Value::String(cut(&text)),
        other => other,
    };
    attributes.insert(cut(key), value);
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut attributes = Map::new();
        for number in 0..200 {
            put(&mut attributes, &number.to_string(), number.into());
        }
        assert_eq!(attributes.len(), MAX_ATTRIBUTES);
        put(&mut attributes, "0", "é".repeat(MAX_TEXT).into());
        assert_eq!(attributes["0"].as_str().unwrap().len(), MAX_TEXT);
    }

    #[test]
    fn without_an_exporter_there_are_no_spans() {
        let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(SpanRecorder::default().start(parent, "x").is_none());
    }
}
