//! Idle connections to one server.

use super::{Wire, WireError};
use dynamo_runtime::environment::Network;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Idle connections that are kept: as many as there were requests at once, up to this.
pub const MAX_IDLE: usize = 64;

/// How long a connection is kept idle: uvicorn, under vLLM and SGLang, closes after five seconds,
/// and a request that meets the closing has to be sent again.
pub const IDLE_AGE: Duration = Duration::from_secs(4);

/// See the module's description.
#[derive(Debug)]
pub struct Pool {
    network: Arc<dyn Network>,
    address: String,
    patience: Duration,
    idle: Mutex<Vec<(Instant, Wire)>>,
}

impl Pool {
    /// No connections to this `host:port` yet; each may take `patience` to come about.
    pub fn new(network: Arc<dyn Network>, address: String, patience: Duration) -> Self {
        Self {
            network,
            address,
            patience,
            idle: Mutex::default(),
        }
    }

    /// A connection: the one used last, if it still works, else a new one.
    pub async fn take(&self) -> Result<Wire, WireError> {
        match self.take_idle() {
            Some(wire) => Ok(wire),
            None => self.open().await,
        }
    }

    /// A new connection.
    pub async fn open(&self) -> Result<Wire, WireError> {
        Wire::open(&*self.network, &self.address, self.patience).await
    }

    /// Gives a connection back whose answer is complete.
    pub fn put(&self, mut wire: Wire) {
        if wire.is_ready() {
            let mut idle = self.idle.lock();
            let now = Instant::now();
            // The oldest are at the front.
            let stale = idle.partition_point(|(since, _)| now - *since > IDLE_AGE);
            let surplus = (idle.len() + 1).saturating_sub(MAX_IDLE);
            let leaving = stale.max(surplus).min(idle.len());
            idle.drain(..leaving);
            idle.push((now, wire));
        }
    }

    /// Drops all idle connections: the server is gone.
    pub fn clear(&self) {
        drop(std::mem::take(&mut *self.idle.lock()));
    }

    fn take_idle(&self) -> Option<Wire> {
        loop {
            let (since, mut wire) = self.idle.lock().pop()?;
            if since.elapsed() <= IDLE_AGE && wire.is_ready() {
                return Some(wire);
            }
        }
    }
}
