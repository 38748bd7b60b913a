//! The object model: a runtime has namespaces, they have components, and those have endpoints;
//! an endpoint is served by instances and called by a client.
//!
//! [`DistributedRuntime`] ties a process's parts together: environment, tasks, discovery and
//! request plane. It decides nothing. What it owns is the life of an endpoint's instance:
//! registered with the request plane before it is announced, and withdrawn before it refuses.
//!
//! - [`announcer`]: the one owner of the process's discovery record
//! - [`selection`]: which instance a call goes to
//! - [`client`]: follows an endpoint's instances and calls them
//! - [`response`]: the answer to a call
//! - [`serve`]: an endpoint's instance in this process
//! - [`typed`]: requests and items as Rust types instead of bytes

pub mod announcer;
pub mod client;
pub mod response;
pub mod selection;
pub mod serve;
pub mod typed;

pub use announcer::Announcer;
pub use client::{Call, Chooser, Chosen, Client, ClientError, InstanceFilter, Policy};
pub use response::ResponseStream;
pub use selection::Instance;
pub use serve::{AnnouncedInstance, ServeError, ServedEndpoint};
pub use typed::{HandlerStream, StreamItem, TypedClient, TypedHandler, TypedStream};

use crate::discovery::endpoint_id::check_name;
use crate::discovery::{Discovery, EndpointId, Metadata, NameError};
use crate::event_plane::{Broadcast, BroadcastEventPlane, DirectEventPlane, EventPlane};
use crate::request_plane::{Handler, RequestPlane};
use crate::status::HealthState;
use crate::{Environment, Tasks};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long an instance that cannot be reached is left out: longer than a reconnect takes, and
/// short enough that a worker that restarted under its old id is used again soon.
pub const INHIBITED_DURATION: Duration = Duration::from_secs(5);

/// What is kept of a drain's time to tell callers that their answers do not end here: a round trip
/// and some scheduling.
const HAND_OVER_TIME: Duration = Duration::from_secs(1);

/// What a process is made of. Cheap to clone; clones are the same runtime.
#[derive(Debug, Clone)]
pub struct DistributedRuntime {
    parts: Arc<Parts>,
}

#[derive(Debug, Clone)]
struct Parts {
    environment: Environment,
    tasks: Tasks,
    discovery: Arc<dyn Discovery>,
    plane: Arc<dyn RequestPlane>,
    announcer: Announcer,
    health: HealthState,
    inhibited_duration: Duration,
    event_medium: Option<Arc<dyn Broadcast>>,
}

/// A namespace: one deployment among others.
#[derive(Debug, Clone)]
pub struct Namespace {
    runtime: DistributedRuntime,
    name: String,
}

/// A component: a kind of process with a role.
#[derive(Debug, Clone)]
pub struct Component {
    runtime: DistributedRuntime,
    namespace: String,
    name: String,
}

/// An endpoint: what a component can be asked.
#[derive(Debug, Clone)]
pub struct Endpoint {
    runtime: DistributedRuntime,
    id: EndpointId,
}

// === impl DistributedRuntime ===

impl DistributedRuntime {
    /// A runtime of these parts. There is one per process (or per simulated process), because it
    /// owns the process's discovery record.
    pub fn new(
        environment: Environment,
        tasks: Tasks,
        discovery: Arc<dyn Discovery>,
        plane: Arc<dyn RequestPlane>,
    ) -> Self {
        Self {
            parts: Arc::new(Parts {
                announcer: Announcer::new(Arc::clone(&discovery)),
                environment,
                tasks,
                discovery,
                plane,
                health: HealthState::new(),
                inhibited_duration: INHIBITED_DURATION,
                event_medium: None,
            }),
        }
    }

    /// The same runtime, which tells this state how the endpoints are that it serves.
    #[must_use]
    pub fn with_health(&self, health: HealthState) -> Self {
        self.with(|parts| parts.health = health)
    }

    /// The same runtime, whose clients leave out unreachable instances for another time than
    /// [`INHIBITED_DURATION`].
    #[must_use]
    pub fn with_inhibited_duration(&self, inhibited_duration: Duration) -> Self {
        self.with(|parts| parts.inhibited_duration = inhibited_duration)
    }

    /// The same runtime, whose events go through this medium.
    #[must_use]
    pub fn with_event_medium(&self, medium: Arc<dyn Broadcast>) -> Self {
        self.with(|parts| parts.event_medium = Some(medium))
    }

    fn with(&self, change: impl FnOnce(&mut Parts)) -> Self {
        let mut parts = Parts::clone(&self.parts);
        change(&mut parts);
        Self {
            parts: Arc::new(parts),
        }
    }

    /// The namespace of this name.
    pub fn namespace(&self, name: &str) -> Result<Namespace, NameError> {
        check_name("namespace", name)?;
        Ok(Namespace {
            runtime: self.clone(),
            name: name.to_owned(),
        })
    }

