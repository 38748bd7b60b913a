//! The calling side of the tcp backend: one connection to one peer, shared by many streams.
//!
//! Invariants
//! - Stream numbers grow and are never used twice on a connection, so that output of a stream
//!   that was given up (a stale attempt, a worker that thawed) meets nobody: it is dropped, and
//!   cancelled once more.
//! - When the connection ends, for whatever reason, every stream on it ends with `worker_lost`.

use super::frame::{self, Frame, Hello, MAX_FRAME_BYTES, WireHeader};
use super::handlers::draining;
use super::handshake::{BULK_FEATURE, ConnectionError, FrameReader, Greeted, greet};
use super::inbox::{Batch, Inbox, Taken};
use super::outbox::Outbox;
use super::server_stream::deadline_error;
use super::tcp::keep_alive;
use super::{ACCEPTED_SINCE, ReceiveItems, ReceivedRawItem, RequestHeader, TrafficClass};
use crate::environment::Network;
use crate::{Environment, Tasks};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

/// How long connecting may take: far above a datacentre's round trip, and short enough to try
/// another worker within a request's patience.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of items a stream of tokens may have in flight: seconds of any engine's output, and a
/// quarter of a gigabyte at the very most per connection.
const LATENCY_WINDOW: u32 = 64 * 1024;

/// Bytes a bulk stream may have in flight: enough to fill a fast link, rare enough to afford.
const BULK_WINDOW: u32 = 4 * 1024 * 1024;

/// Room for the header in a REQUEST beside the largest body.
const REQUEST_HEADER_ROOM: usize = 64 * 1024;

/// A connection to one peer. Streams hold on to it; it ends with its task.
#[derive(Debug)]
pub(super) struct ClientConnection {
    outbox: Outbox,
    streams: Mutex<Streams>,
    window: u32,
    /// Whether the peer says when it has taken a call.
    tells_acceptance: bool,
}

#[derive(Debug)]
struct Streams {
    inboxes: BTreeMap<u32, Arc<Inbox>>,
    next: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The peer takes no new streams here.
    GoingAway,
    Closed,
}

/// An answer as it comes in over this connection.
struct TcpAnswer {
    connection: Arc<ClientConnection>,
    stream: u32,
    inbox: Arc<Inbox>,
    batch: Batch,
    /// Taken out and not yet credited, in bytes.
    uncredited: u32,
    deadline: Option<Pin<Box<Sleep>>>,
}

/// The connection cannot carry another stream; a new one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotUsable;

