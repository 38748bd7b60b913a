//! The servers, the router that chooses among them, and the models that they serve together.
//!
//! One router stands for all models of the servers: a base model and its adapters share a server's
//! cache and its load. Which servers may get a request is said by who lists its model.
//!
//! Invariants
//! - The router's members are the servers that are in; both change under the keeper's lock.
//! - A server that is out keeps the list of models it had, so that its models are known and not
//!   ready, rather than unknown.

mod start;

pub use start::{BackendsSetup, SetupError, Tokenising};

use crate::address::BackendAddress;
use crate::engine::Elsewhere;
use crate::headers::KeyPolicy;
use crate::health::{Change, Health, Sign};
use crate::kv::EngineCaches;
use crate::listing::ListedModel;
use crate::metrics::BackendMetrics;
use crate::shadow::Shadow;
use crate::wire::Pool;
use dynamo_kv_router::config::RouterOptions;
use dynamo_llm::card::{DEFAULT_KV_BLOCK_SIZE, ModelCard};
use dynamo_llm::model::ServedModel;
use dynamo_llm::registry::ModelRegistry;
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_routing::{FedSetup, RouterFeed, WorkerRouter};
use dynamo_runtime::{Environment, Tasks};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The number of a balancer, which is no worker of the router.
const BALANCER: u64 = 0;

/// The servers. Cheap to clone; clones are the same servers.
#[derive(Debug, Clone)]
pub struct Backends {
    pub(crate) fleet: Arc<Fleet>,
}

/// How patient to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    pub(crate) head: Duration,
    pub(crate) idle: Duration,
    pub(crate) poll: Duration,
    pub(crate) poll_interval: Duration,
}

/// What all requests and tasks share.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) environment: Environment,
    pub(crate) tasks: Tasks,
    pub(crate) backends: Vec<Arc<Backend>>,
    pub(crate) metrics: BackendMetrics,
    pub(crate) patience: Patience,
    pub(crate) keys: KeyPolicy,
    /// The balancer that gets everything, and the comparison with it.
    pub(crate) shadow: Option<(Arc<Backend>, Shadow)>,
    tokenising: Option<Tokenising>,
    models: ModelRegistry,
    options: RouterOptions,
    router: RwLock<Arc<WorkerRouter>>,
    keeper: Mutex<Keeper>,
}

/// Who changes the router.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) feed: RouterFeed,
    pub(crate) caches: EngineCaches,
    served: BTreeMap<String, ListedModel>,
}

/// One server.
#[derive(Debug)]
pub(crate) struct Backend {
    /// Its number as a worker of the router: from 1, in the order given.
    pub(crate) number: u64,
    pub(crate) address: BackendAddress,
    /// The address as text, for labels and logs.
    pub(crate) label: String,
    pub(crate) pool: Pool,
    health: Mutex<Health>,
    pub(crate) is_in: watch::Sender<bool>,
    /// `None` until it has answered for the first time.
    listed: RwLock<Option<Arc<[ListedModel]>>>,
}

/// Who may get a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Eligible {
    /// `None` is everybody.
    pub(crate) allowed: Option<Vec<u64>>,
    /// The model is an adapter.
    pub(crate) is_adapter: bool,
}

// === impl Backend ===

impl Backend {
    fn new(
        number: u64,
        address: BackendAddress,
        environment: &Environment,
        connect: Duration,
    ) -> Self {
        let network = Arc::clone(&environment.network);
        Self {
            number,
            label: address.to_string(),
            pool: Pool::new(network, address.socket(), connect),
            address,
            health: Mutex::default(),
            is_in: watch::Sender::new(false),
            listed: RwLock::default(),
        }
    }

    pub(crate) fn is_in(&self) -> bool {
        *self.is_in.borrow()
    }

    /// Resolves when the server is out.
    pub(crate) async fn gone(&self) {
        // The sender is this very value: the watch does not end before it.
        drop(self.is_in.subscribe().wait_for(|is_in| !is_in).await);
    }

    fn listed(&self, model: &str) -> Option<ListedModel> {
        let listed = self.listed.read();
        let models = listed.as_ref()?;
        let at = models
            .binary_search_by(|it| it.name.as_str().cmp(model))
            .ok()?;
        models.get(at).cloned()
    }
}

// === impl Fleet ===

impl Fleet {
    pub(crate) fn router(&self) -> Arc<WorkerRouter> {
        Arc::clone(&self.router.read())
    }

    /// The server with this number.
    pub(crate) fn backend(&self, number: u64) -> Option<&Arc<Backend>> {
        let at = usize::try_from(number).ok()?.checked_sub(1)?;
        self.backends.get(at)
    }

    /// Takes in what was seen of a server.
    pub(crate) fn see(&self, backend: &Backend, sign: Sign) {
        if backend.number == BALANCER {
            // There is nobody else to ask: it is asked whatever it does.
            return;
        }
        let change = backend.health.lock().see(sign);
        let Some(change) = change else { return };
        let is_in = change == Change::In;
        match &change {
            Change::In => tracing::info!(backend = backend.label, "server is in"),
            Change::Out(trouble) => {
                tracing::warn!(backend = backend.label, %trouble, "server is out");
                backend.pool.clear();
            }
        }
        self.metrics.changed(&backend.label, is_in);
        self.renew_members(&mut self.keeper.lock());
        backend.is_in.send_replace(is_in);
    }

