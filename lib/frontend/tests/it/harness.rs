//! A frontend on a free port, and a client that says exactly what it is told to say.
//!
//! Time of day and random numbers are fixed, so that whole responses can be compared. The engine
//! is the echo engine behind a gate: each of its outputs needs a permit, so that a test decides
//! how far an answer has come, and closing the gate is a worker that is lost.

use dynamo_frontend::{
    BindError, BoundFrontend, Drained, Frontend, FrontendMetrics, FrontendOptions,
};
use dynamo_llm::byte_tokenizer::ByteTokenizer;
use dynamo_llm::card::ModelCard;
use dynamo_llm::echo::{EchoEngine, EchoOptions};
use dynamo_llm::migration::MigrationMetrics;
use dynamo_llm::model::ServedModel;
use dynamo_llm::registry::ModelRegistry;
use dynamo_llm::template::{ChatTemplate, SpecialTokens};
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineRequest, EngineStream, RequestContext,
};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::load::LoadReport;
use dynamo_runtime::environment::{RandomSource, WallClock};
use dynamo_runtime::telemetry::{MetricsRegistry, Sampler};
use dynamo_runtime::{Environment, Tasks};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

/// The served model's name: with a slash, as Hugging Face's are.
pub(crate) const MODEL: &str = "test/echo";

/// The served model's context.
pub(crate) const CONTEXT: u32 = 512;

/// No test waits for longer than this for anything: what takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// Messages as lines, a refusal for one text, and an opening for the answer.
const TEMPLATE: &str = "{% for m in messages %}\
    {% if m.content == 'raise' %}{{ raise_exception('no such talk') }}{% endif %}\
    {{ m.role }}: {{ m.content }}\n{% endfor %}\
    {% if add_generation_prompt %}assistant:{% endif %}";

/// A running frontend.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) engine: Arc<Gated>,
    pub(crate) models: ModelRegistry,
    pub(crate) migrations: MigrationMetrics,
    pub(crate) drain: CancellationToken,
    pub(crate) tasks: Tasks,
    drained: Mutex<Option<oneshot::Receiver<Drained>>>,
}

/// The echo engine behind a gate.
#[derive(Debug)]
pub(crate) struct Gated {
    pub(crate) echo: EchoEngine,
    pub(crate) gate: Arc<Semaphore>,
    /// What came with the last request.
    pub(crate) last: Mutex<Option<(EngineRequest, RequestContext)>>,
}

/// A response.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug)]
struct FixedClock;

#[derive(Debug)]
struct Counter(AtomicU64);

impl WallClock for FixedClock {
    fn unix_time(&self) -> Duration {
        Duration::from_secs(1_700_000_000)
    }
}

impl RandomSource for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

pub(crate) fn environment() -> Environment {
    Environment {
        clock: Arc::new(FixedClock),
        random: Arc::new(Counter(AtomicU64::new(0))),
        ..Environment::system()
    }
}

pub(crate) fn options() -> FrontendOptions {
    FrontendOptions {
        http_port: 0,
        ..FrontendOptions::default()
    }
}

pub(crate) async fn bind(
    options: FrontendOptions,
    models: &ModelRegistry,
) -> Result<BoundFrontend, BindError> {
    bind_showing(options, models, MetricsRegistry::new()).await
}

async fn bind_showing(
    options: FrontendOptions,
    models: &ModelRegistry,
    registry: MetricsRegistry,
) -> Result<BoundFrontend, BindError> {
    let metrics = FrontendMetrics::new(&registry, &options.metrics_prefix).unwrap();
    let frontend = Frontend {
        options,
        tls: None,
        models: models.clone(),
        backends: None,
        environment: environment(),
        metrics,
        registry,
        sampler: Sampler::NEVER,
    };
    frontend.bind().await
}

// === impl Gated ===

impl Gated {
    fn new() -> Self {
        Self {
            echo: EchoEngine::new(EchoOptions::default()),
            gate: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            last: Mutex::new(None),
        }
    }

    /// From now on `count` more outputs come, and then none.
    pub(crate) fn shut_after(&self, count: usize) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
        self.gate.add_permits(count);
    }

    /// Outputs come freely again.
    pub(crate) fn open(&self) {
        self.gate.add_permits(1 << 20);
    }
}

impl Engine for Gated {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        *self.last.lock() = Some((request.clone(), context.clone()));
        let gate = Arc::clone(&self.gate);
        Box::pin(async move {
            let outputs = self.echo.generate(request, context).await?;
            let gated = outputs
                .then(move |output| {
                    let gate = Arc::clone(&gate);
                    async move {
                        let permit = gate.acquire().await.ok()?;
                        permit.forget();
                        Some(output)
                    }
                })
                .take_while(|output| std::future::ready(output.is_some()))
                .filter_map(std::future::ready);
            Ok(Box::pin(gated) as EngineStream)
        })
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        self.echo.embed(request, context)
    }

    fn load(&self) -> LoadReport {
        self.echo.load()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.echo.drain()
    }
}

