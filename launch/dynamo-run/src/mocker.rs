//! `dynamo mocker`: simulated workers, any number of them in one process.
//!
//! Each worker has a discovery record, an address and an engine of its own, so that frontends and
//! routers cannot tell the fleet from as many processes. The tokenizer is announced and never
//! loaded: a worker sees token ids alone.

use crate::engine;
use crate::output::print_line;
use crate::process::Process;
use anyhow::Context;
use dynamo_llm::card::{ModelCard, ModelError};
use dynamo_llm::config::ModelOptions;
use dynamo_llm::echo::EchoOptions;
use dynamo_llm::echo_model::echo_model;
use dynamo_llm::worker::{CanaryOptions, Offer, Worker, WorkerTelemetry};
use dynamo_mocker::{MockEngine, MockFleetOptions, MockModel, MockerOptions};
use dynamo_protocols::engine::Engine;
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::shutdown::ExitStatus;
use dynamo_runtime::telemetry::OwnLabels;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;

/// Name of the model that is served without a model.
const MOCK_NAME: &str = "mock";

/// A worker with what must be drained after it.
struct Simulated {
    runtime: DistributedRuntime,
    worker: Worker,
    engine: Arc<MockEngine>,
}

/// Serves simulated workers until asked to end.
pub(crate) async fn mocker(process: Process) -> anyhow::Result<ExitStatus> {
    let fleet: &MockFleetOptions = process.options.get();
    let runtime: &RuntimeOptions = process.options.get();
    let endpoint = EndpointId::parse_with_defaults(&fleet.endpoint, &runtime.namespace)
        .context("--endpoint names no endpoint")?;
    let drain_timeout = runtime.drain_timeout;
    process.serve_status().await?;
    let (card, artefacts) = model(&process).await?;
    let mut workers = Vec::new();
    for number in 0..fleet.num_workers {
        if number > 0 && !fleet.stagger_delay.is_zero() {
            tokio::time::sleep(fleet.stagger_delay).await;
        }
        let offer = Offer {
            name: card.name.clone(),
            card: serde_json::Value::Null,
            artefacts: artefacts.clone(),
            embeds: false,
        };
        workers.push(start(&process, &endpoint, card.clone(), offer).await?);
    }
    tracing::info!(model = card.name, %endpoint, workers = workers.len(), "simulated workers serve");
    print_line(&endpoint.to_string());
    process
        .serve(async move {
            let drains = workers.into_iter().map(|it| it.drain(drain_timeout));
            join_all(drains).await;
        })
        .await
}

type Artefacts = Vec<(dynamo_runtime::discovery::ArtefactRef, std::path::PathBuf)>;

/// The model that the workers pretend to run, and its files.
async fn model(process: &Process) -> anyhow::Result<(ModelCard, Artefacts)> {
    let options: &ModelOptions = process.options.get();
    let Some(path) = &options.model_path else {
        let name = options.model_name.as_deref().unwrap_or(MOCK_NAME);
        return Ok((echo_model(name, EchoOptions::default())?.card, Vec::new()));
    };
    let model = engine::open(process, path, dynamo_llm::hub::Wanted::WithoutWeights).await?;
    let cache = engine::artefact_cache(process);
    let read = process.environment.compute(move || {
        let artefacts = model.artefacts(&cache)?;
        Ok::<_, ModelError>((model.card().clone(), artefacts))
    });
    Ok(read.await??)
}

async fn start(
    process: &Process,
    endpoint: &EndpointId,
    card: ModelCard,
    offer: Offer,
) -> anyhow::Result<Simulated> {
    let options: &MockerOptions = process.options.get();
    let model = MockModel {
        vocab_size: Some(card.vocab_size),
        context_length: Some(card.context_length),
    };
    let engine = Arc::new(MockEngine::start(options, model, &process.tasks).await?);
    let offer = Offer {
        card: serde_json::to_value(describe(card, &engine))?,
        ..offer
    };
    let runtime = process.join().await?;
    let telemetry = WorkerTelemetry {
        metrics: process.metrics.clone(),
        sampler: process.sampler,
        news: process.options.get::<NewsOptions>().clone(),
        canary: CanaryOptions::default(),
        labels: OwnLabels::default(),
    };
    let serving = Arc::clone(&engine) as Arc<dyn Engine>;
    let worker = Worker::start(&runtime, endpoint, serving, offer, &telemetry).await?;
    Ok(Simulated {
        runtime,
        worker,
        engine,
    })
}

/// The card with what the simulated engine can hold.
fn describe(mut card: ModelCard, engine: &MockEngine) -> ModelCard {
    let load = engine.load();
    card.context_length = u32::try_from(engine.context_length()).unwrap_or(u32::MAX);
    card.kv_block_size = load.block_size;
    card.runtime.total_kv_blocks = Some(load.total_blocks);
    card.runtime.max_num_seqs = Some(load.max_sequences);
    card.runtime.max_num_batched_tokens = Some(load.max_batched_tokens);
    card.sealed()
}

impl Simulated {
    /// Within `limit`.
    async fn drain(self, limit: Duration) {
        self.runtime.refuse_new().await;
        let finish = async {
            self.worker.drain().await;
            self.engine.drain().await;
        };
        self.runtime.finish_or_hand_over(finish, limit).await;
    }
}
