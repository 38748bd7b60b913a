//! An answer that is passed on.
//!
//! Invariants
//! - A stream of events is passed on in whole events: a server that breaks off in the middle of
//!   one leaves no half of it behind, unless an event is larger than [`MAX_HELD`].
//! - A stream ends with its end or with one error, and stands still for no longer than a limit
//!   that has a name; one whose server is found to be gone ends within [`LOST_SILENCE`].
//! - The connection goes back to the pool after a whole answer and is closed after any other.

use crate::fleet::{Backend, Fleet};
use crate::scan::{Counts, EventScan, Tail};
use crate::wire::{Pool, Wire, WireError};
use bytes::Bytes;
use dynamo_kv_router::decision_log::End;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_routing::Placement;
use futures_core::Stream;
use http::{HeaderMap, StatusCode};
use hyper::body::Incoming;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};

/// Beginning of an event that is held back until the rest is there. Larger events, such as those
/// with many log probabilities, are passed on in pieces.
pub const MAX_HELD: usize = 64 * 1024;

/// How often a stream that waits is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a server that is out may be silent in a stream: it may be too busy for polls and
/// still send tokens.
pub const LOST_SILENCE: Duration = Duration::from_secs(2);

/// The end mark of a stream.
const DONE: &[u8] = b"[DONE]";

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: AnswerBody,
}

/// The body of an answer.
#[derive(Debug)]
pub enum AnswerBody {
    /// All of it, and what it says of itself.
    Whole(Bytes, AnswerFacts),
    /// As it comes.
    Stream(Box<AnswerStream>),
}

/// What an answer says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnswerFacts {
    /// Token counts.
    pub counts: Counts,
    /// Events, if it is a stream of them.
    pub events: u64,
}

/// Some bytes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The bytes.
    pub bytes: Bytes,
    /// Events in them.
    pub events: u32,
}

/// Where the bytes of an answer come from.
pub(crate) struct Origin {
    /// `None` once it is in the pool again.
    wire: Option<Wire>,
    body: Incoming,
    /// Nothing but the connection's end says where the answer ends.
    ends_by_closing: bool,
}

/// An answer's body on its way.
pub struct AnswerStream {
    fleet: Arc<Fleet>,
    backend: Arc<Backend>,
    origin: Origin,
    first: Option<Bytes>,
    is_events: bool,
    scan: EventScan,
    tail: Tail,
    /// The beginning of an event.
    held: Vec<u8>,
    /// A part of an event went out without the rest.
    is_mid_event: bool,
    events: u64,
    placement: Option<Placement>,
    last: Instant,
    watch: Pin<Box<Sleep>>,
    is_over: bool,
}

// === impl Origin ===

impl Origin {
    pub(crate) fn new(wire: Wire, body: Incoming) -> Self {
        Self {
            wire: Some(wire),
            body,
            ends_by_closing: false,
        }
    }

    pub(crate) fn ended_by_closing(self, ends_by_closing: bool) -> Self {
        Self {
            ends_by_closing,
            ..self
        }
    }