    /// A server said what it serves.
    pub(crate) fn listed(&self, backend: &Backend, models: Vec<ListedModel>) {
        let models: Arc<[ListedModel]> = models.into();
        let former = backend.listed.write().replace(Arc::clone(&models));
        if former.as_ref() != Some(&models) {
            self.renew_models(&mut self.keeper.lock());
        }
        self.see(backend, Sign::Listed);
    }

    pub(crate) fn with_keeper<T>(&self, work: impl FnOnce(&mut Keeper) -> T) -> T {
        work(&mut self.keeper.lock())
    }

    /// Goes on with a new router, for blocks of another size. Requests that run stay with the one
    /// they were placed by.
    pub(crate) fn renew_router(&self, keeper: &mut Keeper, block_size: NonZeroU32) {
        let (router, feed) = WorkerRouter::fed(FedSetup {
            environment: self.environment.clone(),
            tasks: self.tasks.clone(),
            block_size,
            options: self.options.clone(),
        });
        keeper.feed = feed;
        *self.router.write() = Arc::new(router);
        self.renew_members(keeper);
        keeper.served.clear();
        self.renew_models(keeper);
    }

    fn renew_members(&self, keeper: &mut Keeper) {
        let present = self.backends.iter().filter(|it| it.health.lock().is_in());
        let present: Vec<u64> = present.map(|it| it.number).collect();
        keeper.feed.set_members(&present);
    }

    /// Has the registry list what any server lists.
    fn renew_models(&self, keeper: &mut Keeper) {
        let mut listed: BTreeMap<String, ListedModel> = BTreeMap::new();
        for backend in &self.backends {
            for model in backend.listed.read().iter().flat_map(|it| it.iter()) {
                listed
                    .entry(model.name.clone())
                    .or_insert_with(|| model.clone());
            }
        }
        for name in keeper
            .served
            .keys()
            .filter(|name| !listed.contains_key(*name))
        {
            self.models.remove(name);
        }
        for (name, model) in &listed {
            if keeper.served.get(name) != Some(model) {
                self.models.add(name.as_str(), Arc::new(self.served(model)));
            }
        }
        keeper.served = listed;
    }

    fn served(&self, model: &ListedModel) -> ServedModel {
        let router = self.router();
        let own = ModelCard::byte_level(&model.name, model.context_length.unwrap_or(0));
        let (mut card, tokenizer, template) = match &self.tokenising {
            Some(it) if it.is_for(&model.name) => {
                let card = ModelCard {
                    name: model.name.clone(),
                    ..it.card.clone()
                };
                (card, Arc::clone(&it.tokenizer), it.template.clone())
            }
            _ => (own, start::byte_tokenizer(), None),
        };
        card.kv_block_size = router.block_size().get();
        if let Some(length) = model.context_length {
            card.context_length = length;
        }
        ServedModel {
            card: card.sealed(),
            tokenizer,
            template,
            engine: Arc::new(Elsewhere),
            router: Some(router),
        }
    }

    /// Whether prompts of a model are tokenised.
    pub(crate) fn tokenises(&self, model: &str) -> bool {
        let tokenising = self.tokenising.as_ref();
        tokenising.is_some_and(|it| it.is_for(model))
    }

    /// Who may get a request for a model, or for whatever model a server takes.
    pub(crate) fn eligible(&self, model: Option<&str>) -> Result<Eligible, RequestError> {
        let Some(name) = model else {
            return Ok(Eligible {
                allowed: None,
                is_adapter: false,
            });
        };
        let (mut allowed, mut is_adapter, mut is_known, mut everybody) =
            (Vec::new(), false, false, true);
        for backend in &self.backends {
            match backend.listed(name) {
                Some(model) => {
                    is_known = true;
                    is_adapter |= model.is_adapter;
                    if backend.is_in() {
                        allowed.push(backend.number);
                    }
                }
                // Whoever is out is no candidate anyway.
                None => everybody &= !backend.is_in(),
            }
        }
        if !allowed.is_empty() {
            return Ok(Eligible {
                allowed: (!everybody).then_some(allowed),
                is_adapter,
            });
        }
        let silent = self.backends.iter().any(|it| it.listed.read().is_none());
        if is_known || silent {
            return Err(RequestError::new(
                ErrorCode::ModelNotReady,
                format!("no server of model `{name}` answers; try again shortly"),
            ));
        }
        self.models.find(name).and_then(|_| {
            Err(RequestError::new(
                ErrorCode::ModelNotFound,
                format!("model `{name}` is not served any more"),
            ))
        })
    }

    fn block_size(option: Option<u32>, tokenising: Option<&Tokenising>) -> NonZeroU32 {
        let of_card = tokenising.map(|it| it.card.kv_block_size);
        let size = option.or(of_card).unwrap_or(DEFAULT_KV_BLOCK_SIZE);
        NonZeroU32::new(size).unwrap_or(NonZeroU32::MIN)
    }
}

impl Backends {
    /// The router.
    pub fn router(&self) -> Arc<WorkerRouter> {
        self.fleet.router()
    }
}
