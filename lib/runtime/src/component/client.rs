//! Follows an endpoint's instances and calls them.
//!
//! Who is asked is decided by [`Selection`]. A call that an instance did not take (unreachable,
//! draining, full) goes to another one, a bounded number of times; once an instance has given an
//! item, what happens to its stream is the caller's to handle.
//!
//! Invariants
//! - Each try has an attempt number of its own, so that output of an instance that took a request
//!   and was given up is recognised as stale.
//! - A client that is dropped follows no more; streams it opened go on with what it knew.

use super::Endpoint;
use super::response::ResponseStream;
use super::selection::{Instance, Selection};
use crate::Tasks;
use crate::discovery::{
    DiscoveryWatch, EndpointId, InstanceId, InstanceRecord, ProcessRecord, View,
};
use crate::request_plane::{RequestHeader, TrafficClass};
use bytes::Bytes;
use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::{ErrorCode, RequestError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// A client of one endpoint. Dropping it ends its watch.
#[derive(Debug)]
pub struct Client {
    shared: Arc<ClientShared>,
    instances: watch::Receiver<Instances>,
    tasks: Tasks,
}

/// What the client's streams need to ask another instance.
pub(super) struct ClientShared {
    endpoint: Endpoint,
    accepted: InstanceFilter,
    selection: Mutex<Selection>,
}

/// Who is asked, and with what in place of the call's own body.
pub(super) struct Pick {
    pub(super) instance: Instance,
    pub(super) body: Option<Bytes>,
}

/// Which processes a client may call, by what they announce.
pub type InstanceFilter = Arc<dyn Fn(&ProcessRecord) -> bool + Send + Sync>;

/// The instances as last published, by id; `None` until discovery has said anything.
type Instances = Option<Arc<[Instance]>>;

/// Everything about a call but its body and who is asked.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// The request it belongs to, and which attempt this is.
    pub context: RequestContext,
    /// Which of the client's choices the stream is, from 0.
    pub choice: u32,
    /// Position of the first item of the answer: what earlier attempts gave already.
    pub start_position: u64,
    /// When the caller loses interest.
    pub deadline: Option<Instant>,
    /// How long one instance may take to take it; then the next one is asked.
    pub dispatch: Option<Duration>,
    /// Which connections the call may share.
    pub class: TrafficClass,
}

/// Why nobody could be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody serves the endpoint, as far as discovery knows.
    #[error("no instance of {0} is running: start one in the same namespace and discovery backend")]
    NoInstances(EndpointId),
    /// The instance that was asked for is not there.
    #[error("{endpoint} has no instance {instance}")]
    UnknownInstance {
        /// The endpoint.
        endpoint: EndpointId,
        /// The instance.
        instance: InstanceId,
    },
}

/// How the instance of a call is chosen.
#[derive(Debug, Clone)]
pub enum Policy {
    /// By lot.
    Random,
    /// In turn.
    RoundRobin,
    /// This one and no other.
    Direct(InstanceId),
    /// By somebody who knows more of the instances than that they are there.
    By(Arc<dyn Chooser>),
}

/// Chooses the instances that one call asks, one after the other.
pub trait Chooser: Send + Sync + fmt::Debug {
    /// Who is asked next, none of `except` if anybody else is there. An earlier choice is void:
    /// that instance did not take the call.
    fn choose(&self, except: &[InstanceId]) -> Option<Chosen>;
}

/// A chooser's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Who is asked.
    pub instance: InstanceId,
    /// What is sent, if it depends on who is asked.
    pub body: Option<Bytes>,
}

/// Choices of one try that turn out to have left: a chooser may hear of it a little later than the
/// client, and then chooses another one.
const MAX_CHOICES: usize = 8;

impl From<RequestContext> for Call {
    fn from(context: RequestContext) -> Self {
        Self {
            context,
            ..Self::default()
        }
    }
}

impl From<ClientError> for RequestError {
    fn from(error: ClientError) -> Self {
        Self::new(ErrorCode::WorkerUnreachable, error.to_string())
    }
}

// === impl Client ===

