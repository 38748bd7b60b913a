//! Finished spans as an OTLP `ExportTraceServiceRequest` in protobuf.
//!
//! Written out by hand: six messages of the published schema (opentelemetry-proto, trace v1)
//! are less than the crates that would generate them. Field numbers stand beside their names;
//! a test reads the result with the published crate.

use super::spans::Place;
use serde_json::{Map, Value};
use std::borrow::Cow;

/// A span that has ended.
#[derive(Debug, Clone)]
pub(super) struct FinishedSpan {
    pub(super) name: Cow<'static, str>,
    pub(super) place: Place,
    /// Nanoseconds since the Unix epoch.
    pub(super) start: u64,
    /// Nanoseconds since the Unix epoch.
    pub(super) end: u64,
    pub(super) attributes: Map<String, Value>,
    pub(super) events: Vec<SpanEvent>,
    /// How it ended, where that was said; an attribute `error` says it, too.
    pub(super) status: Option<SpanStatus>,
}

/// Something that happened within a span.
#[derive(Debug, Clone)]
pub(super) struct SpanEvent {
    pub(super) name: String,
    /// Nanoseconds since the Unix epoch.
    pub(super) at: u64,
    pub(super) attributes: Map<String, Value>,
}

/// How a span ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpanStatus {
    /// Well.
    Ok,
    /// Not well, and why.
    Error(String),
}

/// Who the spans are of.
#[derive(Debug)]
pub(super) struct Resource {
    pub(super) service_name: String,
}

/// Name of the instrumentation scope.
const SCOPE: &str = "dynamo";

/// `Span.kind`.
const KIND_INTERNAL: u64 = 1;
const KIND_SERVER: u64 = 2;

/// `Status.code`.
const STATUS_OK: u64 = 1;
const STATUS_ERROR: u64 = 2;

/// The field that says that a span failed.
const ERROR: &str = "error";

/// A protobuf message being written.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

/// The body of an export request.
pub(super) fn request(resource: &Resource, spans: &[FinishedSpan]) -> Vec<u8> {
    let mut scope_spans = Message::default();
    scope_spans.message(1, &scope()); // ScopeSpans.scope
    for span in spans {
        scope_spans.message(2, &encode_span(span)); // ScopeSpans.spans
    }
    let mut of_resource = Message::default();
    of_resource.message(1, &encode_resource(resource)); // ResourceSpans.resource
    of_resource.message(2, &scope_spans); // ResourceSpans.scope_spans
    let mut request = Message::default();
    request.message(1, &of_resource); // ExportTraceServiceRequest.resource_spans
    request.0
}

fn scope() -> Message {
    let mut scope = Message::default();
    scope.string(1, SCOPE); // InstrumentationScope.name
    scope.string(2, env!("CARGO_PKG_VERSION")); // InstrumentationScope.version
    scope
}

fn encode_resource(resource: &Resource) -> Message {
    let name = Value::from(resource.service_name.as_str());
    let mut message = Message::default();
    message.message(1, &key_value("service.name", &name)); // Resource.attributes
    message
}

fn encode_span(span: &FinishedSpan) -> Message {
    let place = &span.place;
    let mut message = Message::default();
    message.bytes(1, &place.trace_id.to_bytes()); // Span.trace_id
    message.bytes(2, &place.span_id.to_bytes()); // Span.span_id
    if let Some(parent) = place.parent_id {
        message.bytes(4, &parent.to_bytes()); // Span.parent_span_id
    }
    message.string(5, &span.name); // Span.name
    let kind = if place.border {
        KIND_SERVER
    } else {
        KIND_INTERNAL
    };
    message.number(6, kind); // Span.kind
    message.fixed64(7, span.start); // Span.start_time_unix_nano
    message.fixed64(8, span.end); // Span.end_time_unix_nano
    for (key, value) in &span.attributes {
        message.message(9, &key_value(key, value)); // Span.attributes
    }
    for event in &span.events {
        message.message(11, &encode_event(event)); // Span.events
    }
    match (&span.status, span.attributes.get(ERROR)) {
        (Some(SpanStatus::Ok), _) => {
            let mut status = Message::default();
            status.number(3, STATUS_OK); // Status.code
            message.message(15, &status); // Span.status
        }
        (Some(SpanStatus::Error(error)), _) => {
            message.message(15, &failure(&error.as_str().into()))
        }
        (None, Some(error)) => message.message(15, &failure(error)),
        (None, None) => {}
    }
    message
}

fn encode_event(event: &SpanEvent) -> Message {
    let mut message = Message::default();
    message.fixed64(1, event.at); // Event.time_unix_nano
    message.string(2, &event.name); // Event.name
    for (key, value) in &event.attributes {
        message.message(3, &key_value(key, value)); // Event.attributes
    }
    message
}

fn failure(error: &Value) -> Message {
    let mut status = Message::default();
    status.string(2, &text(error)); // Status.message
    status.number(3, STATUS_ERROR); // Status.code
    status
}

