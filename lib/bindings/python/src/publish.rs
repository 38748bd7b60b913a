//! What a Python worker tells of its engine's KV cache and load.
//!
//! Engines name blocks in their own way, with the tokens of what they store: here the names become
//! the hashes that routers know. A publisher belongs to an endpoint, and has to be made before the
//! endpoint is served: a worker says with its first word whether it tells of its cache.
//!
//! Invariant: what routers believe is what was told, or less: events that nobody could take ([`MAX_WAITING`])
//! are followed by one that says that nothing is cached, and blocks stored before it are unknown.

#![expect(
    clippy::needless_pass_by_value,
    reason = "what Python passes is made for the call"
)]

use crate::runtime::Endpoint;
use dynamo_engine_events::{
    EngineEvent, EngineEventMetrics, EventBatch, SourceItem, StoredBlocks, Subscriber,
    SubscriberOptions, ZmqEndpoint,
};
use dynamo_kv_router::Tier;
use dynamo_kv_router::external::{ExternalBlocks, ExternalStored};
use dynamo_kv_router::index::TierEvent;
use dynamo_protocols::engine::KvEventStream;
use dynamo_protocols::kv::KvEventBatch;
use futures_core::Stream;
use parking_lot::Mutex;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Batches that wait to be told: a burst of steps, while the publisher's task does not run.
const MAX_WAITING: usize = 4_096;

/// What publishers of one endpoint have told: caches by rank, load by rank.
#[derive(Default)]
pub(crate) struct Told {
    caches: Mutex<BTreeMap<u32, Arc<Cache>>>,
    loads: Mutex<BTreeMap<u32, Load>>,
}

/// The load of a rank, as it was published last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    /// KV blocks in use, if that was said.
    pub(crate) used_blocks: Option<u64>,
}

impl Told {
    /// How many ranks have a publisher; 1 if none has.
    pub(crate) fn ranks(&self) -> u32 {
        let last = self.caches.lock().keys().next_back().copied();
        last.map_or(1, |rank| rank + 1)
    }

    /// What happens to a rank's cache, if it has a publisher. For one listener.
    pub(crate) fn events(&self, rank: u32) -> Option<KvEventStream> {
        let cache = self.caches.lock().get(&rank).cloned()?;
        Some(Box::pin(Events(cache)))
    }

    /// What was said last of a rank's load.
    pub(crate) fn load(&self, rank: u32) -> Load {
        self.loads.lock().get(&rank).copied().unwrap_or_default()
    }
}

/// A rank's cache.
struct Cache(Mutex<State>);

struct State {
    blocks: ExternalBlocks,
    next_event: u64,
    waiting: VecDeque<KvEventBatch>,
    reader: Option<Waker>,
}

struct Events(Arc<Cache>);

impl Cache {
    fn new(block_size: NonZeroU32) -> Self {
        Self(Mutex::new(State {
            blocks: ExternalBlocks::new(block_size),
            next_event: 0,
            waiting: VecDeque::new(),
            reader: None,
        }))
    }

