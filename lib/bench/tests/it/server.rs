//! A server that answers each request on its socket as its test says, byte by byte.

use dynamo_bench::{BenchError, BenchServeOptions, ServeResult, serve};
use dynamo_runtime::{Environment, Tasks};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// What to answer to a request: its number, from 0, and its body.
type Script = dyn Fn(usize, &Value) -> Reply + Send + Sync;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// These bytes; the connection stays open.
    Bytes(String),
    /// These bytes, and the end of the connection.
    Last(String),
    /// Nothing, ever.
    Silence,
}

/// A server on a port of its own, until it is dropped.
pub(crate) struct Server {
    pub(crate) url: String,
    /// Bodies of the requests that came, in order.
    pub(crate) bodies: Arc<Mutex<Vec<Value>>>,
    /// Heads of the requests that came, in order.
    pub(crate) heads: Arc<Mutex<Vec<String>>>,
    /// Connections that were made.
    pub(crate) connections: Arc<Mutex<usize>>,
    tasks: Tasks,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

impl Server {
    pub(crate) async fn start(
        script: impl Fn(usize, &Value) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            bodies: Arc::default(),
            heads: Arc::default(),
            connections: Arc::default(),
            tasks: Tasks::root(),
        };
        let script: Arc<Script> = Arc::new(script);
        let (bodies, heads) = (Arc::clone(&server.bodies), Arc::clone(&server.heads));
        let (connections, tasks) = (Arc::clone(&server.connections), server.tasks.clone());
        server.tasks.spawn_until_cancelled("server", async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                *connections.lock() += 1;
                let (script, bodies) = (Arc::clone(&script), Arc::clone(&bodies));
                let heads = Arc::clone(&heads);
                tasks.spawn_until_cancelled("connection", async move {
                    answer(stream, script.as_ref(), &bodies, &heads).await;
                });
            }
        });
        server
    }

    /// Options to ask this server for one request.
    pub(crate) fn options(&self) -> BenchServeOptions {
        BenchServeOptions {
            url: self.url.clone(),
            model: Some("m".to_owned()),
            requests: Some(1),
            ..BenchServeOptions::default()
        }
    }
}

async fn answer(
    stream: TcpStream,
    script: &Script,
    bodies: &Mutex<Vec<Value>>,
    heads: &Mutex<Vec<String>>,
) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            // The client has closed the connection.
            if stream.read_line(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let lower = head.to_ascii_lowercase();
        let length = lower.split("content-length: ").nth(1);
        let length = length.and_then(|it| it.split("\r\n").next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body).await.unwrap();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        let number = {
            let mut bodies = bodies.lock();
            bodies.push(body);
            heads.lock().push(lower);
            bodies.len() - 1
        };
        let body = bodies.lock()[number].clone();
        // What the client does not wait for cannot be written: that is no fault of the server.
        match script(number, &body) {
            Reply::Bytes(bytes) => drop(stream.write_all(bytes.as_bytes()).await),
            Reply::Last(bytes) => return drop(stream.write_all(bytes.as_bytes()).await),
            Reply::Silence => std::future::pending().await,
        }
    }
}

/// An answer with a length.
pub(crate) fn whole(status: u16, kind: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A stream of these events, each in a chunk of its own, without an end.
pub(crate) fn events(events: &[&str]) -> String {
    let mut stream =
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_owned();
    for event in events {
        let event = format!("data: {event}\n\n");
        stream.push_str(&format!("{:x}\r\n{event}\r\n", event.len()));
    }
    stream
}

/// A chunk of a chat with this text.
pub(crate) fn text(text: &str) -> String {
    serde_json::json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}]})
        .to_string()
}

/// A whole good answer: a piece of text for each word, then the counts.
pub(crate) fn good(words: &[&str], prompt_tokens: u64) -> String {
    let mut all: Vec<String> = words.iter().map(|word| text(word)).collect();
    all.push(r#"{"choices":[{"delta":{},"finish_reason":"length"}]}"#.to_owned());
    all.push(
        serde_json::json!({"choices": [], "usage": {
            "prompt_tokens": prompt_tokens, "completion_tokens": words.len(),
            "prompt_tokens_details": {"cached_tokens": 3},
        }})
        .to_string(),
    );
    all.push("[DONE]".to_owned());
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    events(&all) + "0\r\n\r\n"
}

/// Runs the benchmark to its end.
pub(crate) async fn run(options: &BenchServeOptions) -> Result<ServeResult, BenchError> {
    let (tasks, never) = (Tasks::root(), CancellationToken::new());
    serve(options, &Environment::system(), &tasks, &never, |_| ()).await
}
