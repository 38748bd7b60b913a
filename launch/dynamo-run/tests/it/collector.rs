//! An OTLP collector on loopback: takes what processes export, reads it with the published schema,
//! and keeps it for the test to look at.

use crate::process::until;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Batches that wait for the test to look: far more than its processes send.
const WAITING_BATCHES: usize = 256;

/// Longest wait for the next byte of a request.
const SILENCE: Duration = Duration::from_secs(30);

/// A running collector. Ends when dropped.
pub(crate) struct Collector {
    address: SocketAddr,
    batches: Receiver<Vec<Exported>>,
    exported: Vec<Exported>,
    ending: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

/// A span, and the service that exported it.
#[derive(Debug, Clone)]
pub(crate) struct Exported {
    pub(crate) service: String,
    pub(crate) span: Span,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, batches) = sync_channel(WAITING_BATCHES);
        let ending = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ending);
        let server = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                take(&connection.unwrap(), &sender);
            }
        });
        Self {
            address,
            batches,
            exported: Vec::new(),
            ending,
            server: Some(server),
        }
    }

    /// What an exporter is given as its endpoint.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that was exported so far.
    pub(crate) fn exported(&mut self) -> &[Exported] {
        self.exported.extend(self.batches.try_iter().flatten());
        &self.exported
    }

    /// The spans of a trace so far.
    pub(crate) fn of_trace(&mut self, trace: &str) -> Vec<Exported> {
        let mut spans = self.exported().to_vec();
        spans.retain(|exported| exported.trace_id() == trace);
        spans
    }

    /// Waits until a trace has spans of all these services; gives all of its spans.
    pub(crate) fn await_trace(&mut self, trace: &str, services: &[&str]) -> Vec<Exported> {
        let mut spans = Vec::new();
        until(&format!("{services:?} export trace {trace}"), || {
            spans = self.of_trace(trace);
            let has = |name: &&str| spans.iter().any(|exported| exported.service == **name);
            services.iter().all(has)
        });
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        // Only to wake the server, which may have ended by a failure of its own.
        drop(TcpStream::connect(self.address));
        let ended = self.server.take().unwrap().join();
        if !std::thread::panicking() {
            ended.unwrap();
        }
    }
}

impl Exported {
    pub(crate) fn trace_id(&self) -> String {
        hex(&self.span.trace_id)
    }

    pub(crate) fn span_id(&self) -> String {
        hex(&self.span.span_id)
    }

    /// Empty where the span has none.
    pub(crate) fn parent_id(&self) -> String {
        hex(&self.span.parent_span_id)
    }

    /// An attribute as text; empty if it is not there.
    pub(crate) fn attribute(&self, key: &str) -> String {
        text(&self.span.attributes, key)
    }
}

/// Takes one export request and says that all is well.
fn take(connection: &TcpStream, sender: &SyncSender<Vec<Exported>>) {
    connection.set_read_timeout(Some(SILENCE)).unwrap();
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "cut off: {head}");
    }
    let head = head.to_ascii_lowercase();
    assert!(head.starts_with("post /v1/traces http/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "content-type"), "application/x-protobuf");
    let mut body = vec![0; header(&head, "content-length").parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    sender.send(read(&body)).unwrap();
    let mut connection = connection;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    connection.write_all(answer.as_bytes()).unwrap();
}

/// The value of a header that must be there.
fn header<'a>(head: &'a str, wanted: &str) -> &'a str {
    let mut headers = head.lines().filter_map(|line| line.split_once(':'));
    let found = headers.find(|(name, _)| *name == wanted);
    found
        .unwrap_or_else(|| panic!("no {wanted}: {head}"))
        .1
        .trim()
}

fn read(body: &[u8]) -> Vec<Exported> {
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let mut exported = Vec::new();
    for of_resource in request.resource_spans {
        let resource = of_resource.resource.unwrap();
        let service = text(&resource.attributes, "service.name");
        for scope in of_resource.scope_spans {
            exported.extend(scope.spans.into_iter().map(|span| Exported {
                service: service.clone(),
                span,
            }));
        }
    }
    exported
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let mut found = attributes.iter().filter(|attribute| attribute.key == key);
    let value = found.next().and_then(|attribute| attribute.value.clone());
    match value.and_then(|any| any.value) {
        None => String::new(),
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(other) => panic!("{key} is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