impl ClientConnection {
    /// Connects and greets; the connection then lives in `tasks`.
    pub(super) async fn connect(
        environment: &Environment,
        tasks: &Tasks,
        address: &str,
        class: TrafficClass,
        newest_version: u16,
    ) -> Result<Arc<Self>, RequestError> {
        let unreachable = |reason: String| {
            RequestError::new(
                ErrorCode::WorkerUnreachable,
                format!("cannot reach the worker at {address}: {reason}"),
            )
        };
        let connecting = timeout(CONNECT_TIMEOUT, environment.network.connect(address));
        let connection = match connecting.await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {CONNECT_TIMEOUT:?}"))),
        };
        let (features, window) = match class {
            TrafficClass::Latency => (Vec::new(), LATENCY_WINDOW),
            TrafficClass::Bulk => (vec![BULK_FEATURE.to_owned()], BULK_WINDOW),
        };
        let hello = Hello {
            features,
            ..Hello::up_to(newest_version)
        };
        let greeted = greet(connection, hello)
            .await
            .map_err(|error| error.as_unreachable(address))?;
        let this = Arc::new(Self {
            outbox: Outbox::default(),
            streams: Mutex::new(Streams {
                inboxes: BTreeMap::new(),
                next: 1,
                state: State::Open,
            }),
            window,
            tells_acceptance: greeted.version >= ACCEPTED_SINCE,
        });
        let running = Arc::clone(&this);
        let network = Arc::clone(&environment.network);
        let cancel = tasks.cancellation().clone();
        let peer = address.to_owned();
        tasks.spawn("request plane client connection", async move {
            let error = tokio::select! {
                biased;
                () = cancel.cancelled() => ConnectionError::Stopping,
                error = running.run(greeted, &*network) => error,
            };
            running.fail(&peer, &error);
        });
        Ok(this)
    }

    /// Whether calls go here. One to a peer that is going away is refused without asking it.
    pub(super) fn is_usable(&self) -> bool {
        let streams = self.streams.lock();
        // Numbers are used once: a connection that has used them all is replaced.
        streams.state != State::Closed && streams.next != u32::MAX
    }

    /// Sends a call and gives back the receiving end of its answer, once the peer has taken it if
    /// it tells that.
    pub(super) async fn open(
        self: &Arc<Self>,
        header: &RequestHeader,
        body: &Bytes,
    ) -> Result<Result<Box<dyn ReceiveItems>, RequestError>, NotUsable> {
        if body.len() > MAX_FRAME_BYTES - REQUEST_HEADER_ROOM {
            return Ok(Err(RequestError::new(
                ErrorCode::PayloadTooLarge,
                format!(
                    "the request has {} bytes, more than the {MAX_FRAME_BYTES} that a worker takes",
                    body.len()
                ),
            )));
        }
        if self.streams.lock().state == State::GoingAway {
            return Ok(Err(draining()));
        }
        let mut answer = self.register(header.deadline)?;
        let wire = WireHeader::new(header, self.window, Instant::now());
        poll_fn(|context| {
            self.outbox.poll_put(context, answer.stream, |out| {
                frame::put_request(out, answer.stream, &wire, body);
            })
        })
        .await
        .map_err(|_| NotUsable)?;
        if self.tells_acceptance
            && let Err(refusal) = poll_fn(|context| answer.poll_accepted(context)).await
        {
            return Ok(Err(refusal));
        }
        Ok(Ok(Box::new(answer)))
    }

    fn register(self: &Arc<Self>, deadline: Option<Instant>) -> Result<TcpAnswer, NotUsable> {
        let inbox = Arc::new(Inbox::new(self.window));
        let mut streams = self.streams.lock();
        if streams.state == State::Closed || streams.next == u32::MAX {
            return Err(NotUsable);
        }
        let stream = streams.next;
        streams.next += 1;
        streams.inboxes.insert(stream, Arc::clone(&inbox));
        drop(streams);
        Ok(TcpAnswer {
            connection: Arc::clone(self),
            stream,
            inbox,
            batch: Batch::default(),
            uncredited: 0,
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
        })
    }

    async fn run(&self, greeted: Greeted, network: &dyn Network) -> ConnectionError {
        let Greeted {
            mut reader, writer, ..
        } = greeted;
        let heard = Mutex::new(Instant::now());
        let read = async {
            let mut wakers = Vec::new();
            loop {
                // First of all: frames may have come together with the HELLO.
                let taken = self.take_frames(&mut reader, &mut wakers);
                wakers.drain(..).for_each(Waker::wake);
                if let Err(error) = taken {
                    return error;
                }
                if let Err(error) = reader.fill().await {
                    return error;
                }
                *heard.lock() = Instant::now();
            }
        };
        tokio::select! {
            biased;
            error = keep_alive(&self.outbox, &heard, network) => error,
            // Before the reader: a peer that never stops sending would use up every turn of
            // this task, and credit and heartbeats would never leave.
            written = self.outbox.write_to(writer, network) => {
                written.map_or_else(ConnectionError::from, |()| ConnectionError::NotReading)
            }
            error = read => error,
        }
    }

    /// Takes in all frames that have come, under one lock; `wakers` are for after it.
    fn take_frames(
        &self,
        reader: &mut FrameReader,
        wakers: &mut Vec<Waker>,
    ) -> Result<(), ConnectionError> {
        let mut streams = self.streams.lock();
        while let Some(frame) = reader.next()? {
            match frame {
                Frame::Item {
                    stream,
                    position,
                    positions,
                    payload,
                } => match streams.inboxes.get(&stream) {
                    Some(inbox) => wakers.extend(inbox.put(position, positions, payload)),
                    None => self.control(|out| frame::put_cancel(out, stream))?,
                },
                Frame::End { stream, error } => {
                    if stream == frame::CONNECTION {
                        return Err(error.map_or(ConnectionError::Closed, ConnectionError::Ended));
                    }
                    if let Some(inbox) = streams.inboxes.remove(&stream) {
                        wakers.extend(inbox.end(error.map_or(Ok(()), Err)));
                    }
                }
                // One that was given up meanwhile is cancelled already.
                Frame::Accepted { stream } => {
                    let inbox = streams.inboxes.get(&stream);
                    wakers.extend(inbox.and_then(|inbox| inbox.accepted()));
                }
                Frame::Ping(nonce) => self.control(|out| frame::put_pong(out, nonce))?,
                Frame::Pong(_) => {}
                Frame::GoAway => streams.state = State::GoingAway,
                Frame::Hello(_) => return Err(ConnectionError::WrongState("second HELLO")),
                Frame::Request { .. } => return Err(ConnectionError::WrongState("REQUEST")),
                Frame::Cancel { .. } => return Err(ConnectionError::WrongState("CANCEL")),
                Frame::Credit { .. } => return Err(ConnectionError::WrongState("CREDIT")),
            }
        }
        Ok(())
    }

    fn control(&self, put: impl FnOnce(&mut bytes::BytesMut)) -> Result<(), ConnectionError> {
        self.outbox
            .put_control(put)
            .map_err(|_| ConnectionError::NotReading)
    }

    /// Ends every stream: the connection is no more.
    fn fail(&self, peer: &str, error: &ConnectionError) {
        self.outbox.close();
        let mut streams = self.streams.lock();
        streams.state = State::Closed;
        let inboxes = std::mem::take(&mut streams.inboxes);
        drop(streams);
        let orderly = matches!(error, ConnectionError::Closed | ConnectionError::Stopping);
        if !orderly || !inboxes.is_empty() {
            tracing::warn!(peer, %error, streams = inboxes.len(), "request plane connection lost");
        }
        let lost = error.as_lost();
        for inbox in inboxes.into_values() {
            inbox
                .end(Err(lost.clone()))
                .into_iter()
                .for_each(Waker::wake);
        }
    }
}

