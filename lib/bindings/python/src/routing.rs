//! Routing from Python: block hashes, an index of caches, and the router of an endpoint's workers.

#![expect(
    clippy::needless_pass_by_value,
    reason = "what Python passes is made for the call"
)]

use crate::client::{AnswerStream, Payload};
use crate::context::{Context, new_id};
use crate::errors::to_python;
use crate::home::{Home, trouble};
use crate::runtime::Endpoint;
use crate::tokens;
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::index::{Index, Matches};
use dynamo_kv_router::mode::RouterMode;
use dynamo_kv_router::worker::Slots;
use dynamo_kv_router::{Tier, WorkerKey};
use dynamo_protocols::engine::{EngineOutput, EngineRequest, RequestContext};
use dynamo_protocols::kv::{Block, KvEvent};
use dynamo_protocols::routing::{RouteHints, RouteSlip};
use dynamo_routing::news::news_endpoint;
use dynamo_routing::replicas::bookings_endpoint;
use dynamo_routing::{RouterSetup, WorkerRouter};
use dynamo_runtime::component::{Call, InstanceFilter, TypedClient};
use dynamo_tokens::{HashContext, block_hashes, sequence_hashes};
use futures_util::StreamExt;
use parking_lot::Mutex;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

/// Blocks that a [`RadixTree`] holds: a prompt of a million tokens of each of many workers.
const MAX_BLOCKS: u64 = 1 << 26;

/// Hashes of a prompt's full blocks, each of its own tokens: the published ones.
#[pyfunction]
#[pyo3(signature = (
    tokens, kv_block_size, block_mm_infos=None, lora_name=None, is_eagle=None, cache_namespace=None
))]
fn compute_block_hash_for_seq(
    tokens: Vec<u32>,
    kv_block_size: usize,
    block_mm_infos: Option<&Bound<'_, PyAny>>,
    lora_name: Option<&str>,
    is_eagle: Option<bool>,
    cache_namespace: Option<&str>,
) -> PyResult<Vec<u64>> {
    if kv_block_size == 0 {
        return Err(PyValueError::new_err("kv_block_size needs to be 1 or more"));
    }
    if block_mm_infos.is_some() || is_eagle.unwrap_or(false) {
        return Err(PyValueError::new_err(
            "block_mm_infos and is_eagle are not supported here: routers hash such prompts themselves",
        ));
    }
    let context = HashContext::of(lora_name, cache_namespace);
    Ok(block_hashes(&tokens, kv_block_size, &context))
}

/// Hashes of blocks chained over everything before them.
#[pyfunction]
fn compute_sequence_hashes(block_hashes: Vec<u64>) -> Vec<u64> {
    sequence_hashes(&block_hashes)
}

/// Who has how many leading blocks of a prompt.
#[pyclass(frozen, module = "dynamo._core")]
struct OverlapScores {
    scores: BTreeMap<(u64, u32), u32>,
}

#[pymethods]
impl OverlapScores {
    /// By worker (its id and its data-parallel rank): leading blocks that it has.
    #[getter]
    fn scores<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (worker, blocks) in &self.scores {
            dict.set_item(worker, blocks)?;
        }
        Ok(dict)
    }

    /// For each leading block, how many workers have it.
    #[getter]
    fn frequencies(&self) -> Vec<usize> {
        let longest = self.scores.values().max().copied().unwrap_or(0);
        let having = |depth: u32| {
            self.scores
                .values()
                .filter(|blocks| **blocks > depth)
                .count()
        };
        (0..longest).map(having).collect()
    }
}

/// An index of what workers have cached, fed by hand.
#[pyclass(frozen, module = "dynamo._core")]
struct RadixTree(Mutex<Tree>);

struct Tree {
    index: Index,
    slots: Slots,
}

#[pymethods]
impl RadixTree {
    #[new]
    fn new() -> Self {
        Self(Mutex::new(Tree {
            index: Index::new(MAX_BLOCKS),
            slots: Slots::new(),
        }))
    }

