//! The router of one model's workers: index, bookings and queue, kept up to date by discovery and
//! by what workers tell, and asked by every request.
//!
//! Invariants
//! - One task alone takes workers in and out and writes to the index, so that no slot is used by
//!   two workers.
//! - The core's lock is held for a decision and never across an await; the index is read outside
//!   of it, except for a request that leaves the queue.
//! - A request that was placed is ended exactly once, whoever drops it.
//!
//! What it does not do: send anything. [`RoutedCall`] says where a call goes, and
//! [`Accounted`](crate::account::Accounted) tells the router how far the answer is.

mod fed;
mod hearing;
mod waiting;

pub use fed::{FedSetup, RouterFeed};
pub use hearing::NewsCounts;

use crate::call::RoutedCall;
use crate::members::Members;
use crate::question::Question;
use crate::replicas::{self, ReplicaCounts, Replicas};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::explain::Explanation;
use dynamo_kv_router::index::{Matches, SharedIndex};
use dynamo_kv_router::queue::{Place, QueueRefusal};
use dynamo_kv_router::router::{Changes, Placed, Refusal, Router, Submitted, Ticket};
use dynamo_protocols::engine::{EngineRequest, RequestContext};
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::Environment;
use dynamo_runtime::component::{DistributedRuntime, Instance, InstanceFilter};
use dynamo_runtime::discovery::EndpointId;
use hearing::{Told, follow};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::DropGuard;
use waiting::{Waiting, pump};

/// What a router is made of.
pub struct RouterSetup {
    /// The process it is in.
    pub runtime: DistributedRuntime,
    /// Channel of the workers' news.
    pub news: EndpointId,
    /// Channel of the bookings of this router and its replicas.
    pub bookings: EndpointId,
    /// Which processes are workers of the model.
    pub workers: InstanceFilter,
    /// The instances that take its requests.
    pub instances: watch::Receiver<Option<Arc<[Instance]>>>,
    /// Tokens per KV block.
    pub block_size: NonZeroU32,
    /// How it chooses.
    pub options: RouterOptions,
}

/// The router of one model's workers. Dropping it ends its tasks.
#[derive(Debug)]
pub struct WorkerRouter {
    shared: Arc<Shared>,
    _tasks: DropGuard,
}

/// What tasks and requests share.
pub(crate) struct Shared {
    environment: Environment,
    /// Tells the bookings of replicas apart.
    origin: u64,
    started: Instant,
    block_size: NonZeroU32,
    min_workers: usize,
    index: SharedIndex,
    core: Mutex<Core>,
    /// Told when waiting requests may have a chance.
    pump: Notify,
    told: Told,
    pub(crate) replicas: Replicas,
}

struct Core {
    router: Router,
    members: Members,
    /// Who waits for which place in the queue.
    waiters: HashMap<Place, oneshot::Sender<Result<Placed, Refusal>>>,
}

impl Core {
    fn parts(&mut self) -> (&mut Router, &mut Members) {
        (&mut self.router, &mut self.members)
    }
}

impl fmt::Debug for RouterSetup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouterSetup")
            .field("news", &self.news)
            .field("block_size", &self.block_size)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("block_size", &self.block_size)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

// === impl WorkerRouter ===

impl WorkerRouter {
    /// A router that follows its workers from now on.
    pub fn start(setup: RouterSetup) -> Self {
        let environment = setup.runtime.environment().clone();
        let shared = Shared::new(environment, setup.block_size, &setup.options);
        let tasks = setup.runtime.tasks().child();
        if setup.options.router_replica_sync {
            let (name, runtime) = (setup.bookings, setup.runtime.clone());
            let news = replicas::subscribe(&runtime, name.clone());
            tasks.spawn_until_cancelled(
                "router replicas",
                replicas::hear(news, Arc::clone(&shared)),
            );
            let tell = replicas::tell(runtime, name, Arc::clone(&shared));
            tasks.spawn_until_cancelled("router bookings", tell);
        }
        let plane = setup.runtime.event_plane();
        let news = plane.subscribe(setup.news, setup.workers);
        let follow = follow(Arc::clone(&shared), setup.instances, news);
        tasks.spawn_until_cancelled("router", follow);
        tasks.spawn_until_cancelled("router queue", pump(Arc::clone(&shared)));
        Self {
            shared,
            _tasks: tasks.cancellation().clone().drop_guard(),
        }
    }

