//! Servers that get requests as they are: from options to what the frontend passes requests on to.

use crate::engine;
use crate::process::Process;
use dynamo_backends::{BackendAddress, BackendMetrics, BackendOptions, Backends};
use dynamo_backends::{BackendsSetup, Tokenising};
use dynamo_engine_events::EngineEventMetrics;
use dynamo_frontend::FrontendOptions;
use dynamo_kv_router::config::RouterOptions;
use dynamo_llm::config::ModelOptions;
use dynamo_llm::hub::Wanted;
use dynamo_llm::registry::ModelRegistry;

/// Starts to poll the servers and to listen to their events. Their models come into `registry`.
pub(crate) async fn start(
    process: &Process,
    registry: &ModelRegistry,
    servers: Vec<BackendAddress>,
    model: Option<&str>,
) -> anyhow::Result<Backends> {
    let options: &ModelOptions = process.options.get();
    let tokenising = match model.or(options.model_path.as_deref()) {
        Some(model) => Some(tokenising(process, model).await?),
        None => None,
    };
    let metrics = BackendMetrics::new()?;
    process.metrics.register(metrics.clone())?;
    let event_metrics = EngineEventMetrics::new();
    process.metrics.register(event_metrics.clone())?;
    let frontend: &FrontendOptions = process.options.get();
    let setup = BackendsSetup {
        addresses: servers,
        options: process.options.get::<BackendOptions>().clone(),
        router: process.options.get::<RouterOptions>().clone(),
        tokenising,
        keys_checked: !frontend.api_key.is_empty() || frontend.api_key_file.is_some(),
        models: registry.clone(),
        environment: process.environment.clone(),
        tasks: process.tasks.clone(),
        metrics,
        event_metrics,
    };
    Ok(Backends::start(setup).await?)
}

/// How prompts become the servers' tokens.
async fn tokenising(process: &Process, model: &str) -> anyhow::Result<Tokenising> {
    let model = engine::open(process, model, Wanted::WithoutWeights).await?;
    let (model, assets) = engine::load_assets(process, model).await?;
    let options: &ModelOptions = process.options.get();
    Ok(Tokenising {
        card: model.card().clone(),
        tokenizer: assets.tokenizer,
        template: assets.template,
        only: options.model_name.clone(),
    })
}
