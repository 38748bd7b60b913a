//! The shell: what discovery and the event plane say, into the fleet.
//!
//! Invariants
//! - News are followed of each component that has a worker, by one task for each, and of no other.
//! - What cannot be read costs only itself, and is counted.

use crate::figures::Figures;
use crate::fleet::{Bounds, Fleet, Heard};
use crate::scope::Scope;
use bytes::Bytes;
use dynamo_protocols::worker_event::WorkerEvent;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::{EndpointId, View};
use dynamo_runtime::event_plane::{News, Subscription};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// The fleet of a process. Cheap to clone; clones are the same fleet.
#[derive(Debug, Clone)]
pub struct SharedFleet {
    fleet: Arc<Mutex<Fleet>>,
    started: Instant,
}

// === impl SharedFleet ===

impl SharedFleet {
    /// One that knows nobody yet.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            fleet: Arc::new(Mutex::new(Fleet::new(bounds))),
            started: Instant::now(),
        }
    }

    /// What is shown now.
    pub fn figures(&self) -> Figures {
        self.fleet.lock().figures(self.now())
    }

    /// Follows discovery, and the news of whom it names, until dropped. `seen` is called once it
    /// is known who is there.
    pub async fn follow(self, runtime: DistributedRuntime, scope: Scope, seen: impl Fn()) {
        let mut watch = runtime.discovery().watch();
        let mut view = View::default();
        let mut followed: BTreeMap<EndpointId, DropGuard> = BTreeMap::new();
        while watch.update(&mut view).await {
            let wanted = {
                let (present, stale) = (scope.present(&view), view.stale_since().is_some());
                let mut fleet = self.fleet.lock();
                fleet.set_present(&present, stale, self.now());
                fleet.followed()
            };
            followed.retain(|news, _| wanted.contains(news));
            for news in wanted {
                followed
                    .entry(news)
                    .or_insert_with_key(|news| self.start_listening(&runtime, news));
            }
            seen();
        }
    }

    /// Listens to a component's news until the guard is dropped.
    fn start_listening(&self, runtime: &DistributedRuntime, news: &EndpointId) -> DropGuard {
        let subscription = runtime
            .event_plane()
            .subscribe(news.clone(), Arc::new(|_| true));
        let over = CancellationToken::new();
        let listening = self.clone().listen(news.clone(), subscription);
        let listening = over.clone().run_until_cancelled_owned(listening);
        runtime
            .tasks()
            .spawn_until_cancelled("worker news", async move {
                listening.await;
            });
        over.drop_guard()
    }

    async fn listen(self, name: EndpointId, mut subscription: Subscription) {
        while let Some(heard) = subscription.next().await {
            let publisher = heard.publisher.get();
            let (heard, unreadable) = read(heard.news);
            let mut fleet = self.fleet.lock();
            fleet.could_not_read(unreadable);
            fleet.hear(&name, publisher, &heard, self.now());
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

/// What is heard, and how many pieces of it could not be read.
fn read(news: News) -> (Heard, u64) {
    let mut unreadable = 0;
    let mut events = |pieces: Vec<Bytes>| -> Vec<WorkerEvent> {
        let read = pieces.iter().filter_map(|piece| {
            let event = rmp_serde::from_slice::<WorkerEvent>(piece);
            if let Err(error) = &event {
                unreadable += 1;
                tracing::debug!(%error, "a worker's news cannot be read");
            }
            event.ok()
        });
        read.collect()
    };
    let heard = match news {
        News::Snapshot(pieces) => Heard::Snapshot(events(pieces)),
        News::Events(pieces) => Heard::Events(events(pieces)),
        News::Lost => Heard::Lost,
        News::Gone => Heard::Gone,
    };
    (heard, unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::load::LoadReport;
    use dynamo_protocols::worker_event::WorkerNews;

    #[test]
    fn what_cannot_be_read_costs_only_itself_and_is_counted() {
        let event = WorkerEvent {
            dp_rank: 1,
            sent_at_ms: 0,
            news: WorkerNews::Load(LoadReport::default()),
        };
        let piece = rmp_serde::to_vec_named(&event).unwrap();
        let pieces = vec![Bytes::from_static(b"no news"), piece.into()];
        let (heard, unreadable) = read(News::Events(pieces));
        assert_eq!((heard, unreadable), (Heard::Events(vec![event]), 1));
        assert_eq!(read(News::Lost), (Heard::Lost, 0));
    }

    #[test]
    fn a_worker_of_another_version_is_understood() {
        // A load report of before prompts were counted.
        let old = serde_json::json!({
            "dp_rank": 0, "sent_at_ms": 5,
            "news": {"load": {
                "scheduled": work(), "queued": work(), "used_blocks": 3, "cached_blocks": 1,
                "total_blocks": 9, "block_size": 16, "max_sequences": 4, "max_batched_tokens": 64,
                "of_the_future": true,
            }},
        });
        let piece = rmp_serde::to_vec_named(&old).unwrap();
        let (heard, unreadable) = read(News::Events(vec![piece.into()]));
        assert_eq!(unreadable, 0);
        let Heard::Events(events) = heard else {
            panic!("events are events")
        };
        let WorkerNews::Load(load) = &events[0].news else {
            panic!("a load is a load")
        };
        assert_eq!((load.total_blocks, load.prompt_tokens), (9, 0));
    }

    fn work() -> serde_json::Value {
        serde_json::json!({
            "num_prefill_requests": 0, "sum_prefill_tokens": 0, "var_prefill_length": 0.0,
            "sum_prefill_kv_tokens": 0, "num_decode_requests": 1, "sum_decode_kv_tokens": 2,
            "var_decode_kv_tokens": 0.0,
        })
    }
}
