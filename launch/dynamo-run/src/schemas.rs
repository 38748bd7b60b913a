//! Which options each command has: groups that libraries declare, put together by name.

use crate::doctor::DoctorOptions;
use dynamo_backends::BackendOptions;
use dynamo_bench::{BenchIndexOptions, BenchServeOptions};
use dynamo_config::{Options, Schema};
use dynamo_deploy::config::{
    DeployOptions, KubernetesTargetOptions, LocalTargetOptions, LogsOptions, RunFolderOptions,
    SlurmTargetOptions,
};
use dynamo_frontend::FrontendOptions;
use dynamo_frontend::batch::BatchOptions;
use dynamo_frontend::console::ConsoleOptions;
use dynamo_kv_router::config::RouterOptions;
use dynamo_llm::config::{
    ArtefactOptions, DeliveryOptions, EchoEngineOptions, ModelOptions, PreprocessOptions,
    WorkerPlaceOptions,
};
use dynamo_llm::hub::HubOptions;
use dynamo_llm::worker::CanaryOptions;
use dynamo_metrics::MetricsOptions;
use dynamo_mocker::{MockFleetOptions, MockerOptions};
use dynamo_nats::NatsOptions;
use dynamo_replay::config::ReplayOptions;
use dynamo_router_service::RouterServiceOptions;
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::tls::{HttpTlsOptions, TcpTlsOptions};
use dynamo_sim::config::SimulateOptions;

/// Commands whose options have a reference page, with the page's title.
pub(crate) const REFERENCE: &[(&str, &str)] = &[
    ("run", "dynamo run, dynamo serve"),
    ("frontend", "dynamo frontend"),
    ("llama_cpp", "dynamo llama_cpp"),
    ("mocker", "dynamo mocker"),
    ("router", "dynamo router"),
    ("metrics-component", "dynamo metrics"),
    ("bench-serve", "dynamo bench serve"),
    ("bench-router", "dynamo bench router"),
    ("bench-index", "dynamo bench index"),
    ("planner", "dynamo planner"),
    ("worker", "Workers written in Python"),
    ("simulate", "dynamo simulate"),
    ("doctor", "dynamo doctor"),
    ("deploy", "dynamo deploy"),
    ("deploy-logs", "dynamo deploy logs"),
    ("deploy-runs", "dynamo deploy status, dynamo deploy stop"),
    ("model", "dynamo model"),
];

/// The options of a command.
pub(crate) fn schema(command: &str) -> Schema {
    let schema = match command {
        "frontend" => Schema::new()
            .with::<FrontendOptions>()
            .with::<HttpTlsOptions>()
            .with::<PreprocessOptions>()
            .with::<DeliveryOptions>()
            .with::<RouterOptions>()
            .with::<BackendOptions>()
            .with::<HubOptions>()
            .with::<ModelOptions>()
            .with::<ArtefactOptions>()
            .with::<RuntimeOptions>(),
        "llama_cpp" => with_engines(
            Schema::new()
                .with::<ModelOptions>()
                .with::<ArtefactOptions>()
                .with::<WorkerPlaceOptions>(),
        )
        .with::<CanaryOptions>()
        .with::<NewsOptions>()
        .with::<HubOptions>()
        .with::<RuntimeOptions>(),
        "mocker" => Schema::new()
            .with::<ModelOptions>()
            .with::<ArtefactOptions>()
            .with::<MockFleetOptions>()
            .with::<MockerOptions>()
            .with::<NewsOptions>()
            .with::<HubOptions>()
            .with::<RuntimeOptions>(),
        "bench-index" => of_one::<BenchIndexOptions>(),
        "bench-router" => Schema::new()
            .with::<ReplayOptions>()
            .with::<MockerOptions>()
            .with::<RouterOptions>()
            .with::<RuntimeOptions>(),
        "bench-serve" => of_one::<BenchServeOptions>(),
        "router" => Schema::new()
            .with::<RouterServiceOptions>()
            .with::<HttpTlsOptions>()
            .with::<RouterOptions>()
            .with::<ModelOptions>()
            .with::<ArtefactOptions>()
            .with::<NewsOptions>()
            .with::<RuntimeOptions>(),
        "simulate" => of_one::<SimulateOptions>(),
        // Workers that are not commands: see `embedded`.
        "worker" => Schema::new()
            .with::<ArtefactOptions>()
            .with::<NewsOptions>()
            .with::<CanaryOptions>()
            .with::<HubOptions>()
            .with::<RuntimeOptions>(),
        "metrics-component" => of_one::<MetricsOptions>(),
        // Beside an engine in Python: the other options are the engine's, by their names.
        "run-python" => asking(),
        "planner" => Schema::new().with::<RuntimeOptions>(),
        "deploy" | "deploy-logs" | "deploy-runs" => deploy_schema(command),
        "doctor" => of_one::<DoctorOptions>(),
        "model" => Schema::new().with::<HubOptions>().with::<RuntimeOptions>(),
        _ => with_engines(
            asking()
                .with::<BackendOptions>()
                .with::<EchoEngineOptions>(),
        ),
    };
    // Who can be told where the others are, can be told how to speak with them.
    let schema = schema.with::<TcpTlsOptions>().with::<NatsOptions>();
    schema.with_foreign_env(FOREIGN_ENV.iter().copied())
}

