//! A router whose owner tells it who is there and what their caches hold, where neither discovery
//! nor the event plane knows: servers that are not ours.
//!
//! The invariants are those of [`super`]; the one task that changes workers and index is whoever
//! holds the [`RouterFeed`], of which there is one.

use super::{Shared, WorkerRouter, pump};
use crate::placement::Placement;
use crate::question::{Prompt, Question};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::config::RouterOptions;
use dynamo_kv_router::explain::Explanation;
use dynamo_kv_router::index::TierEvent;
use dynamo_protocols::RequestError;
use dynamo_protocols::routing::RouteSlip;
use dynamo_runtime::{Environment, Tasks};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// What such a router is made of.
#[derive(Debug)]
pub struct FedSetup {
    /// Clock and randomness.
    pub environment: Environment,
    /// Where its task belongs.
    pub tasks: Tasks,
    /// Tokens per KV block.
    pub block_size: NonZeroU32,
    /// How it chooses.
    pub options: RouterOptions,
}

/// Tells a router of its workers. It changes the router at once; nothing is queued.
pub struct RouterFeed {
    shared: Arc<Shared>,
}

impl fmt::Debug for RouterFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouterFeed").field(&self.shared).finish()
    }
}

impl WorkerRouter {
    /// A router without workers, and what tells it of them.
    pub fn fed(setup: FedSetup) -> (Self, RouterFeed) {
        let options = RouterOptions {
            // Replicas meet on the event plane, of which such a router knows nothing.
            router_replica_sync: false,
            ..setup.options
        };
        let shared = Shared::new(setup.environment, setup.block_size, &options);
        let tasks = setup.tasks.child();
        tasks.spawn_until_cancelled("router queue", pump(Arc::clone(&shared)));
        let feed = RouterFeed {
            shared: Arc::clone(&shared),
        };
        let router = Self {
            shared,
            _tasks: tasks.cancellation().clone().drop_guard(),
        };
        (router, feed)
    }

    /// Finds a worker for a prompt; waits for one if all are saturated. Dropping the future gives
    /// the place in the queue up.
    pub async fn place(
        &self,
        prompt: &Prompt<'_>,
        slip: Option<Arc<RouteSlip>>,
    ) -> Result<Placement, RequestError> {
        let shared = &self.shared;
        let question = Question::of_prompt(prompt, slip, shared.block_size);
        let placed = shared.place(&question, &[]).await?;
        Ok(Placement::new(Arc::clone(shared), question, placed))
    }
}

impl WorkerRouter {
    /// Explains where a prompt would go, and changes nothing.
    pub fn explain_prompt(&self, prompt: &Prompt<'_>, slip: Option<Arc<RouteSlip>>) -> Explanation {
        let question = Question::of_prompt(prompt, slip, self.shared.block_size);
        let seed = self.shared.environment.random.next_u64();
        self.shared.explain(&question, &[], seed)
    }
}

impl RouterFeed {
    /// Takes over who is there, by id, in ascending order.
    pub fn set_members(&mut self, present: &[u64]) {
        self.shared.set_present(present);
    }

    /// Something happened to a worker's cache. Without events: nothing did, and from now on it
    /// tells.
    pub fn apply(&mut self, worker: WorkerKey, events: &[TierEvent]) {
        self.shared.told.events.fetch_add(1, Ordering::Relaxed);
        let slot = self.shared.tell_kv(worker);
        if let Some(slot) = slot {
            for event in events {
                self.shared.index.apply(slot, event.tier, &event.event);
            }
        }
        self.shared.wake(&self.shared.core.lock());
    }

    /// All that is known of the caches of an instance is void.
    pub fn reset(&mut self, instance: u64) {
        let slots: Vec<_> = {
            let core = self.shared.core.lock();
            core.members.slots_of(instance).collect()
        };
        for slot in slots {
            self.shared.index.clear(slot);
            self.shared.core.lock().router.cache_cleared(slot);
        }
    }

    /// Events of an instance were lost, or could not be read.
    pub fn lost(&mut self) {
        self.shared.told.losses.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn tell_kv(&self, worker: WorkerKey) -> Option<dynamo_kv_router::Slot> {
        let mut core = self.core.lock();
        let (router, members) = core.parts();
        let slot = members.hear(router, worker);
        members.tells_kv(router, worker);
        slot
    }
}

#[cfg(test)]
mod tests;