// === impl TcpAnswer ===

impl TcpAnswer {
    /// Ready when the peer has taken the call or refused it.
    fn poll_accepted(&mut self, context: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        if let Poll::Ready(taken) = self.inbox.poll_accepted(context) {
            return Poll::Ready(taken);
        }
        self.poll_deadline(context).map(Err)
    }

    fn poll_deadline(&mut self, context: &mut Context<'_>) -> Poll<RequestError> {
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(context).map(|()| deadline_error()),
            None => Poll::Pending,
        }
    }

    /// Notes what an item cost, and makes room at the server once half the window is used.
    fn spend(&mut self, cost: u32) {
        self.uncredited += cost;
        if self.uncredited >= self.connection.window / 2 {
            let bytes = std::mem::take(&mut self.uncredited);
            self.inbox.credit(bytes);
            // A connection that closed meanwhile ends the stream through its inbox.
            drop(
                self.connection
                    .outbox
                    .put_control(|out| frame::put_credit(out, self.stream, bytes)),
            );
        }
    }
}

impl ReceiveItems for TcpAnswer {
    fn poll_item(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ReceivedRawItem, RequestError>>> {
        loop {
            if let Some((item, cost)) = self.batch.next() {
                self.spend(cost);
                return Poll::Ready(Some(Ok(item)));
            }
            // The server keeps the deadline as well; this is for one that is out of reach, or
            // does not care. Once per batch is often enough.
            if let Poll::Ready(error) = self.poll_deadline(context) {
                return Poll::Ready(Some(Err(error)));
            }
            match self.inbox.poll_take(context, &mut self.batch) {
                Poll::Ready(Taken::Items) => {}
                Poll::Ready(Taken::End(error)) => return Poll::Ready(error.map(Err)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

impl Drop for TcpAnswer {
    fn drop(&mut self) {
        let listed = self.connection.streams.lock().inboxes.remove(&self.stream);
        // One that the server has ended is not listed any more.
        if listed.is_some() {
            drop(
                self.connection
                    .outbox
                    .put_control(|out| frame::put_cancel(out, self.stream)),
            );
        }
    }
}
