//! The socket: binding, accepting, draining.
//!
//! A drain goes from outside to inside. New requests for models are refused and `/health` says
//! so, while the socket stays open for whoever watches; running requests finish, idle connections
//! close; when no request runs any more, or the time for it is over, the socket closes and what
//! is left is dropped.

use crate::auth::Keys;
use crate::config::FrontendOptions;
use crate::connection::Guarded;
use crate::metrics::{FrontendMetrics, show_models, show_prompt_tokens, show_routers};
use crate::routes::router;
use crate::service::{App, answer};
use axum::Router;
use axum::body::Body;
use dynamo_backends::Backends;
use dynamo_llm::registry::ModelRegistry;
use dynamo_runtime::environment::{Connection, Listener};
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry, Sampler};
use dynamo_runtime::tls::{ServerTls, TlsListener};
use dynamo_runtime::{Environment, Tasks};
use futures_util::FutureExt;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Streams of one HTTP/2 connection at once; the bound on requests holds besides.
const HTTP2_STREAMS: u32 = 256;

/// How often an HTTP/2 client that says nothing is asked whether it is still there. HTTP/1 has
/// the header timeout for that.
const HTTP2_PING: Duration = Duration::from_secs(30);

/// Buffer for the head of an HTTP/1 request, as a multiple of the limit on headers. What exceeds
/// the limit and fits here gets an error body; the rest gets a bare 431.
const HEAD_BUFFER_FACTOR: usize = 4;

/// The least buffer that the HTTP library works with.
const LEAST_HEAD_BUFFER: usize = 64 * 1024;

/// Wait after the system refused to accept a connection, as when it is out of file handles: it
/// will refuse again at once.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long connections may take to write out the last answers of a drain: they are complete and
/// small by then, or their clients do not read.
const LAST_WRITES: Duration = Duration::from_secs(5);

/// What a frontend is made of, before it has a socket.
#[derive(Debug)]
pub struct Frontend {
    /// The options.
    pub options: FrontendOptions,
    /// What connections are encrypted with, if they are.
    pub tls: Option<ServerTls>,
    /// The models to serve; may change at any time.
    pub models: ModelRegistry,
    /// Servers that compute all of them, and get requests as they are.
    pub backends: Option<Backends>,
    /// Sockets, clock, random numbers, compute pool.
    pub environment: Environment,
    /// What the requests are counted in.
    pub metrics: FrontendMetrics,
    /// What `/metrics` shows.
    pub registry: MetricsRegistry,
    /// Which of the traces that begin here are recorded.
    pub sampler: Sampler,
}

/// What clients may speak over TLS, the preferred first.
pub const HTTP_PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

/// A frontend that listens and does not accept yet.
pub struct BoundFrontend {
    app: Arc<App>,
    listener: Box<dyn Listener>,
    local_addr: SocketAddr,
}

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were still running when the time was over, and were dropped.
    pub dropped_requests: usize,
}

/// Why the frontend cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The registry shows another frontend's models already.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Another process has the port.
    #[error("port {port} on {host} is in use; choose another with --http-port")]
    PortInUse {
        /// The address.
        host: String,
        /// The port.
        port: u16,
    },
    /// The system refuses.
    #[error(
        "cannot listen on {host}:{port}; check --http-host and --http-port (DYN_HTTP_HOST, \
         DYN_HTTP_PORT)"
    )]
    Refused {
        /// The address.
        host: String,
        /// The port.
        port: u16,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// Runs the tasks of HTTP/2 connections under the frontend's own.
#[derive(Clone)]
struct Spawn(Tasks);

// === impl Frontend ===

impl Frontend {
    /// Takes the port.
    pub async fn bind(self) -> Result<BoundFrontend, BindError> {
        let (host, port) = (self.options.http_host.clone(), self.options.http_port);
        let address = if host.contains(':') {
            format!("[{host}]:{port}")
        } else {
            format!("{host}:{port}")
        };
        let refused = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::PortInUse {
                host: host.clone(),
                port,
            },
            _ => BindError::Refused {
                host: host.clone(),
                port,
                source,
            },
        };
        let listener = self
            .environment
            .network
            .bind(&address)
            .await
            .map_err(refused)?;
        let listener = TlsListener::around(listener, self.tls);
        let local_addr = listener.local_addr().map_err(refused)?;
        show_models(
            &self.registry,
            &self.options.metrics_prefix,
            self.models.clone(),
        )?;
        show_prompt_tokens(
            &self.registry,
            &self.options.metrics_prefix,
            self.models.clone(),
        )?;
        show_routers(&self.registry, self.models.clone())?;
        let app = Arc::new(App {
            keys: Keys::new(&self.options.api_key),
            places: Arc::new(Semaphore::new(self.options.http_max_requests as usize)),
            draining: CancellationToken::new(),
            started: self.environment.clock.unix_time(),
            models: self.models,
            backends: self.backends,
            environment: self.environment,
            metrics: self.metrics,
            registry: self.registry,
            sampler: self.sampler,
            options: self.options,
        });
        Ok(BoundFrontend {
            app,
            listener,
            local_addr,
        })
    }
}

