//! The system status server: is the process alive, is it ready, what are its figures.
//!
//! It is off unless a port is given, and listens on loopback unless another address is.
//!
//! | path | answer |
//! |---|---|
//! | `/live` | 200 as long as the process answers, also while it drains |
//! | `/health` | 200 when it is ready, else 503; the state of each endpoint |
//! | `/metrics` | Prometheus's text format |
//!
//! Bounded in every direction: connections, header size, time for headers, time to end. What it
//! serves is small and takes no body, so that a busy process can always answer.

pub mod health;

pub use health::{EndpointStatus, HealthReport, HealthState};

use crate::config::RuntimeOptions;
use crate::http_server::{HttpBounds, serve_http};
use crate::telemetry::MetricsRegistry;
use crate::telemetry::metrics::CONTENT_TYPE;
use crate::{Environment, Tasks};
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Some probes and scrapers, with room for those that hang. Their requests have no head worth
/// mentioning; to keep them idle for longer than a scraper's usual interval would keep the slow
/// ones, and to cut them off only costs a new connection.
const BOUNDS: HttpBounds = HttpBounds {
    connections: 64,
    header_bytes: 16 * 1024,
    header_timeout: Duration::from_secs(10),
};

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusOptions {
    /// Host name or address.
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StatusError {
    /// Somebody else has the port.
    #[error(
        "status server address {address} is in use; give another port with --system-port or \
         DYN_SYSTEM_PORT, 0 for a free one"
    )]
    InUse {
        /// `host:port`.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened on.
    #[error(
        "status server cannot listen on {address}; give an address of this machine with \
         --system-host and a port with --system-port"
    )]
    Listen {
        /// `host:port`.
        address: String,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

/// What is served.
#[derive(Debug, Clone)]
struct Served {
    health: HealthState,
    metrics: MetricsRegistry,
}

// === impl StatusOptions ===

impl StatusOptions {
    /// Where the runtime's options want the server, if they want one.
    pub fn new(options: &RuntimeOptions) -> Option<Self> {
        let port = u16::try_from(options.system_port).ok()?;
        Some(Self {
            host: options.system_host.clone(),
            port,
        })
    }

    fn address(&self) -> String {
        // An IPv6 address is told from its port by brackets.
        if self.host.contains(':') && !self.host.starts_with('[') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Starts the server and gives back the address it is bound to. It ends with `tasks`.
pub async fn serve(
    options: &StatusOptions,
    health: HealthState,
    metrics: MetricsRegistry,
    environment: &Environment,
    tasks: &Tasks,
) -> Result<SocketAddr, StatusError> {
    let address = options.address();
    let failed = |source: io::Error| {
        let address = address.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => StatusError::InUse { address, source },
            _ => StatusError::Listen { address, source },
        }
    };
    let listener = environment.network.bind(&address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let router = pages(health, metrics);
    serve_http("status server", listener, router, BOUNDS, tasks);
    tracing::info!(address = %bound, "status server listens");
    Ok(bound)
}

/// The three pages, for a server of another address than this module's own.
pub fn pages(health: HealthState, metrics: MetricsRegistry) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/health", get(healthy))
        .route("/metrics", get(self::metrics))
        .with_state(Served { health, metrics })
}

async fn live(State(served): State<Served>) -> Json<HealthReport> {
    Json(served.health.report())
}

async fn healthy(State(served): State<Served>) -> Response {
    let report = served.health.report();
    let status = if report.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(report)).into_response()
}

async fn metrics(State(served): State<Served>) -> Response {
    let headers = [(header::CONTENT_TYPE, CONTENT_TYPE)];
    (headers, served.metrics.encode()).into_response()
}