/// Commands that components of a graph are made of.
const COMPONENTS: &[&str] = &[
    "run",
    "llama_cpp",
    "frontend",
    "mocker",
    "router",
    "metrics-component",
];

/// What `run` takes besides the options of engines.
fn asking() -> Schema {
    Schema::new()
        .with::<ModelOptions>()
        .with::<ArtefactOptions>()
        .with::<FrontendOptions>()
        .with::<HttpTlsOptions>()
        .with::<PreprocessOptions>()
        .with::<DeliveryOptions>()
        .with::<RouterOptions>()
        .with::<ConsoleOptions>()
        .with::<BatchOptions>()
        .with::<CanaryOptions>()
        .with::<NewsOptions>()
        .with::<HubOptions>()
        .with::<RuntimeOptions>()
}

/// The options of one group, with those of every process.
fn of_one<T: Options>() -> Schema {
    Schema::new().with::<T>().with::<RuntimeOptions>()
}

/// The options of `dynamo deploy` and what is below it. What a graph's processes are told by the
/// environment passes through, and is no typing error.
fn deploy_schema(command: &str) -> Schema {
    let own = match command {
        "deploy" => Schema::new()
            .with::<DeployOptions>()
            .with::<KubernetesTargetOptions>()
            .with::<SlurmTargetOptions>()
            .with::<LocalTargetOptions>(),
        "deploy-logs" => Schema::new().with::<LogsOptions>(),
        _ => Schema::new(),
    };
    let own = own.with::<RunFolderOptions>().with::<RuntimeOptions>();
    COMPONENTS.iter().fold(own, |known, command| {
        let theirs = schema(command);
        let names: Vec<String> = theirs.env_names().into_iter().map(str::to_owned).collect();
        known.with_foreign_env(names)
    })
}

/// Variables that start with `DYN_` and belong to something else than a command's options.
const FOREIGN_ENV: &[&str] = &[
    "DYN_CONFIG",
    // Of `dynamo deploy` and `dynamo serve MODULE:GRAPH`, whose processes inherit them.
    "DYN_DEPLOY_DIR",
    "DYN_SERVE_DRAIN_TIMEOUT",
    "DYN_SERVE_RESTART",
    "DYN_SERVE_PYTHON",
];

#[cfg(feature = "llamacpp")]
fn with_engines(schema: Schema) -> Schema {
    schema.with::<dynamo_llamacpp::LlamacppOptions>()
}

#[cfg(not(feature = "llamacpp"))]
fn with_engines(schema: Schema) -> Schema {
    schema
}
