//! The serving side of the tcp backend: accepts connections, reads calls, runs their streams.
//!
//! Invariants
//! - A connection that breaks the protocol is closed and its streams are dropped; the others do
//!   not notice.
//! - Connections and streams per connection are bounded; what is over is refused in a way that
//!   callers retry elsewhere.

use super::frame::{self, Frame, Hello, WireHeader};
use super::handlers::Handlers;
use super::handshake::{BULK_FEATURE, ConnectionError, FrameReader, Greeted, greet};
use super::outbox::Outbox;
use super::server_stream::ServerStream;
use super::tcp::keep_alive;
use super::{ACCEPTED_SINCE, IncomingRequest, TrafficClass};
use crate::Tasks;
use crate::environment::{Connection, Listener, Network};
use bytes::{Bytes, BytesMut};
use dynamo_protocols::{ErrorCode, RequestError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Connections a process takes: two (tokens and bulk) from each of hundreds of frontends.
pub(super) const MAX_CONNECTIONS: usize = 1024;

/// Streams one connection may carry at once. A frontend that has more in flight to one worker
/// than this is better refused: no engine batches that many.
pub(super) const MAX_STREAMS_PER_CONNECTION: usize = 4096;

/// Connections that are being told that there is no place. Beyond them they are just closed.
const MAX_REFUSALS: usize = 64;

/// Pause after a failed accept (out of file descriptors, say), so that it does not spin.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// How long a connection of a stopping process may take to write what is left: one high-water
/// mark's worth takes milliseconds to a peer that reads.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// When a caller that was refused for lack of room may try again.
const RETRY_AFTER_FULL: Duration = Duration::from_secs(1);

/// What the serving side takes at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) connections: usize,
    pub(super) streams_per_connection: usize,
    /// Newest version of the protocol to speak.
    pub(super) newest_version: u16,
}

/// Accepts connections until its tasks are cancelled.
pub(super) async fn serve(
    listener: Box<dyn Listener>,
    network: Arc<dyn Network>,
    handlers: Handlers,
    tasks: Tasks,
    limits: Limits,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
    loop {
        let Some(accepted) = tasks
            .cancellation()
            .run_until_cancelled(listener.accept())
            .await
        else {
            return;
        };
        let (connection, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a request plane connection failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::warn!(%peer, limit = limits.connections, "request plane connection refused");
            if let Ok(place) = Arc::clone(&refusals).try_acquire_owned() {
                tasks.spawn_until_cancelled("refused connection", async move {
                    // It is refused either way.
                    drop(timeout(FLUSH_TIMEOUT, refuse(connection, limits)).await);
                    drop(place);
                });
            }
            continue;
        };
        let own = tasks.child();
        let handlers = handlers.clone();
        let network = Arc::clone(&network);
        tasks.spawn("request plane server connection", async move {
            let _place = place;
            match run_connection(connection, &*network, handlers, &own, limits).await {
                Ok(()) | Err(ConnectionError::Closed | ConnectionError::Stopping) => {}
                Err(error) => tracing::warn!(%peer, %error, "request plane connection ended"),
            }
            own.stop().await;
        });
    }
}

/// Says why there is no place, and waits for the peer to close: closing first would discard what
/// it has not read yet.
async fn refuse(mut connection: Box<dyn Connection>, limits: Limits) -> io::Result<()> {
    let full = RequestError::new(
        ErrorCode::NoCapacity,
        "the worker has as many connections as it takes; send the request again later",
    );
    let mut out = BytesMut::new();
    frame::put_hello(&mut out, &Hello::up_to(limits.newest_version));
    let full = full.with_retry_after(RETRY_AFTER_FULL);
    frame::put_end(&mut out, frame::CONNECTION, Some(&full));
    connection.write_all(&out).await?;
    connection.shutdown().await?;
    tokio::io::copy(&mut connection, &mut tokio::io::sink()).await?;
    Ok(())
}

/// A connection's running streams.
struct Streams {
    limit: usize,
    class: TrafficClass,
    tells_acceptance: bool,
    handlers: Handlers,
    outbox: Arc<Outbox>,
    running: Arc<Mutex<BTreeMap<u32, Arc<ServerStream>>>>,
    tasks: Tasks,
}

