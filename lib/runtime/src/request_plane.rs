//! The request plane: one process calls another's endpoint and gets a stream back.
//!
//! It carries bytes with positions and knows nothing of what they mean. A backend moves them; what
//! must hold whatever the backend is stands here and in the pure parts below, and [`contract`]
//! checks it.
//!
//! Invariants
//! - A stream is named by (request, attempt, choice); its items are numbered by the server's
//!   shell, from the `start_position` the caller gave. The caller sees each position once, in
//!   order: duplicates are dropped, a gap ends the stream with `worker_protocol`.
//! - A stream ends with its end or with one [`RequestError`], in bounded time: a peer that dies,
//!   freezes or is cut off is noticed by heartbeats and its streams end with `worker_lost`.
//! - Dropping the [`ResponseStream`] cancels the work: the server drops the handler's stream.
//! - A reader that is slow, or stops, holds up its own stream and its own handler, nobody else's.
//! - Bulk data goes over connections of its own ([`TrafficClass`]), never beside tokens.
//! - A process that stops ([`Handlers::refuse_new`]) refuses new calls with `draining` and finishes
//!   those it has.
//!
//! - [`handlers`]: what this process serves, shared by all backends
//! - [`position`]: the caller's check of positions, pure
//! - [`frame`]: the wire form, pure
//! - [`tcp`]: the default backend

pub mod contract;
mod contract_endings;
pub mod frame;
pub mod handlers;
mod handshake;
mod inbox;
mod liveness;
mod outbox;
pub mod position;
mod server_stream;
pub mod tcp;
mod tcp_client;
mod tcp_server;

pub use handlers::{Handlers, Registration};
pub use tcp::{Carrier, TcpPlane, TcpPlaneOptions};

use crate::discovery::{EndpointId, InstanceId};
use bytes::Bytes;
use dynamo_protocols::RequestError;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use std::fmt;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;

/// Oldest version of the protocol that this build speaks.
pub const MIN_PROTOCOL_VERSION: u16 = 1;
/// Newest version of the protocol that this build speaks.
pub const MAX_PROTOCOL_VERSION: u16 = 2;
/// From this version on the serving side says when it has taken a call.
pub(crate) const ACCEPTED_SINCE: u16 = 2;

/// Which connections a call may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum TrafficClass {
    /// Small frames that somebody waits for: tokens.
    #[default]
    Latency,
    /// Much data that nobody waits for frame by frame: artefacts, KV state.
    Bulk,
}

/// Everything about a call but its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHeader {
    /// The request's id, the same on every attempt.
    pub request_id: Arc<str>,
    /// Which attempt at the request this is, from 0.
    pub attempt: u32,
    /// Which of the client's choices this stream is, from 0.
    pub choice: u32,
    /// What is called.
    pub endpoint: EndpointId,
    /// Which instance is meant; a process that took over its address refuses the call.
    pub instance: InstanceId,
    /// Position of the first item of the answer: what earlier attempts gave already.
    pub start_position: u64,
    /// When the caller loses interest. On the wire it is the time that remains.
    pub deadline: Option<Instant>,
    /// W3C trace context, if the request is traced.
    pub traceparent: Option<Arc<str>>,
    /// W3C trace state that goes with it.
    pub tracestate: Option<Arc<str>>,
    /// Which connections the call may share.
    pub class: TrafficClass,
}

impl RequestHeader {
    /// A first attempt without deadline or trace, from position 0.
    pub fn new(
        request_id: impl Into<Arc<str>>,
        endpoint: EndpointId,
        instance: InstanceId,
    ) -> Self {
        Self {
            request_id: request_id.into(),
            attempt: 0,
            choice: 0,
            endpoint,
            instance,
            start_position: 0,
            deadline: None,
            traceparent: None,
            tracestate: None,
            class: TrafficClass::Latency,
        }
    }
}

/// A call as its handler gets it.
#[derive(Debug, Clone)]
pub struct IncomingRequest {
    /// Who asks for what, until when.
    pub header: RequestHeader,
    /// The request in the endpoint's own form.
    pub body: Bytes,
}

/// One piece of an answer, on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// How many positions it covers: tokens, for a stream of tokens. Zero is allowed for an item
    /// that only says something about the stream.
    pub positions: u32,
    /// The item in the endpoint's own form.
    pub payload: Bytes,
}

/// One piece of an answer, as the caller gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedItem {
    /// Its first position.
    pub position: u64,
    /// The item in the endpoint's own form.
    pub payload: Bytes,
}

/// What a handler answers with. Dropping it stops the work.
pub type ItemStream = Pin<Box<dyn Stream<Item = Result<Item, RequestError>> + Send>>;

/// Serves the calls of one endpoint.
pub trait Handler: Send + Sync + fmt::Debug + 'static {
    /// Takes a call. The future resolves when the work is accepted or refused.
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>>;
}

/// A way to move calls and answers between processes.
pub trait RequestPlane: Send + Sync + fmt::Debug + 'static {
    /// What this process serves. Registering there makes an endpoint callable.
    fn handlers(&self) -> &Handlers;

    /// Where others reach this process, with the transport as scheme: `tcp://127.0.0.1:41234`.
    fn address(&self) -> &str;

    /// The versions of the protocol that this process speaks.
    fn versions(&self) -> RangeInclusive<u16>;

    /// Calls an endpoint at another process's address. The future resolves when the call is taken
    /// or refused. From a peer of version 1 a refusal comes as the stream's first and only item,
    /// and the future resolves when the call is on its way.
    fn call<'a>(
        &'a self,
        address: &'a str,
        header: RequestHeader,
        body: Bytes,
    ) -> BoxFuture<'a, Result<ResponseStream, RequestError>>;
}

/// A backend's side of an answer: raw items in the order in which they came.
pub trait ReceiveItems: Send {
    /// The next item; `None` after the peer said that the stream is complete.
    fn poll_item(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ReceivedRawItem, RequestError>>>;
}

/// An item as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedRawItem {
    /// Its first position, as the server numbered it.
    pub position: u64,
    /// How many positions it covers.
    pub positions: u32,
    /// The item in the endpoint's own form.
    pub payload: Bytes,
}

/// The answer to a call. Dropping it cancels the call.
pub struct ResponseStream {
    items: Option<Box<dyn ReceiveItems>>,
    tracker: position::PositionTracker,
}

impl ResponseStream {
    /// Wraps a backend's stream in the checks that hold for all of them.
    pub fn new(items: Box<dyn ReceiveItems>, start_position: u64) -> Self {
        Self {
            items: Some(items),
            tracker: position::PositionTracker::new(start_position),
        }
    }
}

impl fmt::Debug for ResponseStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseStream")
            .field("tracker", &self.tracker)
            .field("ended", &self.items.is_none())
            .finish()
    }
}

impl Stream for ResponseStream {
    type Item = Result<ReceivedItem, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let Some(items) = &mut self.items else {
                return Poll::Ready(None);
            };
            let raw = match items.poll_item(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(raw))) => raw,
                Poll::Ready(Some(Err(error))) => {
                    self.items = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => {
                    self.items = None;
                    return Poll::Ready(None);
                }
            };
            match self.tracker.accept(raw.position, raw.positions) {
                Ok(true) => {
                    return Poll::Ready(Some(Ok(ReceivedItem {
                        position: raw.position,
                        payload: raw.payload,
                    })));
                }
                Ok(false) => {}
                Err(error) => {
                    self.items = None;
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
