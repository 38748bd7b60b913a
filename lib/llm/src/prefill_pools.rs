//! The prefill workers of each model, kept like discovery.
//!
//! A pool is there as long as one of its workers is. Pools go by namespace and model: workers of one
//! namespace compute prompts for each other and for nobody else.

use crate::announced_models::{Catalogue, Follower, Scope};
use crate::card::{ModelCard, TokenizerSource};
use crate::model_set::Announced;
use crate::remote::{Prefilling, RemoteEngine};
use crate::role::PREFILL_CARD_KIND;
use dynamo_kv_router::config::RouterOptions;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{EngineRequest, RequestContext};
use dynamo_routing::WorkerRouter;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{CardRecord, EndpointId, NameError, View};
use futures_core::future::BoxFuture;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// Whoever computes prompts.
pub(crate) trait Prefill: Send + Sync + fmt::Debug {
    /// Has a prompt computed. `bits` are random.
    fn prefill(
        &self,
        request: EngineRequest,
        context: RequestContext,
        bits: u64,
    ) -> BoxFuture<'_, Result<Prefilling, RequestError>>;
}

/// The pools that are there. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct PrefillPools {
    pools: Arc<RwLock<BTreeMap<String, Pool>>>,
}

#[derive(Debug, Clone)]
struct Pool {
    model: Arc<str>,
    tokenizer: TokenizerSource,
    engine: Arc<RemoteEngine>,
}

/// Keeps the list.
#[derive(Debug)]
pub(crate) struct PrefillWatch {
    follower: Follower<Builder>,
}

/// What makes pools.
#[derive(Debug)]
struct Builder {
    runtime: DistributedRuntime,
    pools: PrefillPools,
    router: RouterOptions,
}

/// Why announced workers make no pool.
#[derive(Debug, thiserror::Error)]
enum PoolError {
    #[error("its card cannot be read: {0}")]
    Card(#[from] serde_json::Error),
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Prefill for RemoteEngine {
    fn prefill(
        &self,
        request: EngineRequest,
        context: RequestContext,
        bits: u64,
    ) -> BoxFuture<'_, Result<Prefilling, RequestError>> {
        Box::pin(Self::prefill(self, request, context, bits))
    }
}

// === impl PrefillPools ===

impl PrefillPools {
    /// The workers that compute prompts for those at `endpoint`, which serve the model of this card.
    /// Workers whose tokens mean something else are not among them.
    pub fn find(&self, endpoint: &EndpointId, card: &ModelCard) -> Option<Arc<RemoteEngine>> {
        let pools = self.pools.read();
        let pool = pools.get(&key(endpoint, &card.name))?;
        (pool.tokenizer == card.tokenizer).then(|| Arc::clone(&pool.engine))
    }

    /// Who picks among the workers of each, by the model's name.
    pub fn routers(&self) -> Vec<(Arc<str>, Arc<WorkerRouter>)> {
        let pools = self.pools.read();
        let router = |pool: &Pool| (Arc::clone(&pool.model), Arc::clone(pool.engine.router()));
        pools.values().map(router).collect()
    }
}

/// What a pool goes by.
fn key(endpoint: &EndpointId, model: &str) -> String {
    format!("{}/{model}", endpoint.namespace())
}

// === impl PrefillWatch ===

impl PrefillWatch {
    /// A watch that has seen nothing yet.
    pub(crate) fn new(
        runtime: &DistributedRuntime,
        pools: PrefillPools,
        scope: Scope,
        router: RouterOptions,
    ) -> Self {
        let builder = Builder {
            runtime: runtime.clone(),
            pools,
            router,
        };
        Self {
            follower: Follower::new(scope, Duration::ZERO, builder),
        }
    }

    /// Follows discovery until dropped.
    pub(crate) async fn run(self) {
        let runtime = self.follower.catalogue.runtime.clone();
        self.follower.run(&runtime).await;
    }
}

impl Catalogue for Builder {
    type Error = PoolError;

    const KIND: &'static str = PREFILL_CARD_KIND;

    const WHAT: &'static str = "prefill pool";

    fn name(card: &CardRecord) -> String {
        key(&card.endpoint, &card.name)
    }

    fn remove(&self, name: &str) {
        self.pools.pools.write().remove(name);
    }

    async fn take_in(&self, workers: &[Announced], _view: &View) -> Result<(), PoolError> {
        let Announced {
            card: record, name, ..
        } = &workers[0];
        let card: ModelCard = serde_json::from_value(record.body.clone())?;
        let block_size = NonZeroU32::new(card.kv_block_size).unwrap_or(NonZeroU32::MIN);
        let engine = RemoteEngine::new(&self.runtime, record, block_size, &self.router)?;
        engine.ready().await;
        let pool = Pool {
            model: record.name.as_str().into(),
            tokenizer: card.tokenizer,
            engine: Arc::new(engine),
        };
        self.pools.pools.write().insert(name.clone(), pool);
        Ok(())
    }
}