// === impl Server ===

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut FrontendOptions)) -> Self {
        let mut options = options();
        change(&mut options);
        let engine = Arc::new(Gated::new());
        let models = ModelRegistry::new();
        let model = ServedModel {
            card: ModelCard::byte_level(MODEL, CONTEXT),
            tokenizer: Arc::new(ByteTokenizer),
            template: Some(Arc::new(
                ChatTemplate::new(TEMPLATE, SpecialTokens::new()).unwrap(),
            )),
            engine: Arc::clone(&engine) as Arc<dyn Engine>,
            router: None,
        };
        models.add(MODEL, Arc::new(model));
        let registry = MetricsRegistry::new();
        let migrations = MigrationMetrics::shown_by(&registry, &options.metrics_prefix).unwrap();
        let bound = bind_showing(options, &models, registry).await.unwrap();
        let (address, tasks, drain) = (bound.local_addr(), Tasks::root(), CancellationToken::new());
        let (sender, drained) = oneshot::channel();
        let (below, draining) = (tasks.clone(), drain.clone());
        tasks.spawn("frontend", async move {
            let drained = bound.serve(&below, draining, PATIENCE).await;
            assert!(sender.send(drained).is_ok() || below.cancellation().is_cancelled());
        });
        Self {
            address,
            engine,
            models,
            migrations,
            drain,
            tasks,
            drained: Mutex::new(Some(drained)),
        }
    }

    /// How the drain ended.
    pub(crate) async fn drained(&self) -> Drained {
        let drained = self.drained.lock().take().unwrap();
        patiently(drained).await.unwrap()
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(&format!(
            "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await
    }

    pub(crate) async fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.send(request(path, "", body.as_ref())).await
    }

    pub(crate) async fn post_with(&self, path: &str, headers: &str, body: &str) -> Reply {
        self.send(request(path, headers, body.as_bytes())).await
    }

    /// Sends these bytes on a connection of their own and reads to its end.
    pub(crate) async fn send(&self, bytes: impl AsRef<[u8]>) -> Reply {
        let mut connection = self.connect().await;
        connection.write_all(bytes.as_ref()).await.unwrap();
        read_reply(&mut connection).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

// === impl Reply ===

impl Reply {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// The JSON of every event; checks that the stream ended well.
    pub(crate) fn events(&self) -> Vec<Value> {
        let mut events: Vec<&str> = self.text().trim_end().split("\n\n").collect();
        assert_eq!(events.pop(), Some("data: [DONE]"), "{}", self.text());
        events
            .iter()
            .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    }

    /// Status, code and parameter of an error, whose body must have OpenAI's form.
    pub(crate) fn error(&self) -> (u16, String, Option<String>) {
        let body = self.json();
        let error = &body["error"];
        assert!(
            error["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty()),
            "{body}"
        );
        assert!(error["type"].is_string(), "{body}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        (
            self.status,
            error["code"].as_str().unwrap().to_owned(),
            error["param"].as_str().map(str::to_owned),
        )
    }

    pub(crate) fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn request(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Waits for something that must happen.
pub(crate) async fn patiently<F: Future>(event: F) -> F::Output {
    tokio::time::timeout(PATIENCE, event)
        .await
        .expect("this must not hang")
}

pub(crate) async fn read_reply(connection: &mut TcpStream) -> Reply {
    let mut bytes = Vec::new();
    patiently(connection.read_to_end(&mut bytes)).await.unwrap();
    parse_reply(&bytes)
}

/// Reads until `needle` has come.
pub(crate) async fn read_until(connection: &mut TcpStream, needle: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(needle) {
        let read = patiently(connection.read_buf(&mut bytes)).await.unwrap();
        assert!(
            read > 0,
            "ended before {needle}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
    String::from_utf8(bytes).unwrap()
}

pub(crate) fn parse_reply(bytes: &[u8]) -> Reply {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no head: {:?}", String::from_utf8_lossy(bytes)));
    let head = std::str::from_utf8(&bytes[..end]).unwrap();
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .unwrap()
        .split(' ')
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let mut body = bytes[end + 4..].to_vec();
    if headers.iter().any(|(name, _)| name == "transfer-encoding") {
        body = unchunked(&body);
    }
    Reply {
        status,
        headers,
        body,
    }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(line) = rest.windows(2).position(|window| window == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        if size == 0 {
            break;
        }
        body.extend_from_slice(&rest[line + 2..line + 2 + size]);
        rest = &rest[line + 2 + size + 2..];
    }
    body
}