    /// Finds a worker for a request; waits for one if all are saturated. Dropping the future gives
    /// the place in the queue up.
    pub async fn route(
        &self,
        request: &EngineRequest,
        context: &RequestContext,
    ) -> Result<RoutedCall, RequestError> {
        let shared = &self.shared;
        let only = context.only.as_deref();
        let question = Question::new(request, context.route.clone(), only, shared.block_size);
        let avoid = context.avoid.as_deref().unwrap_or(&[]);
        let placed = shared.place(&question, avoid).await?;
        Ok(RoutedCall::new(Arc::clone(shared), question, placed))
    }

    /// Explains where a request would go, and changes nothing.
    pub fn explain(&self, request: &EngineRequest, context: &RequestContext) -> Explanation {
        let only = context.only.as_deref();
        let block_size = self.shared.block_size;
        let question = Question::new(request, context.route.clone(), only, block_size);
        let seed = self.shared.environment.random.next_u64();
        self.shared.explain(&question, &[], seed)
    }

    /// What became of the workers' news.
    pub fn news(&self) -> NewsCounts {
        self.shared.told.counts()
    }

    /// What was exchanged with the router's replicas.
    pub fn replicas(&self) -> ReplicaCounts {
        self.shared.replicas.counts()
    }

    /// Looks at the router's state. Requests wait for it.
    pub fn with_router<T>(&self, look: impl FnOnce(&Router) -> T) -> T {
        look(&self.shared.core.lock().router)
    }