    /// A worker stored blocks: hashes of their own tokens, each one following the one before it, the
    /// first one following the whole of `prefix`.
    #[pyo3(signature = (worker_id, block_hashes, prefix=None, dp_rank=0))]
    fn store(
        &self,
        worker_id: u64,
        block_hashes: Vec<u64>,
        prefix: Option<Vec<u64>>,
        dp_rank: u32,
    ) -> PyResult<()> {
        let mut whole = prefix.unwrap_or_default();
        let before = whole.len();
        whole.extend(&block_hashes);
        let chained = sequence_hashes(&whole);
        let blocks = whole.iter().zip(&chained).skip(before);
        let event = KvEvent::Stored {
            parent: before.checked_sub(1).map(|last| chained[last]),
            blocks: blocks
                .map(|(block, chained)| Block::from((*block, *chained)))
                .collect(),
        };
        self.apply(worker_id, dp_rank, &event)
    }

    /// A worker has these blocks no more: hashes chained over everything before them.
    #[pyo3(signature = (worker_id, sequence_hashes, dp_rank=0))]
    fn remove(&self, worker_id: u64, sequence_hashes: Vec<u64>, dp_rank: u32) -> PyResult<()> {
        let blocks = sequence_hashes;
        self.apply(worker_id, dp_rank, &KvEvent::Removed { blocks })
    }

    /// A worker has nothing any more.
    #[pyo3(signature = (worker_id, dp_rank=0))]
    fn clear_all_blocks(&self, worker_id: u64, dp_rank: u32) -> PyResult<()> {
        self.apply(worker_id, dp_rank, &KvEvent::Cleared)
    }

    /// A worker is gone.
    #[pyo3(signature = (worker_id, dp_rank=0))]
    fn remove_worker(&self, worker_id: u64, dp_rank: u32) {
        let mut tree = self.0.lock();
        let key = WorkerKey {
            instance: worker_id,
            dp_rank,
        };
        if let Some(slot) = tree.slots.retire(key) {
            tree.index.clear(slot);
            tree.slots.release(slot);
        }
    }

    /// Who has how much of a prompt, by the hashes of its blocks' own tokens.
    fn find_matches(&self, block_hashes: Vec<u64>) -> OverlapScores {
        let tree = self.0.lock();
        let mut matches = Matches::default();
        tree.index.find_blocks(&block_hashes, &mut matches);
        scores(&matches, |slot| tree.slots.key(slot))
    }
}

impl RadixTree {
    fn apply(&self, worker_id: u64, dp_rank: u32, event: &KvEvent) -> PyResult<()> {
        let mut tree = self.0.lock();
        let key = WorkerKey {
            instance: worker_id,
            dp_rank,
        };
        let slot = tree.slots.assign(key);
        let slot = slot.ok_or_else(|| PyValueError::new_err("there are too many workers"))?;
        tree.index.apply(slot, Tier::Device, event);
        Ok(())
    }
}

fn scores(
    matches: &Matches,
    key: impl Fn(dynamo_kv_router::Slot) -> Option<WorkerKey>,
) -> OverlapScores {
    let known = matches.overlaps().iter().filter_map(|overlap| {
        let key = key(overlap.slot)?;
        Some(((key.instance, key.dp_rank), overlap.total()))
    });
    OverlapScores {
        scores: known.collect(),
    }
}

/// The router of an endpoint's workers: hears what they have cached and how busy they are, and
/// chooses whom to ask.
#[pyclass(frozen, module = "dynamo._core")]
struct KvRouter {
    home: Arc<Home>,
    router: Arc<WorkerRouter>,
    client: Arc<TypedClient<EngineRequest, EngineOutput>>,
}

#[pymethods]
impl KvRouter {
    /// `block_size` is the workers' tokens per KV block. `arguments` are the router's options as on a
    /// command line (`["--router-temperature", "0.5"]`), before those of the environment.
    #[new]
    #[pyo3(signature = (endpoint, block_size, arguments=None))]
    fn new(
        endpoint: &Bound<'_, Endpoint>,
        block_size: u32,
        arguments: Option<Vec<String>>,
    ) -> PyResult<Self> {
        let (home, router, client) = follow(endpoint, block_size, arguments)?;
        Ok(Self {
            home,
            router,
            client,
        })
    }

