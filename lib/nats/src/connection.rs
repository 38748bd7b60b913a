//! One connection: what its owner reads and writes, and what is published for it.
//!
//! What is written is published at once where the client has room for it, on the writer's own
//! task. Everything else (acknowledgements, what is sent again, what had no room) is published by
//! the connection's own task, which ends once the connection is dropped and the other side has
//! everything, or [`LINGER`] is over.

use crate::link::Link;
use crate::segment::{Kind, Segment};
use crate::stream::{Read, Stream, Wake};
use async_nats::Subject;
use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// How long a connection that was dropped goes on to deliver what was written to it: some round
/// trips. A peer that is away longer hears of the end by other means.
const LINGER: Duration = Duration::from_secs(1);

/// How long the last messages of a connection may take to leave this process.
const FLUSH_TIMEOUT: Duration = Duration::from_millis(500);

/// How far the making of a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dial {
    /// Asked for, and not answered yet.
    Asked,
    /// Made.
    Made,
    /// Nobody listens at the other side's subject.
    NobodyThere,
    /// The other side does not take it.
    Refused,
}

/// What a connection's owner, its task and the process's reader of messages share.
#[derive(Debug)]
pub(crate) struct Shared {
    link: Link,
    connection: u64,
    dialled: bool,
    peer: Subject,
    state: Mutex<State>,
    publish: Notify,
    dial: watch::Sender<Dial>,
}

#[derive(Debug)]
struct State {
    stream: Stream,
    reader: Option<Waker>,
    writer: Option<Waker>,
    /// The connection's task is publishing: what is written meanwhile comes after that.
    publishing: bool,
    /// Why nothing more comes or goes.
    failed: Option<Failed>,
    dropped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failed {
    Reset,
    /// The server's limit is below what was agreed when the bytes were written.
    MessageTooLarge,
    ClientEnded,
}

/// A byte stream over NATS. Dropping it ends the connection.
pub(crate) struct NatsConnection {
    shared: Arc<Shared>,
}

impl Shared {
    pub(crate) fn new(link: Link, connection: u64, dialled: bool, peer: Subject) -> Arc<Self> {
        let dial = if dialled { Dial::Asked } else { Dial::Made };
        Arc::new(Self {
            link,
            connection,
            dialled,
            peer,
            state: Mutex::new(State {
                stream: Stream::new(connection, dialled, Instant::now()),
                reader: None,
                writer: None,
                publishing: false,
                failed: None,
                dropped: false,
            }),
            publish: Notify::new(),
            dial: watch::Sender::new(dial),
        })
    }

    /// The connection as its owner has it.
    pub(crate) fn open(self: &Arc<Self>) -> NatsConnection {
        NatsConnection {
            shared: Arc::clone(self),
        }
    }

    /// The other side's subject.
    pub(crate) fn peer(&self) -> &Subject {
        &self.peer
    }

    /// Tells how far the making came.
    pub(crate) fn watch_dial(&self) -> watch::Receiver<Dial> {
        self.dial.subscribe()
    }

    /// How far the making came, from what arrived.
    pub(crate) fn set_dial(&self, dial: Dial) {
        self.dial.send_if_modified(|known| {
            let changes = *known == Dial::Asked;
            if changes {
                *known = dial;
            }
            changes
        });
    }

    /// A message without a part in the stream: who asks, who accepts, who ends.
    pub(crate) fn plain(&self, kind: Kind, payload: Bytes) -> Bytes {
        let limit = crate::stream::WINDOW_BYTES;
        let (from_dialler, connection) = (self.dialled, self.connection);
        Segment {
            kind,
            from_dialler,
            connection,
            acknowledged: 0,
            limit,
            start: 0,
            payload,
        }
        .encode()
    }

    /// Takes in a message of the other side.
    pub(crate) fn take(&self, segment: Segment) {
        let now = Instant::now();
        let mut state = self.state.lock();
        match segment.kind {
            Kind::Reset => {
                self.set_dial(Dial::Refused);
                drop(state);
                self.fail(Failed::Reset);
                return;
            }
            // From the other side's first byte on, the connection is made.
            Kind::Accept | Kind::Data | Kind::Finish | Kind::Resend => self.set_dial(Dial::Made),
            Kind::Dial => {}
        }
        if state.dropped && !segment.payload.is_empty() {
            // Nobody will read it; what it acknowledges counts.
            let acknowledges = Segment {
                payload: Bytes::new(),
                ..segment
            };
            let wake = state.stream.take(acknowledges, now);
            self.wake(state, wake);
            return;
        }
        let wake = state.stream.take(segment, now);
        self.wake(state, wake);
    }

    /// This process's link came up again: what was on its way here may be lost.
    pub(crate) fn link_was_down(&self) {
        self.state.lock().stream.link_was_down();
        self.publish.notify_one();
    }

    fn wake(&self, mut state: parking_lot::MutexGuard<'_, State>, wake: Wake) {
        let reader = state.reader.take_if(|_| wake.reader);
        let writer = state.writer.take_if(|_| wake.writer);
        drop(state);
        reader.into_iter().chain(writer).for_each(Waker::wake);
        if wake.publisher {
            self.publish.notify_one();
        }
    }