    /// The index.
    pub fn index(&self) -> &SharedIndex {
        &self.shared.index
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> NonZeroU32 {
        self.shared.block_size
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// How many workers are there, and how many of them tell what their caches hold.
    pub fn workers(&self) -> (usize, usize) {
        let core = self.shared.core.lock();
        (core.members.present(), core.members.telling())
    }

    /// Data-parallel ranks of an instance, as far as it is known.
    pub fn ranks(&self, instance: u64) -> usize {
        self.shared.core.lock().members.slots_of(instance).count()
    }

    /// What each rank of each worker said last of its load.
    pub fn loads(&self) -> Vec<(WorkerKey, dynamo_protocols::load::LoadReport)> {
        let core = self.shared.core.lock();
        let loads = core.members.loads();
        loads.map(|(worker, load)| (worker, load.clone())).collect()
    }
}

// === impl Shared ===

impl Shared {
    fn new(environment: Environment, block_size: NonZeroU32, options: &RouterOptions) -> Arc<Self> {
        // Tells the bookings of replicas apart; zero is nobody's.
        let origin = environment.random.next_u64().max(1);
        Arc::new(Self {
            origin,
            started: Instant::now(),
            block_size,
            min_workers: options.router_min_initial_workers as usize,
            index: SharedIndex::default(),
            core: Mutex::new(Core {
                router: Router::new(options, block_size, origin),
                members: Members::default(),
                waiters: HashMap::new(),
            }),
            pump: Notify::new(),
            told: Told::default(),
            replicas: Replicas::default(),
            environment,
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn block_size(&self) -> NonZeroU32 {
        self.block_size
    }

    /// Whether an instance has more than one data-parallel rank, as far as it is known.
    pub(crate) fn has_ranks(&self, instance: u64) -> bool {
        let core = self.core.lock();
        core.members.slots_of(instance).nth(1).is_some()
    }

    /// Finds a worker, none of `avoid` if there are others; waits for one if all are saturated.
    /// Dropping the future gives the place in the queue up.
    async fn place(
        self: &Arc<Self>,
        question: &Question,
        avoid: &[u64],
    ) -> Result<Placed, RequestError> {
        if self.min_workers > 0 {
            self.enough_workers()?;
        }
        let began = Instant::now();
        let seed = self.environment.random.next_u64();
        let explanation = self.explanation(question, avoid, seed);
        let submitted = match self.submit(question, avoid, seed) {
            Err(_) if !avoid.is_empty() => self.submit(question, &[], seed),
            submitted => submitted,
        };
        let placed = match submitted? {
            Ok(placed) => placed,
            Err(waiting) => waiting.wait().await?,
        };
        question.write_slip(&placed, began.elapsed(), explanation);
        Ok(placed)
    }

    /// Finds a worker, or a place in the queue.
    fn submit(
        self: &Arc<Self>,
        question: &Question,
        excluded: &[u64],
        seed: u64,
    ) -> Result<Result<Placed, Waiting>, RequestError> {
        let mut matches = Matches::new();
        self.index.find(&question.hashes, &mut matches);
        let now = self.now();
        let mut core = self.core.lock();
        let core = &mut *core;
        let request = question.as_request(excluded);
        let submitted = core
            .router
            .submit(&request, matches.overlaps(), now, &mut bits(seed))
            .map_err(RequestError::from)?;
        self.tell(&core.router);
        match submitted {
            Submitted::Placed(placed) => Ok(Ok(placed)),
            Submitted::Waits { place, displaced } => {
                if let Some(waiter) = displaced.and_then(|place| core.waiters.remove(&place)) {
                    // Nobody listens if its client has just left.
                    waiter.send(Err(QueueRefusal::Displaced.into())).ok();
                }
                let (waiter, answer) = oneshot::channel();
                core.waiters.insert(place, waiter);
                // The queue's task looks for the new time at which somebody has waited too long.
                self.pump.notify_one();
                Ok(Err(Waiting {
                    shared: Arc::clone(self),
                    place,
                    answer,
                }))
            }
        }
    }

    /// Finds another worker for a call that was placed before.
    pub(crate) fn resubmit(
        self: &Arc<Self>,
        question: &Question,
        except: &[u64],
    ) -> Option<Placed> {
        let seed = self.environment.random.next_u64();
        let explanation = self.explanation(question, except, seed);
        // It has waited already: a place in the queue is given up at once.
        let placed = self.submit(question, except, seed).ok()?.ok()?;
        question.write_slip(&placed, Duration::ZERO, explanation);
        Some(placed)
    }

    /// The explanation of a choice that is about to be made, if the client asked for it.
    fn explanation(
        &self,
        question: &Question,
        excluded: &[u64],
        seed: u64,
    ) -> Option<serde_json::Value> {
        if !question.wants_explanation() {
            return None;
        }
        serde_json::to_value(self.explain(question, excluded, seed)).ok()
    }

    fn explain(&self, question: &Question, excluded: &[u64], seed: u64) -> Explanation {
        let mut matches = Matches::new();
        self.index.find(&question.hashes, &mut matches);
        let request = question.as_request(excluded);
        let now = self.now();
        let mut core = self.core.lock();
        core.router
            .explain(&request, matches.overlaps(), now, &mut bits(seed))
    }

    pub(crate) fn first_token(&self, ticket: &Ticket) {
        let now = self.now();
        let mut core = self.core.lock();
        core.router.first_token(ticket, now);
        self.wake(&core);
    }

    pub(crate) fn block_filled(&self, ticket: &Ticket, generated: u32) {
        let now = self.now();
        let mut core = self.core.lock();
        core.router.block_filled(ticket, None, generated, now);
        self.tell(&core.router);
    }

    pub(crate) fn end(&self, ticket: &Ticket, outcome: Outcome) {
        let mut core = self.core.lock();
        core.router.end(ticket, outcome);
        self.wake(&core);
    }

    /// Has the queue looked at, if anybody waits, and the replicas told, if there is anything.
    fn wake(&self, core: &Core) {
        if core.router.waiting() > 0 {
            self.pump.notify_one();
        }
        self.tell(&core.router);
    }

    /// Has the replicas told, if there is anything to tell.
    fn tell(&self, router: &Router) {
        if router.has_changes() {
            self.replicas.notify();
        }
    }

    /// Has the queue looked at, if anybody waits.
    pub(crate) fn look_at_queue(&self) {
        self.wake(&self.core.lock());
    }

    pub(crate) fn with_router_mut<T>(&self, change: impl FnOnce(&mut Router) -> T) -> T {
        change(&mut self.core.lock().router)
    }

    /// The name of this router among its replicas.
    pub(crate) fn origin(&self) -> u64 {
        self.origin
    }

    /// The bookings made here.
    pub(crate) fn snapshot_of_bookings(&self) -> Changes {
        let now = self.now();
        self.core.lock().router.snapshot(now)
    }

    fn enough_workers(&self) -> Result<(), RequestError> {
        let present = self.core.lock().members.present();
        if present >= self.min_workers {
            return Ok(());
        }
        Err(RequestError::new(
            ErrorCode::ModelNotReady,
            format!(
                "{present} of the {} workers that --router-min-initial-workers asks for are \
                 there; try again shortly",
                self.min_workers
            ),
        ))
    }
}

/// The outcome of a request whose client went away before it began.
pub(crate) const CANCELLED: Outcome = Outcome {
    cached_tokens: None,
    output_tokens: 0,
    end: End::Cancelled,
};

/// Random bits from a seed, so that one choice can be made twice.
fn bits(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        // SplitMix64.
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}
