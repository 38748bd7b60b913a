//! The accept loop: HTTP/1.1 on a listener, within bounds.

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

/// Connections at a time: some probes and scrapers, with room for those that hang. Further ones
/// wait in the system's queue.
const CONNECTIONS: usize = 64;

/// Bytes of a request's head. Requests here have none worth mentioning; the HTTP library takes
/// no less than 8 KiB.
const HEADER_BYTES: usize = 16 * 1024;

/// How long a client may take to send a request's head, counted also while a connection is idle.
/// Longer than a scraper's usual interval would keep the slow ones; shorter only costs a new
/// connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long answers that are being sent may take when the process ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause after a failed accept: most often there are no file descriptors left, and trying again
/// at once would take the CPU from what might free some.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until the tasks are cancelled.
pub(super) fn start(listener: Box<dyn Listener>, router: Router, tasks: &Tasks) {
    let connections = tasks.child();
    tasks.spawn_until_cancelled("status server", async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return; // Never closed.
            };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let serving = serve(stream, router.clone(), connections.clone());
                    connections.spawn("status connection", async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "status server cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
}

async fn serve(stream: Box<dyn Connection>, router: Router, tasks: Tasks) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES)
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
        tracing::debug!(%error, "status connection ended early");
    }
}
