//! A worker's software: the real worker around the real simulated engine.

use super::bent::Bent;
use super::fault::Host;
use super::owned::{Owned, Running};
use super::plan::{DRAIN_LIMIT, TOKENS};
use super::process::{Failed, STOP_LIMIT, join};
use super::world::{Orders, WorkerLife, World};
use super::{Broken, MODEL, Violation};
use dynamo_llm::card::ModelCard;
use dynamo_llm::echo::EchoOptions;
use dynamo_llm::echo_model::echo_model;
use dynamo_llm::worker::{CanaryOptions, Offer, Worker, WorkerTelemetry};
use dynamo_mocker::{MockEngine, MockModel, MockerOptions};
use dynamo_protocols::engine::{Engine, KvEventStream};
use dynamo_protocols::kv::{KvEvent, SequenceHash};
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::Tasks;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::telemetry::{MetricsRegistry, OwnLabels, Sampler};
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long whoever watches over a worker waits before it starts it again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Most tokens of a sequence.
const CONTEXT: u32 = 2_048;

/// Serves, from the time that the plan says until it is asked to end.
pub(super) async fn run(number: usize, world: Arc<World>) -> Result<(), Failed> {
    let host = Host::Worker(number);
    let orders = world.orders(host);
    let begins = world.plan.workers[number];
    sleep(begins.saturating_sub(world.now())).await;
    loop {
        let tasks = orders.gate.tasks();
        let served = serve(number, &orders, &world, &tasks).await;
        world.workers[number].lock().life = None;
        if tasks.cancellation().is_cancelled() {
            world.violated(world.now(), Violation::Panicked { host });
        }
        if timeout(STOP_LIMIT, tasks.stop()).await.is_err() {
            world.violated(world.now(), Violation::NotStopped { host });
        }
        match served {
            Ok(()) => return Ok(()),
            // Discovery may be away; a supervisor tries again.
            Err(error) => world.tell(world.now(), host, format_args!("cannot serve: {error}")),
        }
        sleep(RESTART_PAUSE).await;
    }
}

async fn serve(
    number: usize,
    orders: &Orders,
    world: &Arc<World>,
    tasks: &Tasks,
) -> Result<(), Failed> {
    let host = Host::Worker(number);
    let runtime = join(host, orders, world, tasks).await?;
    let endpoint = EndpointId::new("simulated", "backend", "generate")?;
    let model = MockModel {
        vocab_size: Some(TOKENS.0 + TOKENS.1),
        context_length: Some(CONTEXT),
    };
    let engine = Arc::new(MockEngine::start(&options(number, world), model, tasks).await?);
    let cache = Arc::default();
    if let Some(events) = engine.kv_events() {
        tasks.spawn_until_cancelled("true cache", follow(events, Arc::clone(&cache)));
    }
    let offer = Offer {
        name: MODEL.to_owned(),
        card: serde_json::to_value(card(&engine)?)?,
        artefacts: Vec::new(),
        embeds: false,
        ..Offer::default()
    };
    let telemetry = WorkerTelemetry {
        metrics: MetricsRegistry::new(),
        sampler: Sampler::NEVER,
        news: NewsOptions::default(),
        canary: CanaryOptions::default(),
        labels: OwnLabels::default(),
    };
    let running = Running::default();
    let owned = Owned::around(Arc::clone(&engine) as Arc<dyn Engine>, &running);
    let serving = Bent::around(owned, world.broken, &orders.terminate);
    let worker = Worker::start(&runtime, &endpoint, serving, offer, &telemetry).await?;
    let instance = worker.instance().map_or(0, |it| it.get());
    world.tell(world.now(), host, format_args!("serves as {instance}"));
    world.workers[number].lock().life = Some(WorkerLife {
        instance,
        engine: Arc::clone(&engine),
        cache,
        running,
    });
    tokio::select! {
        biased;
        () = orders.stop.cancelled() => return Ok(()),
        () = tasks.cancellation().cancelled() => return Ok(()),
        () = orders.terminate.cancelled(), if world.broken != Broken::IgnoreDrain => {}
    }
    runtime.refuse_new().await;
    let finish = async {
        worker.drain().await;
        engine.drain().await;
    };
    let drain = runtime.finish_or_hand_over(finish, DRAIN_LIMIT);
    match timeout(DRAIN_LIMIT, drain).await {
        Ok(()) => world.tell(world.now(), host, format_args!("drained")),
        Err(_) => world.violated(world.now(), Violation::NotDrained { host }),
    }
    Ok(())
}

/// An engine that is slow enough for answers to meet faults, and small enough to run full.
fn options(number: usize, world: &World) -> MockerOptions {
    let (broken, capacity) = (world.broken, world.plan.capacity);
    let times = if broken == Broken::OverCommit { 4 } else { 1 };
    MockerOptions {
        num_gpu_blocks_override: times * capacity.blocks,
        block_size: 16,
        max_num_seqs: times * capacity.sequences,
        max_num_batched_tokens: 512,
        speedup_ratio: 0.1,
        mocker_seed: u64::from(broken == Broken::OtherDraws && number == 0),
        ..MockerOptions::default()
    }
}

fn card(engine: &MockEngine) -> Result<ModelCard, Failed> {
    let load = engine.load();
    let mut card = echo_model(MODEL, EchoOptions::default())?.card;
    card.context_length = CONTEXT;
    card.kv_block_size = load.block_size;
    card.runtime.total_kv_blocks = Some(load.total_blocks);
    card.runtime.max_num_seqs = Some(load.max_sequences);
    card.runtime.max_num_batched_tokens = Some(load.max_batched_tokens);
    Ok(card.sealed())
}

/// Keeps a set of blocks like an engine's cache.
async fn follow(mut events: KvEventStream, cache: Arc<Mutex<BTreeSet<SequenceHash>>>) {
    while let Some(batch) = events.next().await {
        let mut cache = cache.lock();
        for event in batch.events {
            match event {
                KvEvent::Stored { blocks, .. } => {
                    cache.extend(blocks.iter().map(|block| block.sequence_hash));
                }
                KvEvent::Removed { blocks } => blocks.iter().for_each(|block| {
                    cache.remove(block);
                }),
                KvEvent::Cleared => cache.clear(),
            }
        }
    }
}