// === impl BoundFrontend ===

impl BoundFrontend {
    /// The address, with the port that was really taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `drain` is cancelled, then drains for at most `drain_timeout`. Connections are
    /// tasks below `tasks`: cancelling those ends everything at once.
    pub async fn serve(
        self,
        tasks: &Tasks,
        drain: CancellationToken,
        drain_timeout: Duration,
    ) -> Drained {
        let tasks = tasks.child();
        let limit = self.app.options.http_max_connections;
        let connections = Arc::new(Semaphore::new(limit as usize));
        let event_loop = self.app.metrics.event_loop();
        tasks.spawn_until_cancelled("event loop watch", event_loop.watch());
        let finished = async {
            drain.cancelled().await;
            self.app.draining.cancel();
            let all = self
                .app
                .places
                .acquire_many(self.app.options.http_max_requests);
            drop(timeout(drain_timeout, all).await);
        };
        tokio::select! {
            biased;
            () = tasks.cancellation().cancelled() => {}
            () = finished => {}
            () = self.accept_all(&tasks, &connections) => {}
        }
        let dropped =
            self.app.options.http_max_requests as usize - self.app.places.available_permits();
        drop(self.listener);
        if dropped == 0 && !tasks.cancellation().is_cancelled() {
            // The last answers may still be on their way out.
            drop(timeout(LAST_WRITES, connections.acquire_many(limit)).await);
        }
        tasks.stop().await;
        Drained {
            dropped_requests: dropped,
        }
    }

    /// Accepts connections for ever, each when there is a place for it.
    async fn accept_all(&self, tasks: &Tasks, connections: &Arc<Semaphore>) {
        let router = router(Arc::clone(&self.app));
        // The semaphore is never closed: the loop ends by being dropped.
        while let Ok(place) = Arc::clone(connections).acquire_owned().await {
            let Some(connection) = self.accept().await else {
                sleep(ACCEPT_RETRY).await;
                continue;
            };
            let app = Arc::clone(&self.app);
            let serving = serve_connection(app, router.clone(), connection, tasks.clone());
            tasks.spawn_until_cancelled("http connection", async move {
                contained(serving).await;
                drop(place);
            });
        }
    }

    async fn accept(&self) -> Option<Box<dyn Connection>> {
        match self.listener.accept().await {
            Ok((connection, _)) => Some(connection),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                None
            }
        }
    }
}

impl std::fmt::Debug for BoundFrontend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BoundFrontend")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// Serves one connection to its end.
async fn serve_connection(
    app: Arc<App>,
    router: Router,
    connection: Box<dyn Connection>,
    tasks: Tasks,
) {
    let metrics = app.metrics.connection();
    let options = &app.options;
    let io = TokioIo::new(Guarded::new(
        connection,
        options.http_header_timeout,
        options.http_write_timeout,
    ));
    let service = service_fn(|request: hyper::Request<Incoming>| {
        answer(Arc::clone(&app), router.clone(), request.map(Body::new))
    });
    let builder = builder(options, tasks);
    let mut serving = std::pin::pin!(builder.serve_connection(io, service));
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = app.draining.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        metrics.failed();
        tracing::debug!(%error, "connection failed");
    }
}

/// Runs what belongs to one client. Nothing is shared through it but counters and places, which
/// are given back as it unwinds, so that a panic ends this client's connection and not the
/// process, which others use.
async fn contained(serving: impl Future<Output = ()>) {
    if AssertUnwindSafe(serving).catch_unwind().await.is_err() {
        tracing::error!("a connection met a defect of this service and was dropped");
    }
}

fn builder(options: &FrontendOptions, tasks: Tasks) -> Builder<Spawn> {
    let mut builder = Builder::new(Spawn(tasks));
    let head = options
        .http_header_limit
        .as_usize()
        .saturating_mul(HEAD_BUFFER_FACTOR)
        .max(LEAST_HEAD_BUFFER);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.http_header_timeout)
        .max_headers(options.http_max_headers.saturating_mul(2))
        .max_buf_size(head);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HTTP2_PING)
        .keep_alive_timeout(options.http_header_timeout)
        .max_header_list_size(u32::try_from(head).unwrap_or(u32::MAX))
        .max_concurrent_streams(HTTP2_STREAMS);
    builder
}

// === impl Spawn ===

impl<F> Executor<F> for Spawn
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0
            .spawn_until_cancelled("http/2 stream", contained(task));
    }
}