fn key_value(key: &str, value: &Value) -> Message {
    let mut any = Message::default();
    match value {
        Value::Bool(value) => any.number(2, u64::from(*value)), // AnyValue.bool_value
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            // AnyValue.int_value: negative ones as two's complement, as the format wants.
            (Some(value), _) => any.number(3, value.cast_unsigned()),
            (None, Some(value)) => any.fixed64(4, value.to_bits()), // AnyValue.double_value
            (None, None) => any.string(1, &number.to_string()),
        },
        other => any.string(1, &text(other)), // AnyValue.string_value
    }
    let mut pair = Message::default();
    pair.string(1, key); // KeyValue.key
    pair.message(2, &any); // KeyValue.value
    pair
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

// === impl Message ===

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.varint(field << 3);
        self.varint(value);
    }

    fn fixed64(&mut self, field: u64, value: u64) {
        self.varint(field << 3 | 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, field: u64, value: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
    }

    fn string(&mut self, field: u64, value: &str) {
        self.bytes(field, value.as_bytes());
    }

    fn message(&mut self, field: u64, value: &Self) {
        self.bytes(field, &value.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace_context::{SpanId, TraceId};
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
    use proptest::prelude::*;
    use prost::Message as _;
    use serde_json::json;

    fn attribute() -> impl Strategy<Value = Value> {
        prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ]
    }

    fn span(attributes: Map<String, Value>) -> FinishedSpan {
        FinishedSpan {
            name: "http_request".into(),
            place: Place {
                trace_id: TraceId::from_bits(7),
                span_id: SpanId::from_bits(8),
                parent_id: Some(SpanId::from_bits(9)),
                sampled: true,
                border: true,
            },
            start: 1_000,
            end: u64::MAX,
            attributes,
            events: Vec::new(),
            status: None,
        }
    }

    fn decoded(spans: &[FinishedSpan]) -> ExportTraceServiceRequest {
        let resource = Resource {
            service_name: "dynamo".to_owned(),
        };
        ExportTraceServiceRequest::decode(request(&resource, spans).as_slice()).unwrap()
    }

    #[test]
    fn the_published_schema_reads_every_part() {
        let fields = json!({"error": "it broke", "status": 500});
        let read = decoded(&[span(fields.as_object().unwrap().clone())]);
        let of_resource = &read.resource_spans[0];
        let name = &of_resource.resource.as_ref().unwrap().attributes[0];
        assert_eq!(name.key, "service.name");
        let scope_spans = &of_resource.scope_spans[0];
        assert_eq!(scope_spans.scope.as_ref().unwrap().name, "dynamo");
        let span = &scope_spans.spans[0];
        assert_eq!(span.trace_id, TraceId::from_bits(7).to_bytes());
        assert_eq!(span.span_id, SpanId::from_bits(8).to_bytes());
        assert_eq!(span.parent_span_id, SpanId::from_bits(9).to_bytes());
        assert_eq!((span.name.as_str(), span.kind), ("http_request", 2));
        assert_eq!(span.start_time_unix_nano, 1_000);
        assert_eq!(span.end_time_unix_nano, u64::MAX);
        let status = span.status.as_ref().unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "it broke"));
    }

    #[test]
    fn events_and_a_status_of_its_own_are_read() {
        let read = |status| {
            let mut told = span(Map::new());
            let fields = json!({"blocks": 7});
            told.events.push(SpanEvent {
                name: "cached".to_owned(),
                at: 1_500,
                attributes: fields.as_object().unwrap().clone(),
            });
            told.status = Some(status);
            let read = decoded(&[told]);
            read.resource_spans[0].scope_spans[0].spans[0].clone()
        };
        let well = read(SpanStatus::Ok);
        assert_eq!(well.status.unwrap().code, 1);
        let event = &well.events[0];
        assert_eq!(
            (event.name.as_str(), event.time_unix_nano),
            ("cached", 1_500)
        );
        assert_eq!(event.attributes[0].key, "blocks");
        let badly = read(SpanStatus::Error("it broke".to_owned()))
            .status
            .unwrap();
        assert_eq!((badly.code, badly.message.as_str()), (2, "it broke"));
    }

    proptest! {
        #[test]
        fn attributes_come_back_as_they_were(
            fields in proptest::collection::btree_map(".{0,8}", attribute(), 0..6)
        ) {
            let read = decoded(&[span(fields.clone().into_iter().collect())]);
            let attributes = &read.resource_spans[0].scope_spans[0].spans[0].attributes;
            prop_assert_eq!(attributes.len(), fields.len());
            for (read, (key, value)) in attributes.iter().zip(&fields) {
                prop_assert_eq!(&read.key, key);
                let back = match read.value.as_ref().unwrap().value.as_ref().unwrap() {
                    AnyValue::StringValue(text) => Value::from(text.as_str()),
                    AnyValue::BoolValue(value) => Value::from(*value),
                    AnyValue::IntValue(value) => Value::from(*value),
                    AnyValue::DoubleValue(value) => Value::from(*value),
                    other => panic!("{other:?}"),
                };
                // What is not a JSON number is written as the text `null`.
                let wanted = if value.is_null() { Value::from("null") } else { value.clone() };
                prop_assert_eq!(back, wanted);
            }
        }
    }
}
