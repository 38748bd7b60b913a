//! Keeps a registry of models like discovery: builds a pipeline for each model that workers
//! announce, and takes it away with the last of them.
//!
//! Who is there is [`crate::announced_models`]' business; this file fetches and builds.
//!
//! Invariant: a model is listed only when its tokenizer and template are loaded and checked.

use crate::announced_models::{Catalogue, Follower, Scope, sources};
use crate::card::{GgufVocabulary, ModelAssets, ModelCard};
use crate::config::DeliveryOptions;
use crate::disaggregated::Disaggregated;
use crate::migration::{Migrating, MigrationMetrics, MigrationSetup};
use crate::model::ServedModel;
use crate::model_set::Announced;
use crate::prefill_pools::{Prefill, PrefillPools, PrefillWatch};
use crate::registry::ModelRegistry;
use crate::remote::RemoteEngine;
use crate::role::{WorkerType, need_prefill};
use dynamo_kv_router::config::RouterOptions;
use dynamo_protocols::engine::Engine;
use dynamo_runtime::artefact::{ArtefactError, ArtefactFetcher};
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{ArtefactRef, CardRecord, NameError, View};
use futures_util::future::join;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Reads vocabularies of GGUF files, where the build has an engine that can.
pub type SharedVocabulary = Option<Arc<dyn GgufVocabulary>>;

/// What a frontend serves of what is announced.
#[derive(Debug, Clone)]
pub struct ModelWatchOptions {
    /// Whose models to serve.
    pub scope: Scope,
    /// How workers are picked.
    pub router: RouterOptions,
    /// Folder to keep fetched artefacts in.
    pub cache: PathBuf,
    /// How requests are kept going.
    pub delivery: DeliveryOptions,
    /// Where that is counted.
    pub migrations: MigrationMetrics,
}

/// The watcher.
#[derive(Debug)]
pub struct ModelWatch {
    follower: Follower<Pipelines>,
    prefill: PrefillWatch,
}

/// What builds the models' pipelines.
struct Pipelines {
    runtime: DistributedRuntime,
    registry: ModelRegistry,
    router: RouterOptions,
    prefill: PrefillPools,
    delivery: DeliveryOptions,
    migrations: MigrationMetrics,
    vocabulary: SharedVocabulary,
    fetcher: ArtefactFetcher,
    /// Cancelled when a model is gone, so that its requests do not wait for it.
    gone: Mutex<BTreeMap<String, CancellationToken>>,
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

impl std::fmt::Debug for Pipelines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipelines")
            .field("router", &self.router)
            .finish_non_exhaustive()
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
        let linger = options.delivery.model_linger;
        registry.expect_anything(options.delivery.queue_timeout);
        let prefill = registry.prefill_pools().clone();
        let near = options.scope.with_neighbours();
        let watch = PrefillWatch::new(runtime, prefill.clone(), near, options.router.clone());
        let pipelines = Pipelines {
            prefill,
            fetcher: ArtefactFetcher::new(environment, plane, options.cache),
            gone: Mutex::default(),
            runtime: runtime.clone(),
            registry,
            router: options.router,
            delivery: options.delivery,
            migrations: options.migrations,
            vocabulary,
        };
        Self {
            follower: Follower::new(options.scope, linger, pipelines),
            prefill: watch,
        }
    }

    /// Follows discovery until dropped.
    pub async fn run(self) {
        let runtime = self.follower.catalogue.runtime.clone();
        Box::pin(join(self.follower.run(&runtime), self.prefill.run())).await;
    }
}

impl Catalogue for Pipelines {
    type Error = BuildError;

    async fn take_in(&self, workers: &[Announced], view: &View) -> Result<(), BuildError> {
        let gone = CancellationToken::new();
        let model = self.build(workers, view, gone.clone()).await?;
        let name = workers[0].card.name.clone();
        self.registry.add(name.as_str(), Arc::new(model));
        self.leaves(name, Some(gone));
        Ok(())
    }

    fn remove(&self, name: &str) {
        self.registry.remove(name);
        self.leaves(name.to_owned(), None);
    }

    fn expects(&self, names: BTreeSet<String>) {
        self.registry.expect(names);
    }

    fn settled(&self, failed: BTreeSet<String>) {
        self.registry.settle(failed);
    }

    fn refused(&self, instances: &BTreeMap<String, u64>) {
        self.registry.set_refused_instances(instances);
    }
}

impl Pipelines {
    /// The model of this name is gone, and another one is there in its place, or none.
    fn leaves(&self, name: String, next: Option<CancellationToken>) {
        let mut gone = self.gone.lock();
        let former = match next {
            Some(next) => gone.insert(name, next),
            None => gone.remove(&name),
        };
        if let Some(former) = former {
            former.cancel();
        }
    }

    async fn build(
        &self,
        workers: &[Announced],
        view: &View,
        gone: CancellationToken,
    ) -> Result<ServedModel, BuildError> {
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
        let engine = self.workers(record, &card).await?;
        let router = Some(Arc::clone(engine.router()));
        let engine: Arc<dyn Engine> = match card.worker_type {
            WorkerType::Decode => Arc::new(self.disaggregated(engine, record, &card)),
            WorkerType::Aggregated | WorkerType::Prefill => Arc::new(engine),
        };
        let setup = MigrationSetup {
            options: self.delivery.clone(),
            has_workers: true,
            can_continue: !card.runtime.cannot_continue,
            model: record.name.as_str().into(),
            gone,
            metrics: self.migrations.clone(),
            environment: self.runtime.environment().clone(),
        };
        Ok(ServedModel {
            card,
            tokenizer,
            template,
            router,
            engine: Arc::new(Migrating::new(engine, setup)),
        })
    }

    /// Those who serve the model, as one engine.
    async fn workers(
        &self,
        record: &CardRecord,
        card: &ModelCard,
    ) -> Result<RemoteEngine, BuildError> {
        let block_size = NonZeroU32::new(card.kv_block_size).unwrap_or(NonZeroU32::MIN);
        let mut options = self.router.clone();
        if card.worker_type == WorkerType::Decode {
            // Others compute their prompts.
            options.router_track_prefill_tokens = false;
        }
        let engine = RemoteEngine::new(&self.runtime, record, block_size, &options)?;
        let engine = engine.asking_routers(card.runtime.is_router);
        engine.ready().await;
        Ok(engine)
    }

    /// The same, with those who compute their prompts.
    fn disaggregated(
        &self,
        decode: RemoteEngine,
        record: &CardRecord,
        card: &ModelCard,
    ) -> Disaggregated {
        let (pools, endpoint, served) =
            (self.prefill.clone(), record.endpoint.clone(), card.clone());
        Disaggregated {
            decode: Arc::new(decode),
            prefill: Arc::new(move || {
                let pool = pools.find(&endpoint, &served)?;
                Some(pool as Arc<dyn Prefill>)
            }),
            works_alone: !need_prefill(&card.needs),
            environment: self.runtime.environment().clone(),
        }
    }
}
