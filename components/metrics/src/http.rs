//! The pages: `/metrics`, `/health` and `/live`, as every process's status server has them, on an
//! address of the component's own.

use crate::config::MetricsOptions;
use dynamo_runtime::environment::Listener;
use dynamo_runtime::http_server::{HttpBounds, serve_http};
use dynamo_runtime::status::{HealthState, pages};
use dynamo_runtime::telemetry::MetricsRegistry;
use dynamo_runtime::{Environment, Tasks};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// Scrapers, probes and people, with room for those that hang; a scraper's connection may be idle
/// from one scrape to the next, which is a minute by default.
const BOUNDS: HttpBounds = HttpBounds {
    connections: 256,
    header_bytes: 16 * 1024,
    header_timeout: Duration::from_secs(90),
};

/// Pages whose address is taken and that nobody is answered yet.
pub struct BoundPages {
    listener: Box<dyn Listener>,
    local_addr: SocketAddr,
}

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}; check --host and --port: {source}")]
pub struct BindError {
    /// The address.
    pub address: String,
    /// What the system says.
    pub source: io::Error,
}

impl fmt::Debug for BoundPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundPages")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl BoundPages {
    /// Takes the port.
    pub async fn bind(
        options: &MetricsOptions,
        environment: &Environment,
    ) -> Result<Self, BindError> {
        let (host, port) = (&options.host, options.port);
        let address = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let refused = |source| BindError {
            address: address.clone(),
            source,
        };
        let listener = environment.network.bind(&address).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        Ok(Self {
            listener,
            local_addr,
        })
    }

    /// The address, with the port that was really taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until the tasks are cancelled.
    pub fn serve(self, health: HealthState, metrics: MetricsRegistry, tasks: &Tasks) {
        let router = pages(health, metrics);
        serve_http("metrics pages", self.listener, router, BOUNDS, tasks);
    }
}
