//! Models as a router of its own sees them: by name, each with its workers and how they are
//! picked, and without tokenizer or template.
//!
//! Who is there is [`crate::announced_models`]' business, as for a frontend.
//!
//! Invariant: a model is listed when discovery has told of its workers, and no longer than it is
//! announced.

use crate::announced_models::{Catalogue, Follower, Scope, sources};
use crate::card::ModelCard;
use crate::model_set::{Announced, ModelIdentity};
use crate::remote::RemoteEngine;
use dynamo_kv_router::config::RouterOptions;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_runtime::artefact::{ArtefactError, ArtefactFetcher};
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{ArtefactRef, NameError, View};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// A model with its workers.
#[derive(Debug)]
pub struct RoutedModel {
    /// Its name.
    pub name: Arc<str>,
    /// Its card.
    pub card: ModelCard,
    /// What tells it from another model of the name.
    pub identity: ModelIdentity,
    /// Its files, if they were asked for, and where they are here.
    pub artefacts: Vec<(ArtefactRef, PathBuf)>,
    /// Its workers, as one engine.
    pub engine: Arc<RemoteEngine>,
}

/// The models that are there. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct RoutedModels {
    models: Arc<RwLock<BTreeMap<Arc<str>, Arc<RoutedModel>>>>,
    changes: watch::Sender<()>,
}

/// What a router follows.
#[derive(Debug, Clone)]
pub struct RoutedModelOptions {
    /// Whose models.
    pub scope: Scope,
    /// How workers are picked.
    pub router: RouterOptions,
    /// Folder to fetch models' files to, if they are wanted.
    pub cache: Option<PathBuf>,
}

/// Keeps the list like discovery.
#[derive(Debug)]
pub struct RoutedModelWatch {
    follower: Follower<Routers>,
}

/// What makes the models' routers.
#[derive(Debug)]
struct Routers {
    runtime: DistributedRuntime,
    models: RoutedModels,
    router: RouterOptions,
    fetcher: Option<ArtefactFetcher>,
}

/// Why an announced model is not taken in.
#[derive(Debug, thiserror::Error)]
enum TakeInError {
    #[error("its card cannot be read: {0}")]
    Card(#[from] serde_json::Error),
    #[error(transparent)]
    Artefact(#[from] ArtefactError),
    #[error(transparent)]
    Name(#[from] NameError),
}

// === impl RoutedModels ===

impl RoutedModels {
    /// No models.
    pub fn new() -> Self {
        Self::default()
    }

    /// The model of this name.
    pub fn find(&self, name: &str) -> Result<Arc<RoutedModel>, RequestError> {
        self.models.read().get(name).cloned().ok_or_else(|| {
            RequestError::new(
                ErrorCode::ModelNotFound,
                format!("no worker serves a model of this name: `{}`", cut(name)),
            )
            .with_param("model")
        })
    }

    /// Every model, by name.
    pub fn list(&self) -> Vec<Arc<RoutedModel>> {
        self.models.read().values().cloned().collect()
    }

    /// Changes with the list.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn remove(&self, name: &str) {
        self.models.write().remove(name);
        self.changes.send_replace(());
    }

    fn add(&self, model: RoutedModel) {
        let name = Arc::clone(&model.name);
        self.models.write().insert(name, Arc::new(model));
        self.changes.send_replace(());
    }
}

/// Enough of a name that a client made up to recognise it.
fn cut(name: &str) -> String {
    name.chars().take(128).collect()
}

// === impl RoutedModelWatch ===

impl RoutedModelWatch {
    /// A watch that has seen nothing yet.
    pub fn new(
        runtime: &DistributedRuntime,
        models: RoutedModels,
        options: RoutedModelOptions,
    ) -> Self {
        let fetcher = options.cache.map(|cache| {
            let plane = Arc::clone(runtime.request_plane());
            ArtefactFetcher::new(runtime.environment().clone(), plane, cache)
        });
        let routers = Routers {
            runtime: runtime.clone(),
            models,
            router: options.router,
            fetcher,
        };
        Self {
            follower: Follower::new(options.scope, Duration::ZERO, routers),
        }
    }

    /// Follows discovery until dropped.
    pub async fn run(self) {
        let runtime = self.follower.catalogue.runtime.clone();
        self.follower.run(&runtime).await;
    }
}

impl Catalogue for Routers {
    type Error = TakeInError;

    fn remove(&self, name: &str) {
        self.models.remove(name);
    }

    async fn take_in(&self, workers: &[Announced], view: &View) -> Result<(), TakeInError> {
        let Announced {
            card: record,
            identity,
            ..
        } = &workers[0];
        let card: ModelCard = serde_json::from_value(record.body.clone())?;
        let mut artefacts = Vec::new();
        if let Some(fetcher) = &self.fetcher {
            let sources = sources(workers, view)?;
            let wanted: BTreeSet<ArtefactRef> = card.artefacts().into_iter().cloned().collect();
            for artefact in wanted {
                let path = fetcher.fetch(&artefact, &sources).await?;
                artefacts.push((artefact, path));
            }
        }
        let block_size = NonZeroU32::new(card.kv_block_size).unwrap_or(NonZeroU32::MIN);
        let engine = RemoteEngine::new(&self.runtime, record, block_size, &self.router)?;
        let engine = engine.asking_routers(card.runtime.is_router);
        engine.ready().await;
        self.models.add(RoutedModel {
            name: record.name.as_str().into(),
            card,
            identity: identity.clone(),
            artefacts,
            engine: Arc::new(engine),
        });
        Ok(())
    }
}
