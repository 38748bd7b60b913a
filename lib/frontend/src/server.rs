//! The socket: binding, accepting, draining.
//!
//! A drain goes from outside to inside. First the socket closes, so that new clients find it shut
//! and go elsewhere: a refused connection is what every balancer tries again. Who is connected
//! already and has just not asked yet is served; idle connections close. Then requests that come
//! all the same, as on an HTTP/2 connection, are refused. When no request runs any more, or the
//! time for it is over, what is left is dropped.

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
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
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

/// How long the socket stays open after the last client that was waiting at it. A drain may begin
/// between a client's connecting and the system's telling of it.
const LAST_LOOK: Duration = Duration::from_millis(5);

/// Clients that are still let in when a drain begins: a full queue of the system's.
const LAST_CLIENTS: usize = 4_096;

/// How long a client that is connected when a drain begins may take to ask: a request follows its
/// connection at once, unless the connection is kept for later.
const NEWCOMER: Duration = Duration::from_secs(1);

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

/// Where connections come in.
struct Door {
    app: Arc<App>,
    router: Router,
    /// One place per connection.
    connections: Arc<Semaphore>,
    /// Taken by each connection until it has asked something.
    newcomers: Arc<Semaphore>,
    tasks: Tasks,
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
            closed: CancellationToken::new(),
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
        let Self { app, listener, .. } = self;
        let tasks = tasks.child();
        let limit = app.options.http_max_connections;
        let door = Door {
            router: router(Arc::clone(&app)),
            connections: Arc::new(Semaphore::new(limit as usize)),
            newcomers: Arc::new(Semaphore::new(limit as usize)),
            tasks: tasks.clone(),
            app: Arc::clone(&app),
        };
        let event_loop = app.metrics.event_loop();
        tasks.spawn_until_cancelled("event loop watch", event_loop.watch());
        tokio::select! {
            biased;
            () = tasks.cancellation().cancelled() => {}
            () = drain.cancelled() => {}
            () = door.accept_all(&*listener) => {}
        }
        let finished = async {
            door.accept_last(&*listener).await;
            drop(listener);
            app.draining.cancel();
            let newcomers = door.newcomers.acquire_many(limit);
            drop(timeout(NEWCOMER, newcomers).await);
            app.closed.cancel();
            let all = app.places.acquire_many(app.options.http_max_requests);
            drop(all.await);
        };
        tokio::select! {
            biased;
            () = tasks.cancellation().cancelled() => {}
            _ = timeout(drain_timeout, finished) => {}
        }
        let dropped = app.options.http_max_requests as usize - app.places.available_permits();
        if dropped == 0 && !tasks.cancellation().is_cancelled() {
            // The last answers may still be on their way out.
            let all = door.connections.acquire_many(limit);
            drop(timeout(LAST_WRITES, all).await);
        }
        tasks.stop().await;
        Drained {
            dropped_requests: dropped,
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

// === impl Door ===

impl Door {
    /// Accepts connections for ever, each when there is a place for it.
    async fn accept_all(&self, listener: &dyn Listener) {
        // The semaphore is never closed: the loop ends by being dropped.
        while let Ok(place) = Arc::clone(&self.connections).acquire_owned().await {
            match listener.accept().await {
                Ok((connection, _)) => self.let_in(connection, place),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(ACCEPT_RETRY).await;
                }
            }
        }
    }

    /// Lets in who stands at the socket before it closes: to the system they are connected, and
    /// it would break their connections.
    async fn accept_last(&self, listener: &dyn Listener) {
        for _ in 0..LAST_CLIENTS {
            let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
                return;
            };
            match timeout(LAST_LOOK, listener.accept()).await {
                Ok(Ok((connection, _))) => self.let_in(connection, place),
                Ok(Err(_)) | Err(_) => return,
            }
        }
    }

    fn let_in(&self, connection: Box<dyn Connection>, place: OwnedSemaphorePermit) {
        // As many as there are connections.
        let newcomer = Arc::clone(&self.newcomers).try_acquire_owned().ok();
        let app = Arc::clone(&self.app);
        let (router, tasks) = (self.router.clone(), self.tasks.clone());
        let serving = serve_connection(app, router, connection, tasks, newcomer);
        self.tasks
            .spawn_until_cancelled("http connection", async move {
                contained(serving).await;
                drop(place);
            });
    }
}

/// Serves one connection to its end. `newcomer` is dropped when it has asked something.
async fn serve_connection(
    app: Arc<App>,
    router: Router,
    connection: Box<dyn Connection>,
    tasks: Tasks,
    newcomer: Option<OwnedSemaphorePermit>,
) {
    let metrics = app.metrics.connection();
    let options = &app.options;
    let io = TokioIo::new(Guarded::new(
        connection,
        options.http_header_timeout,
        options.http_write_timeout,
    ));
    let has_asked = CancellationToken::new();
    let newcomer = Mutex::new(newcomer);
    let service = service_fn(|request: hyper::Request<Incoming>| {
        has_asked.cancel();
        let newcomer = newcomer.lock().take();
        let answer = answer(Arc::clone(&app), router.clone(), request.map(Body::new));
        async move {
            let answer = answer.await;
            // Its request has its place by now, or was refused.
            drop(newcomer);
            answer
        }
    });
    let builder = builder(options, tasks);
    let mut serving = std::pin::pin!(builder.serve_connection(io, service));
    // A connection that has said nothing yet would be broken by an end in good order.
    let is_to_end = async {
        app.draining.cancelled().await;
        tokio::select! {
            biased;
            () = has_asked.cancelled() => {}
            () = app.closed.cancelled() => {}
        }
    };
    let ended = tokio::select! {
        biased;
        ended = serving.as_mut() => ended,
        () = is_to_end => {
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
