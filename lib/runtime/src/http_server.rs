//! A small HTTP/1.1 server for a process's own pages and interfaces, within bounds.
//!
//! What clients do costs them their connection and nothing else. It does not authenticate, and
//! has no routes of its own.

use crate::Tasks;
use crate::environment::{Connection, Listener};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub struct HttpBounds {
    /// Connections at a time. Further ones wait in the system's queue.
    pub connections: usize,
    /// Bytes of a request's head. The HTTP library takes no less than 8 KiB.
    pub header_bytes: usize,
    /// How long a client may take to send a request's head, counted also while a connection is
    /// idle.
    pub header_timeout: Duration,
}

/// How long answers that are being sent may take when the process ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failed accept: most often there are no file descriptors left, and trying again
/// at once would take the CPU from what might free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the tasks are cancelled. `name` is that of its tasks and in its log lines.
pub fn serve_http(
    name: &'static str,
    listener: Box<dyn Listener>,
    router: Router,
    bounds: HttpBounds,
    tasks: &Tasks,
) {
    let connections = tasks.child();
    tasks.spawn_until_cancelled(name, async move {
        let places = Arc::new(Semaphore::new(bounds.connections));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return; // Never closed.
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = serve(stream, router.clone(), bounds, connections.clone());
                    connections.spawn(name, async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(server = name, %error, "cannot accept a connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

async fn serve(stream: Box<dyn Connection>, router: Router, bounds: HttpBounds, tasks: Tasks) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.header_timeout)
        .max_buf_size(bounds.header_bytes)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = tasks.cancellation().cancelled() => {
            connection.as_mut().graceful_shutdown();
            match timeout(END_TIMEOUT, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        // The client's doing: it went away, was too slow or sent what is no HTTP.
        tracing::debug!(%error, "connection ended early");
    }
}