impl Client {
    pub(super) fn follow(endpoint: &Endpoint, accepted: InstanceFilter) -> Self {
        let runtime = endpoint.runtime();
        let shared = Arc::new(ClientShared {
            endpoint: endpoint.clone(),
            accepted,
            selection: Mutex::default(),
        });
        let (sender, instances) = watch::channel(None);
        let tasks = runtime.tasks().child();
        let discovered = runtime.discovery().watch();
        let follow = follow(Arc::clone(&shared), discovered, sender);
        tasks.spawn_until_cancelled("endpoint client", follow);
        Self {
            shared,
            instances,
            tasks,
        }
    }

    /// The endpoint it calls.
    pub fn endpoint(&self) -> &EndpointId {
        self.shared.endpoint.id()
    }

    /// Ids of the instances that live now, in order.
    pub fn instance_ids(&self) -> Vec<InstanceId> {
        let selection = self.shared.selection.lock();
        selection.instances().map(|instance| instance.id).collect()
    }

    /// The instances that live now, by id.
    pub fn instances(&self) -> Vec<Instance> {
        self.shared.selection.lock().instances().collect()
    }

    /// Changes whenever the instances do; `None` until discovery has said anything.
    pub fn watch_instances(&self) -> watch::Receiver<Option<Arc<[Instance]>>> {
        self.instances.clone()
    }

    /// Waits until somebody serves the endpoint, and gives back who does.
    pub async fn wait_for_instances(
        &self,
        deadline: Instant,
    ) -> Result<Vec<InstanceId>, ClientError> {
        let mut instances = self.instances.clone();
        let some = |instances: &Instances| instances.as_ref().is_some_and(|all| !all.is_empty());
        match timeout_at(deadline, instances.wait_for(some)).await {
            Ok(Ok(_)) => Ok(self.instance_ids()),
            Ok(Err(_)) | Err(_) => Err(ClientError::NoInstances(self.endpoint().clone())),
        }
    }

    /// Calls an instance chosen by lot.
    pub async fn random(
        &self,
        body: Bytes,
        call: impl Into<Call>,
    ) -> Result<ResponseStream, RequestError> {
        self.call(Policy::Random, body, call).await
    }

    /// Calls the next instance in turn.
    pub async fn round_robin(
        &self,
        body: Bytes,
        call: impl Into<Call>,
    ) -> Result<ResponseStream, RequestError> {
        self.call(Policy::RoundRobin, body, call).await
    }

    /// Calls this instance and no other.
    pub async fn direct(
        &self,
        instance: InstanceId,
        body: Bytes,
        call: impl Into<Call>,
    ) -> Result<ResponseStream, RequestError> {
        self.call(Policy::Direct(instance), body, call).await
    }

    /// Calls an instance chosen by the policy. The future resolves when one has taken the call.
    pub async fn call(
        &self,
        policy: Policy,
        body: Bytes,
        call: impl Into<Call>,
    ) -> Result<ResponseStream, RequestError> {
        ResponseStream::open(Arc::clone(&self.shared), policy, body, call.into()).await
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

// === impl ClientShared ===

impl fmt::Debug for ClientShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientShared")
            .field("endpoint", &self.endpoint)
            .field("selection", &self.selection)
            .finish_non_exhaustive()
    }
}

impl ClientShared {
    /// Who is asked next; `asked` were asked already for this call.
    pub(super) fn pick(&self, policy: &Policy, asked: &[InstanceId]) -> Option<Pick> {
        let now = Instant::now();
        if let Policy::By(chooser) = policy {
            return self.pick_chosen(&**chooser, now, asked);
        }
        let mut selection = self.selection.lock();
        let instance = match policy {
            Policy::Random => {
                let random = &self.endpoint.runtime().environment().random;
                selection.random(now, asked, random.next_u64())
            }
            Policy::RoundRobin => selection.round_robin(now, asked),
            Policy::Direct(id) if asked.is_empty() => selection.direct(*id),
            Policy::Direct(_) | Policy::By(_) => None,
        };
        Some(Pick {
            instance: instance?,
            body: None,
        })
    }

    /// Without the lock: a chooser takes its time, and locks of its own.
    fn pick_chosen(
        &self,
        chooser: &dyn Chooser,
        now: Instant,
        asked: &[InstanceId],
    ) -> Option<Pick> {
        let mut except = self.selection.lock().left_out(now);
        except.extend_from_slice(asked);
        for _ in 0..MAX_CHOICES {
            let Chosen { instance, body } = chooser.choose(&except)?;
            if asked.contains(&instance) {
                return None;
            }
            if let Some(instance) = self.selection.lock().direct(instance) {
                return Some(Pick { instance, body });
            }
            except.push(instance);
        }
        None
    }

