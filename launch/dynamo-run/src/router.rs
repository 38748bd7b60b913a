//! `dynamo router`: the router as a component of its own, for frontends as an endpoint and for
//! others over HTTP.

use crate::engine;
use crate::output::print_line;
use crate::process::Process;
use anyhow::{Context, bail};
use dynamo_config::Source;
use dynamo_kv_router::config::RouterOptions;
use dynamo_llm::announced_models::Scope;
use dynamo_llm::config::ModelOptions;
use dynamo_llm::routed_models::{RoutedModelOptions, RoutedModelWatch, RoutedModels};
use dynamo_llm::worker::{CanaryOptions, WorkerTelemetry};
use dynamo_router_service::endpoint::RouterEndpoint;
use dynamo_router_service::{RouterService, RouterServiceOptions};
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::shutdown::ExitStatus;
use dynamo_runtime::status::EndpointStatus;
use dynamo_runtime::telemetry::OwnLabels;
use dynamo_runtime::tls::HttpTlsOptions;
use tokio::sync::oneshot;

/// Routes until asked to end.
pub(crate) async fn router(process: Process) -> anyhow::Result<ExitStatus> {
    let options: &RouterServiceOptions = process.options.get();
    let runtime_options: &RuntimeOptions = process.options.get();
    let parse = |text: &str, option: &str| {
        EndpointId::parse_with_defaults(text, &runtime_options.namespace)
            .with_context(|| format!("{option} names no endpoint"))
    };
    let workers = options.endpoint.as_deref();
    let workers = workers.map(|text| parse(text, "--endpoint")).transpose()?;
    let own = parse(&options.serve_endpoint, "--serve-endpoint")?;
    let serves = workers.is_some() && !options.route_only;
    if serves && workers.as_ref() == Some(&own) {
        bail!("--serve-endpoint is the workers' own endpoint; choose another");
    }
    process.serve_status().await?;
    let models = RoutedModels::new();
    let service = RouterService {
        options: options.clone(),
        tls: process
            .options
            .get::<HttpTlsOptions>()
            .server(&["http/1.1"])?,
        models: models.clone(),
        environment: process.environment.clone(),
        registry: process.metrics.clone(),
        draining: process.shutdown.draining().clone(),
    };
    // Before anybody is told of this process: the port may be taken.
    let bound = service.bind().await?;
    let runtime = process.join().await?;
    let followed = RoutedModelOptions {
        scope: scope(&process, workers),
        router: process.options.get::<RouterOptions>().clone(),
        cache: serves.then(|| engine::artefact_cache(&process)),
    };
    let watch = RoutedModelWatch::new(&runtime, models.clone(), followed);
    let tasks = &process.tasks;
    tasks.spawn_until_cancelled("model watch", watch.run());
    let (sender, ended) = oneshot::channel::<()>();
    if serves {
        let endpoint = RouterEndpoint {
            runtime: runtime.clone(),
            models,
            model: process.options.get::<ModelOptions>().model_name.clone(),
            endpoint: own,
            telemetry: WorkerTelemetry {
                metrics: process.metrics.clone(),
                sampler: process.sampler,
                news: process.options.get::<NewsOptions>().clone(),
                canary: CanaryOptions::default(),
                labels: OwnLabels::default(),
            },
        };
        let serving = endpoint.serve(process.shutdown.draining().clone());
        tasks.spawn_until_cancelled("router endpoint", async move {
            serving.await;
            drop(sender);
        });
    } else {
        drop(sender);
    }
    let limit = runtime_options.drain_timeout;
    let address = bound.local_addr();
    bound.serve(tasks);
    process.health.set_endpoint("http", EndpointStatus::Ready);
    tracing::info!(%address, "router answers");
    print_line(&format!("http://{address}"));
    process
        .serve(async move {
            runtime.refuse_new().await;
            // An end without a word is one, too.
            let finish = async { drop(ended.await) };
            runtime.finish_or_hand_over(finish, limit).await;
        })
        .await
}

/// Whose workers are routed to: one endpoint's, one namespace's if it is asked for, or everybody's.
fn scope(process: &Process, workers: Option<EndpointId>) -> Scope {
    match (workers, process.options.source("namespace")) {
        (Some(workers), _) => Scope::Endpoint(workers),
        (None, None | Some(Source::Default)) => Scope::All,
        (None, Some(_)) => {
            Scope::Namespace(process.options.get::<RuntimeOptions>().namespace.clone())
        }
    }
}
