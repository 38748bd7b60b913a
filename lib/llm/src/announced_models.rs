//! Follows what models processes announce, and keeps a catalogue like that.
//!
//! What to take in is decided by [`crate::model_set`]; how, by the [`Catalogue`]. This file
//! watches discovery.
//!
//! Invariants
//! - A model that cannot be taken in is reported once and tried again when its announcements
//!   change or `RETRY_INTERVAL` is over; it holds up the others for no longer than a fetch may take.
//! - A stale view removes nothing.

use crate::model_set::{Announced, MODEL_CARD_KIND, ModelIdentity, Plan, plan};
use crate::worker::artefact_endpoint;
use dynamo_runtime::artefact::ArtefactSource;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{EndpointId, NameError, View};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tokio::time::sleep;

/// How long a model that could not be taken in is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Whose models are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of one namespace's components.
    Namespace(String),
    /// Those of one endpoint's instances.
    Endpoint(EndpointId),
}

/// What is kept like discovery.
pub(crate) trait Catalogue {
    /// Why a model is not taken in.
    type Error: fmt::Display;

    /// Takes a model in that all of these announce; there is at least one.
    async fn take_in(&self, workers: &[Announced], view: &View) -> Result<(), Self::Error>;

    /// Lets a model go: its last worker left.
    fn remove(&self, name: &str);
}

/// Keeps one catalogue.
#[derive(Debug)]
pub(crate) struct Follower<C> {
    pub(crate) catalogue: C,
    scope: Scope,
    served: BTreeMap<String, ModelIdentity>,
    /// What was reported already, so that each trouble is one line and not one per event.
    reported: BTreeSet<String>,
}

impl Scope {
    fn contains(&self, endpoint: &EndpointId) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(only) => only == endpoint.namespace(),
            Self::Endpoint(only) => only == endpoint,
        }
    }
}

impl<C: Catalogue> Follower<C> {
    /// One that has seen nothing yet.
    pub(crate) fn new(scope: Scope, catalogue: C) -> Self {
        Self {
            catalogue,
            scope,
            served: BTreeMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// Follows discovery until dropped.
    pub(crate) async fn run(mut self, runtime: &DistributedRuntime) {
        let mut events = runtime.discovery().watch();
        let mut view = View::default();
        let mut complete = true;
        loop {
            let retry = async {
                match complete {
                    true => std::future::pending().await,
                    false => sleep(RETRY_INTERVAL).await,
                }
            };
            let goes_on = tokio::select! {
                biased;
                goes_on = events.update(&mut view) => goes_on,
                () = retry => true,
            };
            if !goes_on {
                return;
            }
            complete = self.reconcile(&view).await;
        }
    }

    /// Takes in what is announced. Says whether everything could be.
    async fn reconcile(&mut self, view: &View) -> bool {
        if view.stale_since().is_some() {
            return true;
        }
        let announced = announced(&self.scope, view);
        let Plan {
            remove,
            add,
            refused,
        } = plan(&self.served, &announced);
        for name in remove {
            self.served.remove(&name);
            self.catalogue.remove(&name);
            tracing::info!(model = name, "model is gone: its last worker left");
        }
        for (name, process) in refused {
            self.report(&format!(
                "instance {process:x} announces another model under the name {name}; it is not \
                 used while the first has workers",
                process = process.get()
            ));
        }
        let mut complete = true;
        for (name, workers) in add {
            let identity = workers[0].identity.clone();
            match self.catalogue.take_in(&workers, view).await {
                Ok(()) => {
                    tracing::info!(model = name, endpoint = %identity.endpoint, "model is served");
                    self.served.insert(name, identity);
                }
                Err(error) => {
                    complete = false;
                    self.report(&format!(
                        "model {name} is announced and cannot be served: {error}"
                    ));
                }
            }
        }
        complete
    }

    fn report(&mut self, trouble: &str) {
        if self.reported.insert(trouble.to_owned()) {
            tracing::warn!("{trouble}");
        }
    }
}

/// The models in scope that processes announce.
fn announced(scope: &Scope, view: &View) -> Vec<Announced> {
    let mut announced = Vec::new();
    for (process, record) in view.processes() {
        for card in &record.cards {
            let wanted = scope.contains(&card.endpoint);
            // A card without its instance is on its way in or out.
            let served = record
                .instances
                .iter()
                .any(|it| it.endpoint == card.endpoint);
            if card.kind == MODEL_CARD_KIND && wanted && served {
                announced.push(Announced {
                    process: *process,
                    identity: ModelIdentity::of(card),
                    card: card.clone(),
                });
            }
        }
    }
    announced
}

/// Who can be asked for a model's artefacts.
pub(crate) fn sources(
    workers: &[Announced],
    view: &View,
) -> Result<Vec<ArtefactSource>, NameError> {
    let mut sources = Vec::new();
    for worker in workers {
        let endpoint = artefact_endpoint(&worker.identity.endpoint)?;
        let Some(record) = view.processes().get(&worker.process) else {
            continue;
        };
        if let Some(instance) = record.instances.iter().find(|it| it.endpoint == endpoint) {
            sources.push(ArtefactSource {
                instance: worker.process,
                address: instance.address.clone(),
                endpoint: endpoint.clone(),
            });
        }
    }
    Ok(sources)
}
