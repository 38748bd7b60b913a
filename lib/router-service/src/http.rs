//! The HTTP interface: its parts, its socket, and the reservations that it holds.
//!
//! Invariants
//! - A reservation weighs on its worker until it is given back, or nothing was heard of it for
//!   its time.
//! - Locks are taken in one order: that on reservations before that of a router.

use crate::config::RouterServiceOptions;
use crate::metrics::ServiceMetrics;
use crate::reservations::Reservations;
use crate::routes::router;
use dynamo_frontend::show_routers_of;
use dynamo_llm::routed_models::RoutedModels;
use dynamo_routing::Placement;
use dynamo_runtime::environment::Listener;
use dynamo_runtime::http_server::{HttpBounds, serve_http};
use dynamo_runtime::telemetry::{MetricsError, MetricsRegistry};
use dynamo_runtime::tls::{ServerTls, TlsListener};
use dynamo_runtime::{Environment, Tasks};
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Balancers keep some connections open each, and send heads of the usual size.
const BOUNDS: HttpBounds = HttpBounds {
    connections: 4_096,
    header_bytes: 64 * 1024,
    header_timeout: Duration::from_secs(60),
};

/// How often reservations are looked at whose time may be up: their times are minutes.
const EXPIRY_INTERVAL: Duration = Duration::from_millis(250);

/// What the interface is made of, before it has a socket.
#[derive(Debug)]
pub struct RouterService {
    /// The options.
    pub options: RouterServiceOptions,
    /// What connections are encrypted with, if they are.
    pub tls: Option<ServerTls>,
    /// The models; may change at any time.
    pub models: RoutedModels,
    /// Sockets, clock, random numbers.
    pub environment: Environment,
    /// What `/metrics` shows.
    pub registry: MetricsRegistry,
    /// Cancelled when the process takes no new work.
    pub draining: CancellationToken,
}

/// An interface that listens and does not accept yet.
pub struct BoundService {
    app: Arc<App>,
    listener: Box<dyn Listener>,
    local_addr: SocketAddr,
}

/// What the handlers share.
pub(crate) struct App {
    pub(crate) models: RoutedModels,
    pub(crate) environment: Environment,
    pub(crate) registry: MetricsRegistry,
    pub(crate) metrics: ServiceMetrics,
    pub(crate) draining: CancellationToken,
    pub(crate) max_reservations: usize,
    started: Instant,
    reservations: Mutex<Reservations<Box<Placement>>>,
}

/// Why the interface cannot listen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The registry shows another router's figures already.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The system refuses.
    #[error("cannot listen on {address}; check --http-host and --http-port: {source}")]
    Refused {
        /// The address.
        address: String,
        /// What the system says.
        source: io::Error,
    },
}

impl fmt::Debug for BoundService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundService")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl RouterService {
    /// Takes the port.
    pub async fn bind(self) -> Result<BoundService, BindError> {
        let (host, port) = (&self.options.http_host, self.options.http_port);
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let refused = |source| BindError::Refused {
            address: address.clone(),
            source,
        };
        let bound = self.environment.network.bind(&address).await;
        let listener = TlsListener::around(bound.map_err(refused)?, self.tls);
        let local_addr = listener.local_addr().map_err(refused)?;
        let shown = self.models.clone();
        show_routers_of(&self.registry, move || {
            let models = shown.list().into_iter();
            let routers = models.map(|it| (Arc::clone(&it.name), Arc::clone(it.engine.router())));
            routers.collect()
        })?;
        let (limit, timeout) = (
            self.options.max_reservations,
            self.options.reservation_timeout,
        );
        let app = Arc::new(App {
            models: self.models,
            environment: self.environment,
            metrics: ServiceMetrics::new(&self.registry)?,
            registry: self.registry,
            draining: self.draining,
            max_reservations: limit,
            started: Instant::now(),
            reservations: Mutex::new(Reservations::new(limit, timeout)),
        });
        Ok(BoundService {
            app,
            listener,
            local_addr,
        })
    }
}

impl BoundService {
    /// The address, with the port that was really taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves in tasks below `tasks` until those are cancelled.
    pub fn serve(self, tasks: &Tasks) {
        let tasks = tasks.child();
        tasks.spawn_until_cancelled("reservations", expire(Arc::clone(&self.app)));
        let router = router(self.app);
        serve_http("router service", self.listener, router, BOUNDS, &tasks);
    }
}

async fn expire(app: Arc<App>) {
    loop {
        sleep(EXPIRY_INTERVAL).await;
        let now = app.now();
        let expired = app.with_reservations(|held| held.expire(now));
        if !expired.is_empty() {
            app.metrics.expired.inc_by(expired.len() as u64);
            tracing::info!(
                reservations = expired.len(),
                "reservations ended because nothing was heard of their requests"
            );
        }
    }
}

impl App {
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Looks at the reservations, or changes them.
    pub(crate) fn with_reservations<R>(
        &self,
        change: impl FnOnce(&mut Reservations<Box<Placement>>) -> R,
    ) -> R {
        let mut reservations = self.reservations.lock();
        let result = change(&mut reservations);
        let held = i64::try_from(reservations.len()).unwrap_or(i64::MAX);
        self.metrics.reservations.set(held);
        result
    }
}