async fn run_connection(
    connection: Box<dyn Connection>,
    network: &dyn Network,
    handlers: Handlers,
    tasks: &Tasks,
    limits: Limits,
) -> Result<(), ConnectionError> {
    let Greeted {
        mut reader,
        writer,
        peer,
        version,
    } = match tasks
        .cancellation()
        .run_until_cancelled(greet(connection, Hello::up_to(limits.newest_version)))
        .await
    {
        None => return Err(ConnectionError::Stopping),
        Some(greeted) => greeted?,
    };
    let outbox = Arc::new(Outbox::default());
    let refusing = handlers.refusing().clone();
    let streams = Streams {
        limit: limits.streams_per_connection,
        class: if peer.features.iter().any(|feature| feature == BULK_FEATURE) {
            TrafficClass::Bulk
        } else {
            TrafficClass::Latency
        },
        tells_acceptance: version >= ACCEPTED_SINCE,
        handlers,
        outbox: Arc::clone(&outbox),
        running: Arc::default(),
        tasks: tasks.child(),
    };
    let heard = Mutex::new(Instant::now());
    let read = async {
        loop {
            // First of all: frames may have come together with the HELLO.
            streams.take_frames(&mut reader)?;
            reader.fill().await?;
            *heard.lock() = Instant::now();
        }
    };
    let go_away = async {
        refusing.cancelled().await;
        // A closed outbox has no reader for it.
        drop(outbox.put_control(frame::put_go_away));
        pending().await
    };
    let mut write = std::pin::pin!(outbox.write_to(writer, network));
    let ended = tokio::select! {
        biased;
        () = tasks.cancellation().cancelled() => Err(ConnectionError::Stopping),
        ended = keep_alive(&outbox, &heard, network) => Err(ended),
        ended = go_away => ended,
        // Before the reader: a peer that never stops sending would use up every turn of this
        // task, and neither items nor heartbeats would ever leave.
        written = &mut write => Err(written.map_or_else(ConnectionError::from, |()| ConnectionError::NotReading)),
        ended = read => ended,
    };
    let told = ended.as_ref().err().filter(|error| error.is_violation());
    if let Some(violation) = told {
        let reason = RequestError::new(ErrorCode::WorkerProtocol, violation.to_string());
        drop(outbox.put_control(|out| frame::put_end(out, frame::CONNECTION, Some(&reason))));
    }
    outbox.close();
    if told.is_some() || matches!(ended, Err(ConnectionError::Stopping)) {
        // What was put last still goes out, unless the peer does not take it.
        drop(timeout(FLUSH_TIMEOUT, write).await);
    }
    ended
}

impl Streams {
    fn take_frames(&self, reader: &mut FrameReader) -> Result<(), ConnectionError> {
        while let Some(frame) = reader.next()? {
            match frame {
                Frame::Request {
                    stream,
                    header,
                    body,
                } => self.start(stream, *header, Bytes::copy_from_slice(body))?,
                Frame::Cancel { stream } => {
                    // Gone already: the CANCEL crossed the END.
                    if let Some(running) = self.running.lock().remove(&stream) {
                        running.cancel();
                    }
                }
                Frame::Credit { stream, bytes } => {
                    if let Some(running) = self.running.lock().get(&stream) {
                        running.add_credit(bytes);
                    }
                }
                Frame::Ping(nonce) => self
                    .outbox
                    .put_control(|out| frame::put_pong(out, nonce))
                    .map_err(|_| ConnectionError::NotReading)?,
                Frame::Pong(_) | Frame::GoAway => {}
                Frame::Hello(_) => return Err(ConnectionError::WrongState("second HELLO")),
                Frame::Item { .. } => return Err(ConnectionError::WrongState("ITEM")),
                Frame::End { .. } => return Err(ConnectionError::WrongState("END")),
                Frame::Accepted { .. } => return Err(ConnectionError::WrongState("ACCEPTED")),
            }
        }
        Ok(())
    }

    fn start(&self, stream: u32, header: WireHeader, body: Bytes) -> Result<(), ConnectionError> {
        let window = header.window;
        let header = match header.open(self.class, Instant::now()) {
            Ok(header) => header,
            Err(reason) => {
                let message = format!("the worker cannot read the request's header: {reason}");
                let unreadable = RequestError::new(ErrorCode::WorkerProtocol, message);
                return self.refuse(stream, &unreadable);
            }
        };
        let mut running = self.running.lock();
        if stream == frame::CONNECTION || running.contains_key(&stream) {
            return Err(ConnectionError::WrongState("REQUEST on a running stream"));
        }
        if running.len() >= self.limit {
            drop(running);
            let message = format!(
                "the worker runs {} streams of this frontend already; \
                 send the request again later",
                self.limit
            );
            let full = RequestError::new(ErrorCode::NoCapacity, message);
            return self.refuse(stream, &full.with_retry_after(RETRY_AFTER_FULL));
        }
        let cancel = self.tasks.cancellation().child_token();
        let started = Arc::new(ServerStream::new(window, cancel, self.tells_acceptance));
        running.insert(stream, Arc::clone(&started));
        drop(running);

        let request = IncomingRequest { header, body };
        let handlers = self.handlers.clone();
        let outbox = Arc::clone(&self.outbox);
        let running = Arc::clone(&self.running);
        self.tasks.spawn("request plane stream", async move {
            started.run(stream, request, handlers, outbox).await;
            running.lock().remove(&stream);
        });
        Ok(())
    }

    fn refuse(&self, stream: u32, error: &RequestError) -> Result<(), ConnectionError> {
        self.outbox
            .put_control(|out| frame::put_end(out, stream, Some(error)))
            .map_err(|_| ConnectionError::NotReading)
    }
}
