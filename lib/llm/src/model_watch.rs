//! Keeps a registry of models like discovery: builds a pipeline for each model that workers
//! announce, and takes it away with the last of them.
//!
//! What to serve is decided by [`crate::model_set`]; this file watches, fetches and builds.
//!
//! Invariants
//! - A model is listed only when its tokenizer and template are loaded and checked.
//! - A model that cannot be built (a wrong artefact hash, a vocabulary this build cannot read) is
//!   reported once and tried again when its announcements change or `RETRY_INTERVAL` is over; it
//!   holds up the others for no longer than a fetch may take.
//! - A stale view is used like any other: discovery takes nobody out of it but by their own word,
//!   and whoever comes in it can be reached.

use crate::card::{GgufVocabulary, ModelAssets, ModelCard};
use crate::model::ServedModel;
use crate::model_set::{Announced, MODEL_CARD_KIND, ModelIdentity, Plan, plan};
use crate::registry::ModelRegistry;
use crate::remote::RemoteEngine;
use crate::worker::artefact_endpoint;
use dynamo_kv_router::config::RouterOptions;
use dynamo_runtime::artefact::{ArtefactError, ArtefactFetcher, ArtefactSource};
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{ArtefactRef, EndpointId, NameError, View};
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How long a model that could not be built is left alone.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Reads vocabularies of GGUF files, where the build has an engine that can.
pub type SharedVocabulary = Option<Arc<dyn GgufVocabulary>>;

/// Whose models a frontend serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of one namespace's components.
    Namespace(String),
    /// Those of one endpoint's instances.
    Endpoint(EndpointId),
}

/// What a frontend serves of what is announced.
#[derive(Debug, Clone)]
pub struct ModelWatchOptions {
    /// Whose models to serve.
    pub scope: Scope,
    /// How workers are picked.
    pub router: RouterOptions,
    /// Folder to keep fetched artefacts in.
    pub cache: PathBuf,
}

/// The watcher.
pub struct ModelWatch {
    runtime: DistributedRuntime,
    registry: ModelRegistry,
    options: ModelWatchOptions,
    vocabulary: SharedVocabulary,
    fetcher: ArtefactFetcher,
    served: BTreeMap<String, ModelIdentity>,
    /// What was reported already, so that each trouble is one line and not one per event.
    reported: BTreeSet<String>,
}

/// Why an announced model is not served.
#[derive(Debug, thiserror::Error)]
enum BuildError {
    #[error("its card cannot be read: {0}")]
    Card(#[from] serde_json::Error),
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error(transparent)]
    Model(#[from] crate::card::ModelError),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error("loading it was cut off: {0}")]
    Compute(#[from] dynamo_runtime::environment::ComputeError),
}

impl std::fmt::Debug for ModelWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelWatch")
            .field("options", &self.options)
            .field("served", &self.served)
            .finish_non_exhaustive()
    }
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

impl ModelWatch {
    /// A watcher that has seen nothing yet.
    pub fn new(
        runtime: &DistributedRuntime,
        registry: ModelRegistry,
        options: ModelWatchOptions,
        vocabulary: SharedVocabulary,
    ) -> Self {
        let plane = Arc::clone(runtime.request_plane());
        let environment = runtime.environment().clone();
        Self {
            fetcher: ArtefactFetcher::new(environment, plane, options.cache.clone()),
            runtime: runtime.clone(),
            registry,
            options,
            vocabulary,
            served: BTreeMap::new(),
            reported: BTreeSet::new(),
        }
    }

    /// Follows discovery until dropped.
    pub async fn run(mut self) {
        let mut events = self.runtime.discovery().watch();
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

    /// Serves what is announced. Says whether everything could be.
    async fn reconcile(&mut self, view: &View) -> bool {
        let announced = self.announced(view);
        let Plan {
            remove,
            add,
            refused,
        } = plan(&self.served, &announced);
        for name in remove {
            self.served.remove(&name);
            self.registry.remove(&name);
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
            match self.build(&workers, view).await {
                Ok(model) => {
                    self.served
                        .insert(name.clone(), workers[0].identity.clone());
                    tracing::info!(model = name, endpoint = %workers[0].identity.endpoint, "model is served");
                    self.registry.add(name, Arc::new(model));
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

    fn announced(&self, view: &View) -> Vec<Announced> {
        let mut announced = Vec::new();
        for (process, record) in view.processes() {
            for card in &record.cards {
                let wanted = self.options.scope.contains(&card.endpoint);
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

    async fn build(&self, workers: &[Announced], view: &View) -> Result<ServedModel, BuildError> {
        let record = &workers[0].card;
        let card: ModelCard = serde_json::from_value(record.body.clone())?;
        let sources = sources(workers, view)?;
        let mut files: BTreeMap<ArtefactRef, PathBuf> = BTreeMap::new();
        for artefact in card.artefacts() {
            if !files.contains_key(artefact) {
                let path = self.fetcher.fetch(artefact, &sources).await?;
                files.insert(artefact.clone(), path);
            }
        }
        let (loading, vocabulary) = (card.clone(), self.vocabulary.clone());
        // Parsing a tokenizer takes most of a second.
        let load = self.runtime.environment().compute(move || {
            let locate =
                |artefact: &ArtefactRef| Ok(files.get(artefact).cloned().unwrap_or_default());
            ModelAssets::load(&loading, locate, vocabulary.as_deref())
        });
        let ModelAssets {
            tokenizer,
            template,
            ..
        } = load.await??;
        let identity = &workers[0].identity;
        let block_size = NonZeroU32::new(card.kv_block_size).unwrap_or(NonZeroU32::MIN);
        let options = &self.options.router;
        let engine = RemoteEngine::new(&self.runtime, &record.name, identity, block_size, options)?;
        engine.ready().await;
        Ok(ServedModel {
            card,
            tokenizer,
            template,
            router: Some(Arc::clone(engine.router())),
            engine: Arc::new(engine),
        })
    }
}

/// Who can be asked for a model's artefacts.
fn sources(workers: &[Announced], view: &View) -> Result<Vec<ArtefactSource>, NameError> {
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