    /// Tokens per KV block.
    #[getter]
    fn block_size(&self) -> u32 {
        self.router.block_size().get()
    }

    /// How many workers are there, and how many of them tell what they have cached.
    fn workers(&self) -> (usize, usize) {
        self.router.workers()
    }

    /// Where a prompt would go now: worker id, data-parallel rank, and how many leading blocks that
    /// worker has. Nothing is sent or booked. Raises `KeyError` if nobody could take it.
    #[pyo3(signature = (token_ids, lora_name=None))]
    fn best_worker(
        &self,
        token_ids: Vec<u32>,
        lora_name: Option<String>,
    ) -> PyResult<(u64, u32, u32)> {
        let request = EngineRequest {
            prompt_ids: token_ids.into(),
            lora_name: lora_name.map(Into::into),
            ..EngineRequest::default()
        };
        let explanation = self.router.explain(&request, &RequestContext::default());
        let Some(winner) = explanation.winner else {
            let refusal = explanation.refusal;
            let why = refusal.unwrap_or_else(|| "no worker is there".to_owned());
            return Err(PyKeyError::new_err(why));
        };
        let of = |it: &&dynamo_kv_router::explain::Weighed| it.worker == winner;
        let weighed = explanation.candidates.iter().find(of);
        let overlap = weighed.map_or(0, |it| it.facts.overlap.total());
        Ok((winner.instance, winner.dp_rank, overlap))
    }

    /// By worker (id and rank): requests in flight, prompt tokens that wait, blocks in use, as this
    /// router has booked them.
    fn get_potential_loads<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let loads = self.router.with_router(|router| {
            let workers = router.fleet().workers().iter();
            let load = |worker: &dynamo_kv_router::fleet::WorkerState| {
                (worker.key, router.book().load(worker.slot))
            };
            workers.map(load).collect::<Vec<_>>()
        });
        let describe = |(key, load): (WorkerKey, dynamo_kv_router::book::Load)| {
            let dict = PyDict::new(py);
            dict.set_item("worker_id", key.instance)?;
            dict.set_item("dp_rank", key.dp_rank)?;
            dict.set_item("requests", load.requests)?;
            dict.set_item("potential_prefill_tokens", load.prefill_tokens)?;
            dict.set_item("potential_decode_blocks", load.active_blocks())?;
            Ok(dict)
        };
        loads.into_iter().map(describe).collect()
    }

    /// Sends a request, a dictionary as a model's handler gets it, to the worker that it should go
    /// to. The answer yields dictionaries as such a handler does. A future of the event loop.
    #[pyo3(signature = (request, context=None, worker_id=None))]
    fn generate<'py>(
        &self,
        py: Python<'py>,
        request: &Bound<'_, PyDict>,
        context: Option<&Bound<'_, Context>>,
        worker_id: Option<u64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let request = Arc::new(tokens::engine_request(request)?);
        let mut call_context = match context {
            Some(context) => context.get().request_context(),
            None => RequestContext {
                request_id: new_id(),
                ..RequestContext::default()
            },
        };
        let stopped =
            context.map(|context| context.get().wanted().token().clone().cancelled_owned());
        call_context.route = Some(Arc::new(RouteSlip::new(RouteHints {
            instance: worker_id,
            ..RouteHints::default()
        })));
        let (router, client) = (Arc::clone(&self.router), Arc::clone(&self.client));
        let home = Arc::clone(&self.home);
        self.home.promise(
            py,
            "routed call",
            async move {
                let routed = match router.route(&request, &call_context).await {
                    Ok(routed) => routed,
                    Err(error) => return Ok(Err(error)),
                };
                let policy = routed.policy(&request);
                let answer = client
                    .call(policy, &*request, Call::from(call_context))
                    .await;
                Ok(answer.map(|answer| routed.account(answer)))
            },
            move |py, called| {
                let answer = called.map_err(|error| to_python(py, &error))?;
                let items = answer.map(|item| item.map(Payload::Output)).boxed();
                let stream = AnswerStream::new(home, items, stopped, false);
                Ok(Py::new(py, stream)?.into_any())
            },
        )
    }
}

