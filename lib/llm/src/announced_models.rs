//! Follows what models processes announce, and keeps a catalogue like that.
//!
//! What to take in is decided by [`crate::model_set`]; how, by the catalogue. This file
//! watches discovery.
//!
//! Invariants
//! - A model that cannot be taken in is reported once and tried again when its announcements
//!   change or `RETRY_INTERVAL` is over; it holds up the others for no longer than a fetch may take.
//! - A stale view is used like any other: discovery takes nobody out of it but by their own word,
//!   and whoever comes in it can be reached.
//! - A model whose last worker left stays for a while: most often another one is starting, and
//!   requests would rather wait than hear that there is no such model.

use crate::model_set::{Announced, MODEL_CARD_KIND, ModelIdentity, Plan, plan};
use crate::worker::artefact_endpoint;
use dynamo_runtime::artefact::ArtefactSource;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{CardRecord, EndpointId, NameError, View};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

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

    /// Kind of the cards that it follows.
    const KIND: &'static str = MODEL_CARD_KIND;

    /// What it takes in, for messages.
    const WHAT: &'static str = "model";

    /// What a card goes by in it.
    fn name(card: &CardRecord) -> String {
        card.name.clone()
    }

    /// Takes a model in that all of these announce; there is at least one.
    async fn take_in(&self, workers: &[Announced], view: &View) -> Result<(), Self::Error>;

    /// Lets a model go: its last worker left.
    fn remove(&self, name: &str);

    /// These models are about to be taken in.
    fn expects(&self, names: BTreeSet<String>) {
        let _ = names;
    }

    /// Everything announced was taken in but for these.
    fn settled(&self, failed: BTreeSet<String>) {
        let _ = failed;
    }

    /// So many instances announce another model under the name of one that was taken in.
    fn refused(&self, instances: &BTreeMap<String, u64>) {
        let _ = instances;
    }
}

/// Keeps one catalogue.
#[derive(Debug)]
pub(crate) struct Follower<C> {
    pub(crate) catalogue: C,
    scope: Scope,
    linger: Duration,
    served: BTreeMap<String, ModelIdentity>,
    /// Models without workers, and when they are let go.
    leaving: BTreeMap<String, Instant>,
    /// What was reported already, so that each trouble is one line and not one per event.
    reported: BTreeSet<String>,
}

impl Scope {
    /// The same and whatever is in the same namespaces.
    pub(crate) fn with_neighbours(&self) -> Self {
        match self {
            Self::Endpoint(endpoint) => Self::Namespace(endpoint.namespace().to_owned()),
            Self::All | Self::Namespace(_) => self.clone(),
        }
    }

    fn contains(&self, endpoint: &EndpointId) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(only) => only == endpoint.namespace(),
            Self::Endpoint(only) => only == endpoint,
        }
    }
}

impl<C: Catalogue> Follower<C> {
    /// One that has seen nothing yet. Models without workers stay for as long as `linger`.
    pub(crate) fn new(scope: Scope, linger: Duration, catalogue: C) -> Self {
        Self {
            catalogue,
            scope,
            linger,
            served: BTreeMap::new(),
            leaving: BTreeMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// Follows discovery until dropped.
    pub(crate) async fn run(mut self, runtime: &DistributedRuntime) {
        let mut events = runtime.discovery().watch();
        let mut view = View::default();
        let mut complete = true;
        loop {
            let retry = (!complete).then(|| Instant::now() + RETRY_INTERVAL);
            let next = self
                .leaving
                .values()
                .min()
                .copied()
                .into_iter()
                .chain(retry)
                .min();
            let retry = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
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
            complete = self.reconcile(&view, Instant::now()).await;
        }
    }

    /// Takes in what is announced. Says whether everything could be.
    async fn reconcile(&mut self, view: &View, now: Instant) -> bool {
        let announced = announced::<C>(&self.scope, view);
        let Plan {
            remove,
            add,
            refused,
        } = plan(&self.served, &announced);
        self.leaving.retain(|name, _| remove.contains(name));
        for name in remove {
            let due = *self.leaving.entry(name.clone()).or_insert_with(|| {
                tracing::info!(model = name, "the last worker of the {} left", C::WHAT);
                now + self.linger
            });
            if due <= now {
                self.leaving.remove(&name);
                self.served.remove(&name);
                self.catalogue.remove(&name);
                tracing::info!(model = name, "{} is gone", C::WHAT);
            }
        }
        let mut refused_instances: BTreeMap<String, u64> = BTreeMap::new();
        for (name, process) in refused {
            *refused_instances.entry(name.clone()).or_default() += 1;
            self.report(&format!(
                "instance {process:x} announces another {} under the name {name}; it is not \
                 used while the first has workers",
                C::WHAT,
                process = process.get()
            ));
        }
        self.catalogue.refused(&refused_instances);
        let names = add.iter().map(|(name, _)| name.clone());
        self.catalogue.expects(names.collect());
        let mut failed = BTreeSet::new();
        for (name, workers) in add {
            let identity = workers[0].identity.clone();
            match self.catalogue.take_in(&workers, view).await {
                Ok(()) => {
                    tracing::info!(model = name, endpoint = %identity.endpoint, "{} is there", C::WHAT);
                    self.served.insert(name, identity);
                }
                Err(error) => {
                    self.report(&format!(
                        "{} {name} is announced and cannot be served: {error}",
                        C::WHAT
                    ));
                    failed.insert(name);
                }
            }
        }
        let complete = failed.is_empty();
        self.catalogue.settled(failed);
        complete
    }

    fn report(&mut self, trouble: &str) {
        if self.reported.insert(trouble.to_owned()) {
            tracing::warn!("{trouble}");
        }
    }
}

/// The models in scope that processes announce.
fn announced<C: Catalogue>(scope: &Scope, view: &View) -> Vec<Announced> {
    let mut announced = Vec::new();
    for (process, record) in view.processes() {
        for card in &record.cards {
            let wanted = scope.contains(&card.endpoint);
            // A card without its instance is on its way in or out.
            let served = record
                .instances
                .iter()
                .any(|it| it.endpoint == card.endpoint);
            if card.kind == C::KIND && wanted && served {
                announced.push(Announced {
                    process: *process,
                    identity: ModelIdentity::of(card),
                    card: card.clone(),
                    name: C::name(card),
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
