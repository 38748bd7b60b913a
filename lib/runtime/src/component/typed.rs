//! Requests and items as Rust types over the byte plane, written as MessagePack.
//!
//! Structs are written with their field names, so that a newer peer may add fields.

use super::client::{Call, Client, Policy};
use super::response::ResponseStream;
use crate::discovery::InstanceId;
use crate::request_plane::{Handler, IncomingRequest, Item, ItemStream, RequestHeader};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

pub use dynamo_protocols::stream::StreamItem;

/// Items that a handler produces.
pub type HandlerStream<Resp> = Pin<Box<dyn Stream<Item = Result<Resp, RequestError>> + Send>>;

/// Serves an endpoint with requests and items as Rust types. Functions of a request and its
/// header that return a future of a [`HandlerStream`] are handlers.
pub trait TypedHandler<Req, Resp>: Send + Sync + 'static {
    /// Takes or refuses one request. Dropping the stream cancels it.
    fn handle(
        &self,
        request: Req,
        header: RequestHeader,
    ) -> BoxFuture<'_, Result<HandlerStream<Resp>, RequestError>>;
}

/// A [`Client`] with requests and items as Rust types.
pub struct TypedClient<Req, Resp> {
    client: Client,
    types: PhantomData<fn(Req) -> Resp>,
}

/// The answer of an instance, as Rust types.
pub struct TypedStream<Resp> {
    inner: ResponseStream,
    types: PhantomData<fn() -> Resp>,
}

/// Makes a handler of bytes from one of types.
struct Erased<H, Req, Resp> {
    handler: H,
    types: PhantomData<fn(Req) -> Resp>,
}

impl<F, Fut, Req, Resp> TypedHandler<Req, Resp> for F
where
    F: Fn(Req, RequestHeader) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<HandlerStream<Resp>, RequestError>> + Send + 'static,
{
    fn handle(
        &self,
        request: Req,
        header: RequestHeader,
    ) -> BoxFuture<'_, Result<HandlerStream<Resp>, RequestError>> {
        Box::pin(self(request, header))
    }
}

/// Writes a value as the typed layer does.
pub fn encode(value: &impl Serialize) -> Result<Bytes, RequestError> {
    rmp_serde::to_vec_named(value)
        .map(Bytes::from)
        .map_err(|error| RequestError::new(ErrorCode::Internal, format!("cannot encode: {error}")))
}

fn decode<T: DeserializeOwned>(payload: &[u8], what: &str) -> Result<T, RequestError> {
    rmp_serde::from_slice(payload).map_err(|error| {
        let message = format!("cannot decode the {what} of a peer: {error}");
        RequestError::new(ErrorCode::WorkerProtocol, message)
    })
}

fn encode_item<Resp: StreamItem>(item: Result<Resp, RequestError>) -> Result<Item, RequestError> {
    let item = item?;
    Ok(Item {
        positions: item.positions(),
        payload: encode(&item)?,
    })
}

/// A handler of bytes that decodes requests and encodes items, for what stands around handlers.
pub fn erase<Req, Resp>(handler: impl TypedHandler<Req, Resp>) -> Arc<dyn Handler>
where
    Req: DeserializeOwned + Send + 'static,
    Resp: StreamItem,
{
    Arc::new(Erased {
        handler,
        types: PhantomData,
    })
}

impl<H, Req, Resp> Handler for Erased<H, Req, Resp>
where
    H: TypedHandler<Req, Resp>,
    Req: DeserializeOwned + Send + 'static,
    Resp: StreamItem,
{
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        Box::pin(async move {
            let body = decode(&request.body, "request")?;
            let items = self.handler.handle(body, request.header).await?;
            Ok(Box::pin(items.map(encode_item)) as ItemStream)
        })
    }
}

impl<H, Req, Resp> fmt::Debug for Erased<H, Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Erased").finish_non_exhaustive()
    }
}

// === impl TypedClient ===

impl<Req: Serialize, Resp: StreamItem> TypedClient<Req, Resp> {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            types: PhantomData,
        }
    }

    /// The client beneath: instances, waiting, calls with bytes.
    pub fn untyped(&self) -> &Client {
        &self.client
    }

    /// Calls an instance chosen by lot.
    pub async fn random(
        &self,
        request: &Req,
        call: impl Into<Call>,
    ) -> Result<TypedStream<Resp>, RequestError> {
        self.call(Policy::Random, request, call).await
    }

    /// Calls the next instance in turn.
    pub async fn round_robin(
        &self,
        request: &Req,
        call: impl Into<Call>,
    ) -> Result<TypedStream<Resp>, RequestError> {
        self.call(Policy::RoundRobin, request, call).await
    }

    /// Calls this instance and no other.
    pub async fn direct(
        &self,
        instance: InstanceId,
        request: &Req,
        call: impl Into<Call>,
    ) -> Result<TypedStream<Resp>, RequestError> {
        self.call(Policy::Direct(instance), request, call).await
    }

    /// Calls an instance chosen by the policy.
    pub async fn call(
        &self,
        policy: Policy,
        request: &Req,
        call: impl Into<Call>,
    ) -> Result<TypedStream<Resp>, RequestError> {
        let inner = self.client.call(policy, encode(request)?, call).await?;
        Ok(TypedStream {
            inner,
            types: PhantomData,
        })
    }
}

impl<Req, Resp> fmt::Debug for TypedClient<Req, Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedClient")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

// === impl TypedStream ===

impl<Resp> TypedStream<Resp> {
    /// Who answers.
    pub fn instance(&self) -> InstanceId {
        self.inner.instance()
    }

    /// The attempt number under which the request was taken.
    pub fn attempt(&self) -> u32 {
        self.inner.attempt()
    }
}

impl<Resp: StreamItem> Stream for TypedStream<Resp> {
    type Item = Result<Resp, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let item = std::task::ready!(self.inner.poll_next_unpin(context));
        Poll::Ready(item.map(|item| decode(&item?.payload, "response")))
    }
}

impl<Resp> fmt::Debug for TypedStream<Resp> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedStream")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
