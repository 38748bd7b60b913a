//! A worker tells what happens to its engine: KV events as they come, load as it changes.
//!
//! Invariants
//! - The channel's state is what the events add up to, so that whoever comes late knows as much as
//!   who was there from the beginning.
//! - An engine that reports KV events says so before the first one: a snapshot has an empty batch
//!   at least. Routers tell "holds nothing" from "says nothing" by it.
//! - Load is told when it has changed, and no more often than the interval.

use bytes::Bytes;
use dynamo_config::options;
use dynamo_kv_router::index::{Index, TierEvent};
use dynamo_kv_router::{Slot, Tier};
use dynamo_protocols::engine::{Engine, KvEventStream};
use dynamo_protocols::kv::{KvEvent, KvEventBatch};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::worker_event::{WorkerEvent, WorkerNews};
use dynamo_runtime::component::{DistributedRuntime, ServeError};
use dynamo_runtime::discovery::{EndpointId, NameError};
use dynamo_runtime::environment::WallClock;
use dynamo_runtime::event_plane::{Channel, ChannelState, Publication};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::DropGuard;

/// Name of the endpoint whose streams are a component's news.
pub const NEWS_ENDPOINT: &str = "events";

options! {
    /// What a worker tells of itself.
    pub struct NewsOptions("worker_news") {
        /// How often a worker tells its load, if it has changed.
        load_report_interval: Duration = Duration::from_millis(250), env = "DYN_LOAD_REPORT_INTERVAL", min = Duration::from_millis(10), max = Duration::from_secs(60);
    }
}

/// The one worker in a worker's own index.
const OWN: Slot = Slot(0);

/// What a worker has told so far.
#[derive(Debug)]
struct Told {
    clock: Arc<dyn WallClock>,
    ranks: Vec<ToldOfRank>,
}

#[derive(Debug, Default)]
struct ToldOfRank {
    /// `None` if the engine reports no KV events.
    held: Option<Index>,
    next_event: u64,
    load: LoadReport,
}

/// The news of one engine, published. Dropping it ends them.
#[derive(Debug)]
pub struct NewsPublisher {
    publication: Publication,
    tasks: DropGuard,
}

/// The endpoint of the news that go with a generating endpoint.
pub fn news_endpoint(generate: &EndpointId) -> Result<EndpointId, NameError> {
    EndpointId::new(generate.namespace(), generate.component(), NEWS_ENDPOINT)
}

// === impl NewsPublisher ===

impl NewsPublisher {
    /// Publishes what happens to the engine from now on.
    pub async fn start(
        runtime: &DistributedRuntime,
        name: EndpointId,
        engine: Arc<dyn Engine>,
        options: &NewsOptions,
    ) -> Result<Self, ServeError> {
        let environment = runtime.environment();
        let ranks = 0..engine.ranks();
        let streams: Vec<Option<KvEventStream>> = ranks
            .clone()
            .map(|rank| engine.rank_kv_events(rank))
            .collect();
        let told = Told {
            clock: Arc::clone(&environment.clock),
            ranks: streams
                .iter()
                .map(|events| ToldOfRank {
                    held: events.is_some().then(Index::default),
                    ..ToldOfRank::default()
                })
                .collect(),
        };
        let channel = Arc::new(Channel::new(environment.random.next_u64(), told));
        let tasks = runtime.tasks().child();
        for (rank, events) in ranks.zip(streams) {
            if let Some(events) = events {
                let tell = tell_kv(Arc::clone(&channel), rank, events);
                tasks.spawn_until_cancelled("kv events", tell);
            }
        }
        let tell = tell_load(Arc::clone(&channel), engine, options.load_report_interval);
        tasks.spawn_until_cancelled("load reports", tell);
        let plane = runtime.event_plane();
        let publication = plane.publish(name, channel).await?;
        Ok(Self {
            publication,
            tasks: tasks.cancellation().clone().drop_guard(),
        })
    }

    /// Ends the news: followers hear that they are over.
    pub async fn close(self) {
        drop(self.tasks);
        self.publication.close().await;
    }
}

async fn tell_kv(channel: Arc<Channel<Told>>, rank: u32, mut events: KvEventStream) {
    while let Some(batch) = events.next().await {
        channel.publish(|told| told.kv(rank, batch));
    }
}

async fn tell_load(channel: Arc<Channel<Told>>, engine: Arc<dyn Engine>, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for rank in 0..engine.ranks() {
            channel.publish(|told| told.load(rank, engine.rank_load(rank)));
        }
    }
}

// === impl Told ===