    /// Sends the call to an instance.
    pub(super) async fn send(
        &self,
        instance: &Instance,
        body: Bytes,
        call: &Call,
    ) -> Result<crate::request_plane::ResponseStream, RequestError> {
        let header = RequestHeader {
            request_id: Arc::clone(&call.context.request_id),
            attempt: call.context.attempt,
            choice: call.choice,
            endpoint: self.endpoint.id().clone(),
            instance: instance.id,
            start_position: call.start_position,
            deadline: call.deadline,
            traceparent: call.context.traceparent.clone(),
            tracestate: call.context.tracestate.clone(),
            class: call.class,
        };
        let plane = self.endpoint.runtime().request_plane();
        let sending = plane.call(&instance.record.address, header, body);
        let Some(limit) = call.dispatch else {
            return sending.await;
        };
        match timeout(limit, sending).await {
            Ok(sent) => sent,
            Err(_) => Err(dispatch_error(limit)),
        }
    }

    /// Remembers that an instance did not take a call.
    pub(super) fn note_refusal(&self, instance: InstanceId, error: &RequestError) {
        tracing::debug!(
            endpoint = %self.endpoint.id(), instance_id = %instance, %error,
            "an instance did not take a request"
        );
        // Who is full is not broken: leaving it out would send its share to others that are full.
        if error.code != ErrorCode::NoCapacity {
            let until = Instant::now() + self.endpoint.runtime().inhibited_duration();
            self.selection.lock().leave_out(instance, until);
        }
    }

    /// Remembers how an answer ended that an instance had begun.
    pub(super) fn note_end(&self, instance: InstanceId, error: Option<&RequestError>) {
        let Some(error) = error else {
            return self.selection.lock().succeeded(instance);
        };
        if !is_the_instances_own(error.code) {
            return;
        }
        let least = self.endpoint.runtime().inhibited_duration();
        let opened = self
            .selection
            .lock()
            .failed(instance, Instant::now(), least);
        if let Some(open) = opened {
            tracing::warn!(
                endpoint = %self.endpoint.id(), instance_id = %instance, %error,
                "an instance fails time and again; it gets no requests for {}s", open.as_secs_f64()
            );
        }
    }

    /// What to say when there is nobody to ask.
    pub(super) fn nobody(&self, policy: &Policy) -> ClientError {
        let endpoint = self.endpoint.id().clone();
        match policy {
            Policy::Direct(instance) => ClientError::UnknownInstance {
                endpoint,
                instance: *instance,
            },
            Policy::Random | Policy::RoundRobin | Policy::By(_) => {
                ClientError::NoInstances(endpoint)
            }
        }
    }

    /// Takes the instances that live now, and tells the client's watchers of a change.
    fn publish(&self, view: &View, sender: &watch::Sender<Instances>) {
        let instances: BTreeMap<InstanceId, Arc<InstanceRecord>> = view
            .instances(self.endpoint.id())
            .filter(|(id, _)| {
                view.processes()
                    .get(id)
                    .is_some_and(|it| (self.accepted)(it))
            })
            .map(|(id, record)| (id, Arc::new(record.clone())))
            .collect();
        let mut selection = self.selection.lock();
        selection.replace(instances);
        let all: Arc<[Instance]> = selection.instances().collect();
        drop(selection);
        sender.send_if_modified(|published| {
            let changed = published.as_ref() != Some(&all);
            *published = Some(all);
            changed
        });
    }
}

/// Whether a failed answer speaks against whoever gave it.
fn is_the_instances_own(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::EngineFailed | ErrorCode::WorkerLost | ErrorCode::WorkerProtocol
    )
}

fn dispatch_error(limit: Duration) -> RequestError {
    RequestError::new(
        ErrorCode::DispatchTimeout,
        format!(
            "a worker did not take the request within {}s; allow more with --dispatch-timeout or \
             the x-dynamo-dispatch-timeout-ms header",
            limit.as_secs_f64()
        ),
    )
}

/// Keeps the client's selection like discovery, until cancelled.
async fn follow(
    shared: Arc<ClientShared>,
    mut discovered: DiscoveryWatch,
    sender: watch::Sender<Instances>,
) {
    let mut view = View::default();
    while discovered.update(&mut view).await {
        shared.publish(&view, &sender);
    }
}
