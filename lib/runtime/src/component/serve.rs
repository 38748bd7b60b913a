//! An endpoint's instance in this process, from its start to the end of its last stream.
//!
//! Registered before it is announced, so that nobody is sent to a door that is not there; and
//! withdrawn before it refuses, so that new requests go elsewhere by themselves. Those that still
//! come are refused in a way that lets the caller ask another instance. The process's
//! [`HealthState`] hears of each of these steps.

use super::{Announcer, Endpoint};
use crate::Tasks;
use crate::discovery::{
    CardRecord, DiscoveryError, EndpointId, InstanceId, InstanceRecord, Metadata, ProtocolVersions,
};
use crate::request_plane::handlers::AlreadyServed;
use crate::request_plane::{Handler, Registration};
use crate::status::{EndpointStatus, HealthState};
use parking_lot::Mutex;
use std::sync::Arc;

/// An endpoint that this process serves. Dropping it refuses at once and withdraws in the
/// background; streams that are open go on. [`ServedEndpoint::drain`] waits for them.
#[derive(Debug)]
pub struct ServedEndpoint {
    endpoint: EndpointId,
    instance: InstanceId,
    announcer: Announcer,
    registration: Registration,
    tasks: Tasks,
    health: HealthState,
    withdrawn: bool,
}

/// What others see of an endpoint's instance, for whoever knows when it is of no use for a while.
#[derive(Debug)]
pub struct AnnouncedInstance {
    endpoint: EndpointId,
    announcer: Announcer,
    health: HealthState,
    hidden: Mutex<Option<(Vec<InstanceRecord>, Vec<CardRecord>)>>,
}

/// An announcement under way: if whoever waits for it gives up, it is taken back.
struct Announcing<'a> {
    announcer: &'a Announcer,
    endpoint: &'a EndpointId,
    tasks: &'a Tasks,
    is_over: bool,
}

/// Why an endpoint could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// This process serves it already.
    #[error(transparent)]
    AlreadyServed(#[from] AlreadyServed),
    /// Discovery did not announce it.
    #[error("cannot announce {endpoint}: {source}")]
    Announce {
        /// The endpoint.
        endpoint: EndpointId,
        /// What discovery said.
        source: DiscoveryError,
    },
}

impl ServedEndpoint {
    pub(super) async fn start(
        endpoint: &Endpoint,
        handler: Arc<dyn Handler>,
        metadata: Metadata,
    ) -> Result<Self, ServeError> {
        let (runtime, id) = (endpoint.runtime(), endpoint.id());
        let plane = runtime.request_plane();
        let registration = plane.handlers().register(id.clone(), handler)?;
        let (health, name) = (runtime.health().clone(), id.to_string());
        health.set_endpoint(&name, EndpointStatus::NotReady);
        let record = InstanceRecord {
            endpoint: id.clone(),
            address: plane.address().to_owned(),
            metadata,
        };
        let announcer = runtime.announcer().clone();
        let versions = plane.versions();
        let mut announcing = Announcing {
            announcer: &announcer,
            endpoint: id,
            tasks: runtime.tasks(),
            is_over: false,
        };
        let announced = announcer
            .update(|process| {
                process.protocol = ProtocolVersions {
                    min: *versions.start(),
                    max: *versions.end(),
                };
                process
                    .instances
                    .retain(|other| other.endpoint != record.endpoint);
                process.instances.push(record);
            })
            .await;
        announcing.is_over = true;
        drop(announcing);
        match announced {
            Ok(instance) => {
                registration.set_instance(instance);
                health.set_endpoint(&name, EndpointStatus::Ready);
                Ok(Self {
                    endpoint: id.clone(),
                    instance,
                    announcer,
                    registration,
                    tasks: runtime.tasks().clone(),
                    health,
                    withdrawn: false,
                })
            }
            Err(source) => {
                health.remove_endpoint(&name);
                Err(ServeError::Announce {
                    endpoint: id.clone(),
                    source,
                })
            }
        }
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// This process's instance of it.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The announcement, to be hidden and shown. Of no effect after a drain has begun, if whoever
    /// has it is stopped before.
    pub fn announced(&self) -> AnnouncedInstance {
        AnnouncedInstance {
            endpoint: self.endpoint.clone(),
            announcer: self.announcer.clone(),
            health: self.health.clone(),
            hidden: Mutex::default(),
        }
    }

    /// Withdraws the instance, refuses new requests, and waits for the open streams to end. The
    /// caller bounds the wait.
    pub async fn drain(mut self) {
        self.withdrawn = true;
        let name = self.endpoint.to_string();
        self.health.set_endpoint(&name, EndpointStatus::NotReady);
        withdraw(&self.announcer, &self.endpoint).await;
        self.registration.refuse_new();
        self.registration.idle().await;
        self.health.remove_endpoint(&name);
    }
}

impl AnnouncedInstance {
    /// The endpoint.
    pub fn endpoint(&self) -> &EndpointId {
        &self.endpoint
    }

    /// Takes the instance and its cards out of discovery; calls that come all the same are handled
    /// as before.
    pub async fn hide(&self) {
        self.health
            .set_endpoint(&self.endpoint.to_string(), EndpointStatus::NotReady);
        let records = self.announcer.records_of(&self.endpoint).await;
        self.hidden.lock().get_or_insert(records);
        withdraw(&self.announcer, &self.endpoint).await;
    }

    /// Announces again what was hidden.
    pub async fn show(&self) {
        let Some((instances, cards)) = self.hidden.lock().take() else {
            return;
        };
        let announced = self.announcer.update(|process| {
            process.instances.retain(|it| it.endpoint != self.endpoint);
            process.cards.retain(|it| it.endpoint != self.endpoint);
            process.instances.extend(instances);
            process.cards.extend(cards);
        });
        if let Err(error) = announced.await {
            tracing::warn!(endpoint = %self.endpoint, %error, "could not announce an endpoint again");
        }
        self.health
            .set_endpoint(&self.endpoint.to_string(), EndpointStatus::Ready);
    }
}

impl Drop for ServedEndpoint {
    fn drop(&mut self) {
        if self.withdrawn {
            return;
        }
        self.health.remove_endpoint(&self.endpoint.to_string());
        withdraw_in_background(&self.announcer, &self.endpoint, &self.tasks);
    }
}

impl Drop for Announcing<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            withdraw_in_background(self.announcer, self.endpoint, self.tasks);
        }
    }
}

fn withdraw_in_background(announcer: &Announcer, endpoint: &EndpointId, tasks: &Tasks) {
    if tokio::runtime::Handle::try_current().is_err() {
        // The process is ending, and its record ends with it.
        return;
    }
    let (announcer, endpoint) = (announcer.clone(), endpoint.clone());
    tasks.spawn_until_cancelled("withdraw endpoint", async move {
        withdraw(&announcer, &endpoint).await;
    });
}

async fn withdraw(announcer: &Announcer, endpoint: &EndpointId) {
    if let Err(error) = announcer.remove_instance(endpoint).await {
        // The backend withdraws it when it is back; until then callers are refused and go on.
        tracing::warn!(%endpoint, %error, "could not withdraw an endpoint now");
    }
}
