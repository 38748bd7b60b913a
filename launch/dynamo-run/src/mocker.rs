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
use dynamo_llm::role::{Role, WorkerType};
use dynamo_llm::worker::{CanaryOptions, Offer, Worker, WorkerTelemetry};
use dynamo_mocker::{DisaggregationMode, MockEngine, MockFleetOptions, MockModel, MockerOptions};
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

/// The component of prefill workers.
const PREFILL_COMPONENT: &str = "prefill";

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
    let worker_type = worker_type(fleet.disaggregation_mode);
    let endpoint = endpoint(fleet, worker_type, &runtime.namespace)?;
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
            role: Role {
                worker_type,
                bootstrap: None,
            },
            ..Offer::default()
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

fn worker_type(mode: DisaggregationMode) -> WorkerType {
    match mode {
        DisaggregationMode::Agg => WorkerType::Aggregated,
        DisaggregationMode::Prefill => WorkerType::Prefill,
        DisaggregationMode::Decode => WorkerType::Decode,
    }
}

/// Where the workers serve.
fn endpoint(
    fleet: &MockFleetOptions,
    worker_type: WorkerType,
    namespace: &str,
) -> anyhow::Result<EndpointId> {
    let nothing = fleet.endpoint.strip_prefix("dyn://") == Some("");
    let name = match worker_type {
        WorkerType::Prefill if nothing => PREFILL_COMPONENT,
        _ => &fleet.endpoint,
    };
    EndpointId::parse_with_defaults(name, namespace).context("--endpoint names no endpoint")
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
    let engine = MockEngine::start(options, model, &process.tasks).await?;
    let worker_type = offer.role.worker_type;
    let engine = Arc::new(match worker_type {
        WorkerType::Prefill => engine.handing_over(),
        WorkerType::Aggregated | WorkerType::Decode => engine,
    });
    let offer = Offer {
        card: serde_json::to_value(describe(card, worker_type, &engine))?,
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
fn describe(mut card: ModelCard, worker_type: WorkerType, engine: &MockEngine) -> ModelCard {
    let load = engine.load();
    card.context_length = u32::try_from(engine.context_length()).unwrap_or(u32::MAX);
    card.kv_block_size = load.block_size;
    card.worker_type = worker_type;
    if worker_type == WorkerType::Decode {
        card.needs = vec![vec![WorkerType::Prefill]];
    }
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