    /// The endpoint of this full name.
    pub fn endpoint(&self, id: EndpointId) -> Endpoint {
        Endpoint {
            runtime: self.clone(),
            id,
        }
    }

    /// Begins the end of this process: withdraws all that it announces, then refuses new calls
    /// and says so on every connection, so that callers who have not heard of the withdrawal turn
    /// elsewhere without asking. Open streams go on.
    pub async fn refuse_new(&self) {
        if let Err(error) = self.parts.announcer.clear().await {
            // The backend withdraws it when it is back; until then callers are refused and go on.
            tracing::warn!(%error, "could not withdraw this process now");
        }
        self.parts.plane.handlers().refuse_new();
    }

    /// Waits for `finish`, the end of all that is in flight, within `limit`. Shortly before that
    /// is over it hands over what is left: callers hear that this process drains, and go on with
    /// another one.
    pub async fn finish_or_hand_over(&self, finish: impl Future<Output = ()>, limit: Duration) {
        let mut finish = std::pin::pin!(finish);
        let grace = limit - HAND_OVER_TIME.min(limit / 2);
        if timeout(grace, finish.as_mut()).await.is_err() {
            tracing::info!(?grace, "hands over what could not be finished in time");
            self.parts.plane.handlers().hand_over();
            finish.await;
        }
    }

    /// Sockets, clock, random numbers, compute threads.
    pub fn environment(&self) -> &Environment {
        &self.parts.environment
    }

    /// The process's tasks.
    pub fn tasks(&self) -> &Tasks {
        &self.parts.tasks
    }

    /// Who else lives.
    pub fn discovery(&self) -> &Arc<dyn Discovery> {
        &self.parts.discovery
    }

    /// How requests travel.
    pub fn request_plane(&self) -> &Arc<dyn RequestPlane> {
        &self.parts.plane
    }

    /// How events travel: from each publisher to each subscriber, if no medium was given.
    pub fn event_plane(&self) -> Arc<dyn EventPlane> {
        match &self.parts.event_medium {
            Some(medium) => Arc::new(BroadcastEventPlane::new(self.clone(), Arc::clone(medium))),
            None => Arc::new(DirectEventPlane::new(self.clone())),
        }
    }

    /// The owner of this process's discovery record: where cards and event channels go.
    pub fn announcer(&self) -> &Announcer {
        &self.parts.announcer
    }

    /// How the endpoints are that this process serves.
    pub fn health(&self) -> &HealthState {
        &self.parts.health
    }

    /// How long clients leave out an instance that cannot be reached.
    pub fn inhibited_duration(&self) -> Duration {
        self.parts.inhibited_duration
    }
}

// === impl Namespace ===

impl Namespace {
    /// The component of this name.
    pub fn component(&self, name: &str) -> Result<Component, NameError> {
        check_name("component", name)?;
        Ok(Component {
            runtime: self.runtime.clone(),
            namespace: self.name.clone(),
            name: name.to_owned(),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

// === impl Component ===

impl Component {
    /// Does nothing: a component exists by its name. Programs written for releases in which it
    /// had to be created call this.
    pub fn create_service(&self) {}

    /// The endpoint of this name.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint, NameError> {
        let id = EndpointId::new(&self.namespace, &self.name, name)?;
        Ok(self.runtime.endpoint(id))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Its full name.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// The runtime it belongs to.
    pub fn runtime(&self) -> &DistributedRuntime {
        &self.runtime
    }

    /// Serves the endpoint from this process: registers the handler with the request plane, then
    /// announces the instance with `metadata`.
    pub async fn serve_bytes(
        &self,
        handler: Arc<dyn Handler>,
        metadata: Metadata,
    ) -> Result<ServedEndpoint, ServeError> {
        ServedEndpoint::start(self, handler, metadata).await
    }

    /// Serves the endpoint with requests and items as Rust types.
    pub async fn serve<Req, Resp>(
        &self,
        handler: impl TypedHandler<Req, Resp>,
        metadata: Metadata,
    ) -> Result<ServedEndpoint, ServeError>
    where
        Req: serde::de::DeserializeOwned + Send + 'static,
        Resp: StreamItem,
    {
        self.serve_bytes(typed::erase(handler), metadata).await
    }

    /// A client that follows the endpoint's instances from now on.
    pub fn client(&self) -> Client {
        Client::follow(self, Arc::new(|_| true))
    }

    /// A client with requests and items as Rust types.
    pub fn typed_client<Req, Resp>(&self) -> TypedClient<Req, Resp>
    where
        Req: serde::Serialize,
        Resp: StreamItem,
    {
        TypedClient::new(self.client())
    }

    /// A typed client of those instances alone whose processes `accepted` takes.
    pub fn typed_client_of<Req, Resp>(&self, accepted: InstanceFilter) -> TypedClient<Req, Resp>
    where
        Req: serde::Serialize,
        Resp: StreamItem,
    {
        TypedClient::new(Client::follow(self, accepted))
    }
}

#[cfg(test)]
mod tests;