    fn fail(&self, why: Failed) {
        let mut state = self.state.lock();
        state.failed.get_or_insert(why);
        let both = Wake {
            reader: true,
            writer: true,
            publisher: true,
        };
        self.wake(state, both);
    }

    /// Publishes what the client takes at once. What is left is for the connection's task.
    fn publish_now(&self, state: &mut State) {
        if state.publishing {
            return;
        }
        while let Some(message) = state.stream.next().cloned() {
            let published = self.link.client().publish(self.peer.clone(), message);
            match published.now_or_never() {
                Some(Ok(())) => state.stream.mark_published(),
                // The task meets the same error, and says what it is.
                Some(Err(_)) | None => {
                    self.publish.notify_one();
                    return;
                }
            }
        }
    }

    /// Publishes for the connection until it is over.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut dropped_at = None;
        loop {
            if let Err(why) = self.publish_what_is_due().await {
                self.fail(why);
            }
            let deadline = {
                let mut state = self.state.lock();
                if state.dropped && dropped_at.is_none() {
                    dropped_at = Some(Instant::now());
                    state.stream.finish(Instant::now());
                    continue;
                }
                let lingers = dropped_at.is_some_and(|at| at.elapsed() < LINGER);
                let undelivered = state.failed.is_none() && !state.stream.is_delivered();
                if state.dropped && !(lingers && undelivered) {
                    break;
                }
                let linger = dropped_at.map(|at| at + LINGER);
                let own = state.stream.deadline().filter(|_| state.failed.is_none());
                linger.into_iter().chain(own).min()
            };
            tokio::select! {
                biased;
                () = self.publish.notified() => {}
                () = until(deadline) => {}
            }
        }
        // The other side need not wait for what does not come; it may be away as well.
        let reset = self.plain(Kind::Reset, Bytes::new());
        let client = self.link.client();
        let last = async {
            if client.publish(self.peer.clone(), reset).await.is_ok() {
                drop(client.flush().await);
            }
        };
        drop(timeout(FLUSH_TIMEOUT, last).await);
    }

    async fn publish_what_is_due(&self) -> Result<(), Failed> {
        loop {
            let (message, is_control) = {
                let mut state = self.state.lock();
                let now = Instant::now();
                if self.link.is_up() {
                    state.stream.resend_what_is_late(now);
                }
                let control = state.stream.control(now);
                let is_control = control.is_some();
                let message = control.or_else(|| state.stream.next().cloned());
                state.publishing = message.is_some() && state.failed.is_none();
                match message.filter(|_| state.failed.is_none()) {
                    Some(message) => (message, is_control),
                    None => return Ok(()),
                }
            };
            let published = self.link.client().publish(self.peer.clone(), message);
            let published = timeout(LINGER, published).await;
            let mut state = self.state.lock();
            state.publishing = false;
            match published {
                Ok(Ok(())) if is_control => {}
                Ok(Ok(())) => state.stream.mark_published(),
                Ok(Err(error)) => {
                    return Err(match error.kind() {
                        async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                            Failed::MessageTooLarge
                        }
                        _ => Failed::ClientEnded,
                    });
                }
                // The server is away and the client is full: it is tried again, unless the
                // connection was dropped meanwhile.
                Err(_) if state.dropped => return Err(Failed::ClientEnded),
                Err(_) if is_control => state.stream.link_was_down(),
                Err(_) => {}
            }
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

impl Failed {
    fn as_error(self, link: &Link) -> io::Error {
        match self {
            Self::Reset => io::ErrorKind::ConnectionReset.into(),
            Self::ClientEnded => io::Error::other("the nats client has ended"),
            Self::MessageTooLarge => io::Error::other(format!(
                "the nats server at {} takes messages of {} bytes now, less than before; \
                 raise its max_payload",
                link.servers(),
                link.max_payload()
            )),
        }
    }
}

// === impl NatsConnection ===

impl AsyncRead for NatsConnection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        match state.stream.read(buffer) {
            Read::Some { publish } => {
                drop(state);
                if publish {
                    shared.publish.notify_one();
                }
                Poll::Ready(Ok(()))
            }
            Read::End => Poll::Ready(Ok(())),
            Read::Nothing => match state.failed {
                Some(why) => Poll::Ready(Err(why.as_error(&shared.link))),
                None => {
                    state.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            },
        }
    }
}

impl AsyncWrite for NatsConnection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let shared = &self.shared;
        let mut state = shared.state.lock();
        if let Some(why) = state.failed {
            return Poll::Ready(Err(why.as_error(&shared.link)));
        }
        let now = Instant::now();
        let largest = shared.link.max_payload();
        let was_idle = state.stream.deadline().is_none();
        let written = state.stream.write(buffer, largest, now);
        if written == 0 && !buffer.is_empty() {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        shared.publish_now(&mut state);
        drop(state);
        if was_idle {
            // The task is to look after what may have to be sent again.
            shared.publish.notify_one();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.state.lock().stream.finish(Instant::now());
        self.shared.publish.notify_one();
        Poll::Ready(Ok(()))
    }
}

impl Drop for NatsConnection {
    fn drop(&mut self) {
        self.shared.state.lock().dropped = true;
        self.shared.publish.notify_one();
    }
}

impl fmt::Debug for NatsConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsConnection")
            .field("connection", &self.shared.connection)
            .field("peer", &self.shared.peer)
            .finish_non_exhaustive()
    }
}
