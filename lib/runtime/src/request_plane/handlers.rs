//! What this process serves: handlers by endpoint, and how many streams each has running.
//!
//! Shared by all backends: a backend takes calls off its transport and hands them to
//! [`Handlers::dispatch`].
//!
//! Invariants
//! - An endpoint has at most one handler in a process.
//! - A handler that refuses new work finishes what it has: [`Registration::refuse_new`] and
//!   [`Registration::idle`] are the two halves of an endpoint's drain, [`Handlers::refuse_new`]
//!   begins that of a whole process. The refusal is one that callers may retry elsewhere.
//! - A process without time to finish what it has hands it over ([`Handlers::hand_over`]): each
//!   stream ends where it stands, with that same refusal.
//! - Dropping the [`Registration`] takes the handler away; its running streams go on.

use super::{Handler, IncomingRequest, Item, ItemStream};
use crate::discovery::{EndpointId, InstanceId};
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::Stream;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// When a caller that was refused by a draining worker may try again: long enough for the
/// worker's withdrawal to reach it.
const RETRY_AFTER_DRAIN: Duration = Duration::from_secs(1);

/// The handlers of a process. Cheap to clone; clones are the same set.
#[derive(Debug, Clone, Default)]
pub struct Handlers {
    by_endpoint: Arc<Mutex<BTreeMap<EndpointId, Arc<Registered>>>>,
    refusing: CancellationToken,
    handing_over: CancellationToken,
}

/// A handler in its place. Dropping it takes the handler away.
#[derive(Debug)]
pub struct Registration {
    handlers: Handlers,
    endpoint: EndpointId,
    registered: Arc<Registered>,
}

/// The endpoint has a handler in this process already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is served by this process already; serve it once, or under another name")]
pub struct AlreadyServed(pub EndpointId);

#[derive(Debug)]
struct Registered {
    handler: Arc<dyn Handler>,
    /// 0 until the discovery backend has given the process its id.
    instance: AtomicU64,
    refusing: AtomicBool,
    active: watch::Sender<usize>,
}

/// A handler's stream that counts as running until it is dropped.
struct Counted {
    items: ItemStream,
    _active: Active,
}

struct Active(Arc<Registered>);

// === impl Handlers ===

impl Handlers {
    /// No handlers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an endpoint callable.
    pub fn register(
        &self,
        endpoint: EndpointId,
        handler: Arc<dyn Handler>,
    ) -> Result<Registration, AlreadyServed> {
        let registered = Arc::new(Registered {
            handler,
            instance: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            active: watch::Sender::new(0),
        });
        let mut by_endpoint = self.by_endpoint.lock();
        if by_endpoint.contains_key(&endpoint) {
            return Err(AlreadyServed(endpoint));
        }
        by_endpoint.insert(endpoint.clone(), Arc::clone(&registered));
        drop(by_endpoint);
        Ok(Registration {
            handlers: self.clone(),
            endpoint,
            registered,
        })
    }

    /// Refuses all new calls from now on, in a way that callers retry elsewhere.
    pub fn refuse_new(&self) {
        self.refusing.cancel();
    }

    /// Cancelled once all new calls are refused, for backends that tell their peers.
    pub fn refusing(&self) -> &CancellationToken {
        &self.refusing
    }

    /// Ends all running streams, in a way that callers go on elsewhere: there is no time left to
    /// finish them.
    pub fn hand_over(&self) {
        self.refuse_new();
        self.handing_over.cancel();
    }

    /// Resolves when running streams are to end with [`draining`].
    pub(super) async fn handing_over(&self) {
        self.handing_over.cancelled().await;
    }

    /// Hands a call to its handler. The stream it gives back counts as running until dropped.
    pub async fn dispatch(&self, request: IncomingRequest) -> Result<ItemStream, RequestError> {
        if self.refusing.is_cancelled() {
            return Err(draining());
        }
        let registered = self
            .by_endpoint
            .lock()
            .get(&request.header.endpoint)
            .cloned();
        let Some(registered) = registered else {
            return Err(RequestError::new(
                ErrorCode::WorkerUnreachable,
                format!("the worker does not serve {}", request.header.endpoint),
            ));
        };
        // Counted before the last look at whether calls are refused: a drain that begins at this
        // moment either refuses this call or waits for it.
        let active = Active::enter(&registered);
        if self.refusing.is_cancelled() {
            return Err(draining());
        }
        registered.check(request.header.instance)?;
        let items = registered.handler.handle(request).await?;
        Ok(Box::pin(Counted {
            items,
            _active: active,
        }))
    }
}

// === impl Registration ===

impl Registration {
    /// Says which instance this is; calls meant for another one are refused from now on.
    pub fn set_instance(&self, instance: InstanceId) {
        self.registered
            .instance
            .store(instance.get(), Ordering::Release);
    }

    /// Refuses new calls from now on, in a way that callers retry elsewhere.
    pub fn refuse_new(&self) {
        self.registered.refusing.store(true, Ordering::Release);
    }

    /// Number of streams that run now.
    pub fn active(&self) -> usize {
        *self.registered.active.borrow()
    }

    /// Resolves when no stream runs.
    pub async fn idle(&self) {
        let mut active = self.registered.active.subscribe();
        // The sender lives as long as `self`.
        drop(active.wait_for(|active| *active == 0).await);
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.handlers.by_endpoint.lock().remove(&self.endpoint);
    }
}

// === impl Registered ===

impl Registered {
    fn check(&self, called: InstanceId) -> Result<(), RequestError> {
        let own = self.instance.load(Ordering::Acquire);
        if own != 0 && own != called.get() {
            return Err(RequestError::new(
                ErrorCode::WorkerUnreachable,
                format!("instance {called} is gone; another process has its address now"),
            ));
        }
        if self.refusing.load(Ordering::Acquire) {
            return Err(draining());
        }
        Ok(())
    }
}

/// What callers of a draining worker are told, by the worker or by their own side.
pub(super) fn draining() -> RequestError {
    RequestError::new(
        ErrorCode::Draining,
        "the worker is shutting down and takes no new requests; send it again",
    )
    .with_retry_after(RETRY_AFTER_DRAIN)
}

// === impl Active ===

impl Active {
    fn enter(registered: &Arc<Registered>) -> Self {
        registered.active.send_modify(|active| *active += 1);
        Self(Arc::clone(registered))
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.active.send_modify(|active| *active -= 1);
    }
}

// === impl Counted ===

impl Stream for Counted {
    type Item = Result<Item, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.as_mut().poll_next(context)
    }
}