    /// Gives the connection back after a whole answer.
    pub(crate) fn release(&mut self, pool: &Pool) {
        if let Some(wire) = self.wire.take() {
            pool.put(wire);
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, WireError>>> {
        match &mut self.wire {
            Some(wire) => wire.poll_body(cx, &mut self.body),
            None => Poll::Ready(None),
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, WireError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Origin").field(&self.wire).finish()
    }
}

// === impl AnswerFacts ===

impl AnswerFacts {
    pub(crate) fn of_whole(counts: Counts) -> Self {
        Self { counts, events: 0 }
    }
}

// === impl AnswerStream ===

impl AnswerStream {
    pub(crate) fn new(
        (fleet, backend): (Arc<Fleet>, Arc<Backend>),
        (origin, first): (Origin, Bytes),
        is_events: bool,
        placement: Option<Placement>,
    ) -> Self {
        Self {
            fleet,
            backend,
            origin,
            first: (!first.is_empty()).then_some(first),
            is_events,
            scan: EventScan::default(),
            tail: Tail::default(),
            held: Vec::new(),
            is_mid_event: false,
            events: 0,
            placement,
            last: Instant::now(),
            watch: Box::pin(sleep(WATCH_INTERVAL)),
            is_over: false,
        }
    }

    /// Whether it is a stream of events, so that an error can be one.
    pub fn is_events(&self) -> bool {
        self.is_events
    }

    /// Whether what went out ends in the middle of an event.
    pub fn is_mid_event(&self) -> bool {
        self.is_mid_event
    }

    /// What it said of itself so far.
    pub fn facts(&self) -> AnswerFacts {
        AnswerFacts {
            counts: self.tail.counts(),
            events: self.events,
        }
    }

    /// Takes bytes in; answers those that can go out.
    fn take(&mut self, bytes: Bytes) -> Option<Piece> {
        self.tail.push(&bytes);
        if !self.is_events {
            self.generated(u32::from(self.events == 0));
            self.events = 1;
            return Some(Piece { bytes, events: 0 });
        }
        let scanned = self.scan.scan(&bytes);
        self.events += u64::from(scanned.events);
        self.generated(scanned.events);
        let whole = match self.held.len() + bytes.len() - scanned.whole > MAX_HELD {
            true => bytes.len(),
            false => scanned.whole,
        };
        if whole == 0 {
            self.held.extend_from_slice(&bytes);
            return None;
        }
        self.is_mid_event = whole != scanned.whole;
        let rest = bytes.slice(whole..);
        let mut out = bytes.slice(..whole);
        if !self.held.is_empty() {
            self.held.extend_from_slice(&out);
            out = std::mem::take(&mut self.held).into();
        }
        self.held.extend_from_slice(&rest);
        Some(Piece {
            bytes: out,
            events: scanned.events,
        })
    }

    fn generated(&mut self, tokens: u32) {
        if let Some(placement) = &mut self.placement {
            placement.generated(tokens);
        }
    }

    /// The server's end of the answer.
    fn finish(&mut self) -> Poll<Option<Result<Piece, RequestError>>> {
        let kept = &self.tail;
        if self.is_events && self.origin.ends_by_closing && !kept.contains(DONE) {
            return self.fail(broke_off(), "lost");
        }
        self.is_over = true;
        self.origin.release(&self.backend.pool);
        let cached = self.tail.counts().cached;
        if let Some(placement) = self.placement.take() {
            self.fleet.note_cached(&placement, cached);
            placement.end(cached, End::Finished);
        }
        if self.held.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = std::mem::take(&mut self.held).into();
        Poll::Ready(Some(Ok(Piece { bytes, events: 0 })))
    }

    fn fail(
        &mut self,
        error: RequestError,
        result: &'static str,
    ) -> Poll<Option<Result<Piece, RequestError>>> {
        self.is_over = true;
        self.origin.wire = None;
        self.fleet.metrics.request(&self.backend.label, result);
        tracing::debug!(backend = self.backend.label, %error, "an answer broke off");
        if let Some(placement) = self.placement.take() {
            placement.end(None, End::Failed);
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Ready with the reason if the answer has stood still for too long.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<(RequestError, &'static str)> {
        loop {
            ready!(self.watch.as_mut().poll(cx));
            let silence = self.last.elapsed();
            if silence >= self.fleet.patience.idle {
                return Poll::Ready((self.fleet.stands_still(), "timeout"));
            }
            if silence >= LOST_SILENCE && !self.backend.is_in() {
                return Poll::Ready((broke_off(), "lost"));
            }
            self.watch.as_mut().reset(Instant::now() + WATCH_INTERVAL);
        }
    }
}

impl Stream for AnswerStream {
    type Item = Result<Piece, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Some(piece) = this.first.take().and_then(|first| this.take(first)) {
            return Poll::Ready(Some(Ok(piece)));
        }
        loop {
            match this.origin.poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    this.last = Instant::now();
                    if let Some(piece) = this.take(bytes) {
                        return Poll::Ready(Some(Ok(piece)));
                    }
                }
                Poll::Ready(None) => return this.finish(),
                Poll::Ready(Some(Err(_))) => return this.fail(broke_off(), "lost"),
                Poll::Pending => {
                    let (error, result) = ready!(this.poll_silence(cx));
                    return this.fail(error, result);
                }
            }
        }
    }
}

impl fmt::Debug for AnswerStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerStream")
            .field("backend", &self.backend.label)
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

impl Fleet {
    pub(crate) fn stands_still(&self) -> RequestError {
        let message = format!(
            "the server sent nothing for {} seconds (--backend-idle-timeout)",
            self.patience.idle.as_secs_f64()
        );
        RequestError::new(ErrorCode::InterTokenTimeout, message)
    }
}

fn broke_off() -> RequestError {
    RequestError::new(
        ErrorCode::WorkerLost,
        "the server broke off before its answer was complete; send the request again",
    )
}