impl Told {
    fn kv(&mut self, rank: u32, batch: KvEventBatch) -> Option<Bytes> {
        let told = self.ranks.get_mut(rank as usize)?;
        let held = told.held.as_mut()?;
        for event in &batch.events {
            held.apply(OWN, Tier::Device, event);
        }
        told.next_event = batch.first_event_id + batch.events.len() as u64;
        self.event(rank, WorkerNews::Kv(batch))
    }

    /// Nothing, if it is as it was.
    fn load(&mut self, rank: u32, load: LoadReport) -> Option<Bytes> {
        let told = self.ranks.get_mut(rank as usize)?;
        if told.load == load {
            return None;
        }
        told.load = load.clone();
        self.event(rank, WorkerNews::Load(load))
    }

    fn event(&self, dp_rank: u32, news: WorkerNews) -> Option<Bytes> {
        let sent_at_ms = u64::try_from(self.clock.unix_time().as_millis()).unwrap_or(u64::MAX);
        let event = WorkerEvent {
            dp_rank,
            sent_at_ms,
            news,
        };
        match rmp_serde::to_vec_named(&event) {
            Ok(bytes) => Some(bytes.into()),
            Err(error) => {
                tracing::error!(%error, "a worker's news could not be written");
                None
            }
        }
    }
}

impl ChannelState for Told {
    fn snapshot(&self) -> Vec<Bytes> {
        let mut pieces = Vec::new();
        for (rank, told) in (0..).zip(&self.ranks) {
            if let Some(held) = &told.held {
                // Even when nothing is held: that is what it says.
                pieces.extend(self.event(rank, told.past(Vec::new())));
                for TierEvent { event, .. } in held.snapshot(OWN) {
                    pieces.extend(self.event(rank, told.past(vec![event])));
                }
            }
            pieces.extend(self.event(rank, WorkerNews::Load(told.load.clone())));
        }
        pieces
    }
}

impl ToldOfRank {
    /// Events that stand for the past: what comes after them is the next event.
    fn past(&self, events: Vec<KvEvent>) -> WorkerNews {
        WorkerNews::Kv(KvEventBatch {
            first_event_id: self.next_event.saturating_sub(events.len() as u64),
            events,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::kv::Block;
    use dynamo_runtime::Environment;
    use dynamo_runtime::event_plane::ReadChannel;
    use dynamo_runtime::event_plane::channel::Read;

    fn told(with_kv: bool) -> Channel<Told> {
        let rank = ToldOfRank {
            held: with_kv.then(Index::default),
            ..ToldOfRank::default()
        };
        let told = Told {
            clock: Environment::system().clock,
            ranks: vec![rank],
        };
        Channel::new(1, told)
    }

    fn snapshot(channel: &Channel<Told>) -> Vec<WorkerNews> {
        let Read::Snapshot(pieces, _) = channel.read(None, usize::MAX) else {
            panic!("who is new gets a snapshot")
        };
        let event = |piece: &Bytes| rmp_serde::from_slice::<WorkerEvent>(piece).unwrap();
        pieces.iter().map(|piece| event(piece).news).collect()
    }

    fn stored(first_event_id: u64, hash: u64) -> KvEventBatch {
        let block = Block {
            block_hash: hash,
            sequence_hash: hash,
        };
        let events = vec![KvEvent::Stored {
            parent: None,
            blocks: vec![block],
        }];
        KvEventBatch {
            first_event_id,
            events,
        }
    }

    #[test]
    fn the_declaration_is_sound() {
        let schema = dynamo_config::Schema::new().with::<NewsOptions>();
        assert!(schema.check().is_empty(), "{:?}", schema.check());
    }

    #[test]
    fn who_comes_late_hears_what_is_held_and_the_last_load() {
        let channel = told(true);
        channel.publish(|told| told.kv(0, stored(7, 42)));
        let load = LoadReport {
            total_blocks: 9,
            ..LoadReport::default()
        };
        channel.publish(|told| told.load(0, load.clone()));
        let empty = KvEventBatch {
            first_event_id: 8,
            events: Vec::new(),
        };
        let heard = [
            WorkerNews::Kv(empty),
            WorkerNews::Kv(stored(7, 42)),
            WorkerNews::Load(load),
        ];
        assert_eq!(snapshot(&channel), heard);
    }

    #[test]
    fn an_engine_without_kv_events_says_none() {
        let heard = snapshot(&told(false));
        assert_eq!(heard, [WorkerNews::Load(LoadReport::default())]);
    }

    #[test]
    fn a_load_is_told_once() {
        let channel = told(true);
        let load = LoadReport {
            total_blocks: 9,
            ..LoadReport::default()
        };
        let before = channel.watch().events();
        channel.publish(|told| told.load(0, load.clone()));
        channel.publish(|told| told.load(0, load.clone()));
        assert_eq!(channel.watch().events(), before + 1);
    }
}