    fn stored(&self, told: &StoredBlocks) -> Result<(), String> {
        let mut state = self.0.lock();
        let stored = ExternalStored {
            block_hashes: &told.block_hashes,
            parent: told.parent,
            token_ids: &told.token_ids,
            block_size: told.block_size,
            lora_name: told.lora_name.as_deref(),
            salt: told.salt.as_deref(),
            media: &told.media,
            medium: told.medium.as_deref(),
            eagle: told.eagle,
        };
        let events = state.blocks.stored(&stored);
        state.tell(events.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn removed(&self, ids: &[u64], medium: Option<&str>) -> Result<(), String> {
        let mut state = self.0.lock();
        let events = state.blocks.removed(ids, medium);
        state.tell(events.map_err(|error| error.to_string())?);
        Ok(())
    }

    fn cleared(&self) {
        let mut state = self.0.lock();
        let event = state.blocks.cleared();
        state.tell(vec![event]);
    }

    /// What a server's own publisher tells.
    fn hear(&self, item: SourceItem) {
        match item {
            SourceItem::Batch(EventBatch { events, .. }) => {
                for event in events {
                    let told = match event {
                        EngineEvent::Stored(stored) => self.stored(&stored),
                        EngineEvent::Removed(gone) => {
                            self.removed(&gone.block_hashes, gone.medium.as_deref())
                        }
                        EngineEvent::Cleared => {
                            self.cleared();
                            Ok(())
                        }
                    };
                    if let Err(error) = told {
                        tracing::debug!(error, "a kv event of the engine was left out");
                    }
                }
            }
            // What it stored meanwhile is not known, what it removed is still believed: better nothing.
            SourceItem::Lost { .. } | SourceItem::Reset => self.cleared(),
        }
    }
}

impl State {
    fn tell(&mut self, events: Vec<TierEvent>) {
        // Workers tell of what can be used at once.
        let near = events.into_iter().filter(|it| it.tier == Tier::Device);
        let events: Vec<_> = near.map(|it| it.event).collect();
        if events.is_empty() {
            return;
        }
        let events = match self.waiting.len() < MAX_WAITING {
            true => events,
            false => {
                tracing::warn!("kv events could not be told in time: what is cached is forgotten");
                self.waiting.clear();
                vec![self.blocks.cleared().event]
            }
        };
        let first_event_id = self.next_event;
        self.next_event += events.len() as u64;
        self.waiting.push_back(KvEventBatch {
            first_event_id,
            events,
        });
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Stream for Events {
    type Item = KvEventBatch;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<KvEventBatch>> {
        let mut state = self.0.0.lock();
        match state.waiting.pop_front() {
            Some(batch) => Poll::Ready(Some(batch)),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

/// Tells routers what an engine's KV cache holds: by calls, or by listening to what the engine
/// itself publishes over ZMQ. To be made before the endpoint is served.
#[pyclass(frozen, module = "dynamo._core")]
struct KvEventPublisher {
    cache: Arc<Cache>,
    block_size: NonZeroU32,
    /// Ends listening.
    listening: Mutex<Option<DropGuard>>,
}

#[pymethods]
impl KvEventPublisher {
    /// `kv_block_size` is in tokens. With `zmq_endpoint` (`tcp://HOST:PORT`) it listens to the engine
    /// and needs no calls; `ipc:///PATH` is a socket on this machine. With `zmq_replay_endpoint` (vLLM's
    /// `replay_endpoint`) what was missed is asked for again. `worker_id` and `enable_local_indexer` are accepted and of no effect: an
    /// endpoint knows its worker, and a worker keeps an index of its own.
    #[new]
    #[pyo3(signature = (
        endpoint, worker_id=None, kv_block_size=0, dp_rank=0, enable_local_indexer=false,
        zmq_endpoint=None, zmq_topic=None, zmq_replay_endpoint=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "the published signature")]
    fn new(
        endpoint: &Bound<'_, Endpoint>,
        worker_id: Option<u64>,
        kv_block_size: u32,
        dp_rank: u32,
        enable_local_indexer: bool,
        zmq_endpoint: Option<&str>,
        zmq_topic: Option<String>,
        zmq_replay_endpoint: Option<&str>,
    ) -> PyResult<Self> {
        let _ = (worker_id, enable_local_indexer);
        let endpoint = endpoint.get();
        let Some(block_size) = NonZeroU32::new(kv_block_size) else {
            return Err(PyValueError::new_err(
                "kv_block_size needs to be the engine's tokens per block",
            ));
        };
        if endpoint.serving().instance().is_some() {
            return Err(PyRuntimeError::new_err(
                "make the KvEventPublisher before the endpoint is served: a worker says with its \
                 first word whether it tells of its cache",
            ));
        }
        let source = source(zmq_endpoint, zmq_topic, zmq_replay_endpoint)?;
        let cache = Arc::new(Cache::new(block_size));
        let mut caches = endpoint.serving().told().caches.lock();
        if caches.insert(dp_rank, Arc::clone(&cache)).is_some() {
            let message = format!("rank {dp_rank} of this endpoint has a publisher already");
            return Err(PyRuntimeError::new_err(message));
        }
        drop(caches);
        let listening = match source {
            Some(source) => Some(listen(endpoint, &cache, source)?),
            None => None,
        };
        Ok(Self {
            cache,
            block_size,
            listening: Mutex::new(listening),
        })
    }

    /// Blocks can be reused from now on, each one following the one before it. `block_hashes` are
    /// the engine's own names for them, in the order of the sequence; `token_ids` all their tokens;
    /// `parent_hash` names the block before the first one.
    #[pyo3(signature = (
        token_ids, num_block_tokens, block_hashes, parent_hash=None, block_mm_infos=None,
        lora_name=None, is_eagle=None, cache_salt=None
    ))]
    #[expect(clippy::too_many_arguments, reason = "the published signature")]
    fn publish_stored(
        &self,
        token_ids: Vec<u32>,
        num_block_tokens: Vec<u64>,
        block_hashes: Vec<Bound<'_, PyAny>>,
        parent_hash: Option<Bound<'_, PyAny>>,
        block_mm_infos: Option<Bound<'_, PyAny>>,
        lora_name: Option<String>,
        is_eagle: Option<bool>,
        cache_salt: Option<String>,
    ) -> PyResult<()> {
        if block_mm_infos.is_some() {
            // Hashes of media would be missing in them: such blocks would match wrong prompts.
            return Ok(());
        }
        let size = u64::from(self.block_size.get());
        let full = num_block_tokens.iter().take_while(|count| **count == size);
        let full = full.count().min(block_hashes.len());
        let mut token_ids = token_ids;
        let eagle = is_eagle.unwrap_or(false);
        token_ids.truncate(full * self.block_size.get() as usize + usize::from(eagle));
        let told = StoredBlocks {
            block_hashes: names(&block_hashes[..full])?,
            parent: parent_hash.as_ref().map(name).transpose()?,
            token_ids,
            block_size: self.block_size.get(),
            lora_name,
            salt: cache_salt,
            media: Vec::new(),
            medium: None,
            eagle,
        };
        self.cache.stored(&told).map_err(PyValueError::new_err)
    }

    /// Blocks are gone.
    fn publish_removed(&self, block_hashes: Vec<Bound<'_, PyAny>>) -> PyResult<()> {
        let ids = names(&block_hashes)?;
        self.cache
            .removed(&ids, None)
            .map_err(PyValueError::new_err)
    }

    /// Nothing is cached any more.
    fn publish_cleared(&self) {
        self.cache.cleared();
    }

    /// Events of a step, in order: dictionaries whose `type` is `stored`, `removed` or `cleared`, with
    /// the arguments of the method of that name.
    fn publish_batch(slf: &Bound<'_, Self>, events: Vec<Bound<'_, PyDict>>) -> PyResult<()> {
        for event in events {
            let arguments = event.copy()?;
            let kind: String = match arguments.get_item("type")? {
                Some(kind) => kind.extract()?,
                None => return Err(PyValueError::new_err("an event of a batch needs a type")),
            };
            arguments.del_item("type")?;
            match kind.as_str() {
                "stored" => slf.call_method("publish_stored", (), Some(&arguments))?,
                "removed" => slf.call_method("publish_removed", (), Some(&arguments))?,
                "cleared" => slf.call_method0("publish_cleared")?,
                other => {
                    let message =
                        format!("event type {other:?} is none of stored, removed, cleared");
                    return Err(PyValueError::new_err(message));
                }
            };
        }
        Ok(())
    }

    /// Listens no more.
    fn shutdown(&self) {
        self.listening.lock().take();
    }
}

/// What to listen to, if anything.
fn source(
    endpoint: Option<&str>,
    topic: Option<String>,
    replay: Option<&str>,
) -> PyResult<Option<SubscriberOptions>> {
    let parse = |address: &str, name: &str| {
        // An engine of this machine: where it listens on every address it is also on loopback.
        let address = address.replace("://*:", "://127.0.0.1:");
        let parsed = address.parse::<ZmqEndpoint>();
        parsed.map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
    };
    match (endpoint, replay) {
        (Some(endpoint), replay) => Ok(Some(SubscriberOptions {
            endpoint: parse(endpoint, "zmq_endpoint")?,
            replay: replay
                .map(|replay| parse(replay, "zmq_replay_endpoint"))
                .transpose()?,
            topic: topic.unwrap_or_default(),
        })),
        (None, Some(_)) => Err(PyValueError::new_err(
            "zmq_replay_endpoint goes with zmq_endpoint: it is asked for what was missed there",
        )),
        (None, None) => Ok(None),
    }
}

fn listen(
    endpoint: &Endpoint,
    cache: &Arc<Cache>,
    options: SubscriberOptions,
) -> PyResult<DropGuard> {
    let home = endpoint.home();
    let tasks = home.tasks.child();
    let _guard = crate::home::threads()?.enter();
    let environment = home.runtime.environment();
    let metrics = EngineEventMetrics::new();
    let mut items = Subscriber::start(options, environment, &tasks, &metrics);
    let hearing = Arc::clone(cache);
    tasks.spawn_until_cancelled("engine kv events", async move {
        while let Some(item) = items.recv().await {
            hearing.hear(item);
        }
    });
    let token: CancellationToken = tasks.cancellation().clone();
    Ok(token.drop_guard())
}

/// Engines name blocks by numbers, with or without a sign, or by the bytes of a digest.
fn name(value: &Bound<'_, PyAny>) -> PyResult<u64> {
    if let Ok(number) = value.extract::<u64>() {
        return Ok(number);
    }
    if let Ok(number) = value.extract::<i64>() {
        return Ok(u64::from_ne_bytes(number.to_ne_bytes()));
    }
    let bytes: Vec<u8> = value.extract().map_err(|_| {
        PyValueError::new_err("block hashes need to be integers of 64 bits, or bytes")
    })?;
    // As the engines themselves shorten them: the last eight bytes.
    let tail = &bytes[bytes.len().saturating_sub(8)..];
    Ok(tail
        .iter()
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte)))
}