/// A router that follows an endpoint's workers, with what calls them.
type Following = (
    Arc<Home>,
    Arc<WorkerRouter>,
    Arc<TypedClient<EngineRequest, EngineOutput>>,
);

fn follow(
    endpoint: &Bound<'_, Endpoint>,
    block_size: u32,
    arguments: Option<Vec<String>>,
) -> PyResult<Following> {
    let Some(block_size) = NonZeroU32::new(block_size) else {
        return Err(PyValueError::new_err("block_size needs to be 1 or more"));
    };
    let words = arguments.unwrap_or_default().into_iter().map(Into::into);
    let options = dynamo_run::embedded::router_options(words.collect()).map_err(trouble)?;
    let mut options: RouterOptions = options.get::<RouterOptions>().clone();
    if options.router_mode == RouterMode::Auto {
        options.router_mode = RouterMode::Kv;
    }
    let endpoint = endpoint.get();
    let home = Arc::clone(endpoint.home());
    let id = endpoint.id().clone();
    let _guard = crate::home::threads()?.enter();
    let workers: InstanceFilter = Arc::new(|_| true);
    let client: TypedClient<EngineRequest, EngineOutput> =
        home.runtime.endpoint(id.clone()).typed_client();
    let router = WorkerRouter::start(RouterSetup {
        runtime: home.runtime.clone(),
        news: news_endpoint(&id).map_err(trouble)?,
        bookings: bookings_endpoint(&id, "python", "").map_err(trouble)?,
        workers,
        instances: client.untyped().watch_instances(),
        block_size,
        options,
    });
    Ok((home, Arc::new(router), Arc::new(client)))
}

/// What an endpoint's workers have cached, as they tell it.
#[pyclass(frozen, module = "dynamo._core")]
struct KvIndexer {
    router: Arc<WorkerRouter>,
    /// Follows the instances for the router.
    _client: Arc<TypedClient<EngineRequest, EngineOutput>>,
}

#[pymethods]
impl KvIndexer {
    /// `block_size` is the workers' tokens per KV block.
    #[new]
    fn new(endpoint: &Bound<'_, Endpoint>, block_size: u32) -> PyResult<Self> {
        let (_, router, client) = follow(endpoint, block_size, None)?;
        Ok(Self {
            router,
            _client: client,
        })
    }

    /// Tokens per KV block.
    #[getter]
    fn block_size(&self) -> u32 {
        self.router.block_size().get()
    }

    /// How many workers are there, and how many of them tell what they have cached.
    fn workers(&self) -> (usize, usize) {
        self.router.workers()
    }

    /// Who has how much of a prompt, by the hashes of its blocks' own tokens.
    fn find_matches(&self, block_hashes: Vec<u64>) -> OverlapScores {
        let mut matches = Matches::default();
        self.router.index().find_blocks(&block_hashes, &mut matches);
        let keys: BTreeMap<u32, WorkerKey> = self.router.with_router(|router| {
            let workers = router.fleet().workers().iter();
            workers.map(|worker| (worker.slot.0, worker.key)).collect()
        });
        scores(&matches, |slot| keys.get(&slot.0).copied())
    }

    /// The same by its tokens.
    #[pyo3(signature = (token_ids, lora_name=None))]
    fn find_matches_for_request(
        &self,
        token_ids: Vec<u32>,
        lora_name: Option<&str>,
    ) -> OverlapScores {
        let size = usize::try_from(self.router.block_size().get()).unwrap_or(usize::MAX);
        let context = HashContext::of(lora_name, None);
        self.find_matches(block_hashes(&token_ids, size, &context))
    }
}

/// What this module has for Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(compute_block_hash_for_seq, module)?)?;
    module.add_function(wrap_pyfunction!(compute_sequence_hashes, module)?)?;
    module.add_class::<OverlapScores>()?;
    module.add_class::<RadixTree>()?;
    module.add_class::<KvIndexer>()?;
    module.add_class::<KvRouter>()
}