fn names(values: &[Bound<'_, PyAny>]) -> PyResult<Vec<u64>> {
    values.iter().map(name).collect()
}

/// Tells routers and metrics how busy an engine is.
#[pyclass(frozen, module = "dynamo._core")]
#[derive(Default)]
struct WorkerMetricsPublisher {
    told: Mutex<Option<Arc<crate::serving::Serving>>>,
}

#[pymethods]
impl WorkerMetricsPublisher {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Says whose load is published. A future of the event loop.
    fn create_endpoint<'py>(
        &self,
        py: Python<'py>,
        endpoint: &Bound<'py, Endpoint>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let endpoint = endpoint.get();
        *self.told.lock() = Some(Arc::clone(endpoint.serving()));
        endpoint
            .home()
            .promise_nothing(py, "metrics", async { Ok(()) })
    }

    /// KV blocks that running requests use now.
    #[pyo3(signature = (dp_rank=None, active_decode_blocks=None, kv_used_blocks=None))]
    fn publish(
        &self,
        dp_rank: Option<u32>,
        active_decode_blocks: Option<u64>,
        kv_used_blocks: Option<u64>,
    ) -> PyResult<()> {
        let told = self.told.lock();
        let Some(serving) = &*told else {
            return Err(PyRuntimeError::new_err(
                "await create_endpoint(endpoint) before publishing",
            ));
        };
        let load = Load {
            used_blocks: kv_used_blocks.or(active_decode_blocks),
        };
        let rank = dp_rank.unwrap_or(0);
        serving.told().loads.lock().insert(rank, load);
        Ok(())
    }
}

/// What this module has for Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<KvEventPublisher>()?;
    module.add_class::<WorkerMetricsPublisher>()
}
