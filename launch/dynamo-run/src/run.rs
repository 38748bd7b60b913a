//! The combinations of inputs and outputs: what `run`, `serve` and `frontend` start.

use crate::backends;
use crate::cli::CommandKind;
use crate::console;
use crate::engine::{self, Local};
use crate::forms::{Forms, Input, Output, PythonEngine};
use crate::memory;
use crate::output::print_line;
use crate::process::Process;
use crate::python_engine;
use anyhow::{Context, bail};
use dynamo_backends::{BackendAddress, BackendOptions, Backends};
use dynamo_config::Source;
use dynamo_frontend::local::LocalClient;
use dynamo_frontend::{BoundFrontend, Frontend, FrontendMetrics, FrontendOptions, HTTP_PROTOCOLS};
use dynamo_kv_router::config::RouterOptions;
use dynamo_llm::announced_models::Scope;
use dynamo_llm::config::{DeliveryOptions, ModelOptions, PreprocessOptions};
use dynamo_llm::migration::{Migrating, MigrationMetrics, MigrationSetup};
use dynamo_llm::model::ServedModel;
use dynamo_llm::model_watch::{ModelWatch, ModelWatchOptions};
use dynamo_llm::preprocess::PreprocessLimits;
use dynamo_llm::prompt_tokens::PromptTokenCache;
use dynamo_llm::registry::ModelRegistry;
use dynamo_llm::worker::{CanaryOptions, Worker, WorkerTelemetry};
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::discovery::EndpointId;
use dynamo_runtime::shutdown::ExitStatus;
use dynamo_runtime::status::EndpointStatus;
use dynamo_runtime::telemetry::OwnLabels;
use dynamo_runtime::tls::HttpTlsOptions;
use std::future::{pending, ready};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// How long text, stdin and batch wait for a worker to announce a model.
const WAIT_FOR_MODEL: Duration = Duration::from_secs(10);

/// How long they wait for one that an engine beside them is loading: large models take minutes.
const WAIT_FOR_ENGINE: Duration = Duration::from_secs(3_600);

/// How often they look.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Whether the command speaks to a person, who wants to read answers and not log lines.
pub(crate) fn is_quiet(command: &CommandKind) -> bool {
    match command {
        CommandKind::Run(forms) => !matches!(
            forms.input,
            Some(Input::Http | Input::Endpoint(_) | Input::None)
        ),
        CommandKind::Frontend
        | CommandKind::LlamaCpp(..)
        | CommandKind::Mocker
        | CommandKind::Router
        | CommandKind::Metrics
        | CommandKind::Planner => false,
        CommandKind::ModelFetch(_)
        | CommandKind::ModelShow(_)
        | CommandKind::BenchServe
        | CommandKind::BenchRouter
        | CommandKind::BenchIndex
        | CommandKind::Simulate
        | CommandKind::Deploy(_)
        | CommandKind::DoctorRouting => true,
    }
}

/// `dynamo run` and `dynamo serve`
pub(crate) async fn run(process: Process, forms: Forms) -> anyhow::Result<ExitStatus> {
    let options: &ModelOptions = process.options.get();
    let has_model = forms.model.is_some() || options.model_path.is_some();
    let output = forms.output.clone().unwrap_or(if has_model {
        Output::Llamacpp
    } else {
        Output::Auto
    });
    let input = forms
        .input
        .clone()
        .unwrap_or(if process.surroundings.stdin_is_terminal {
            Input::Text
        } else {
            Input::Stdin
        });
    if matches!(output, Output::Auto | Output::Endpoint(_)) && forms.model.is_some() {
        bail!(
            "out=auto uses the models that workers announce: leave the model out, or choose an engine such as out=llamacpp"
        );
    }
    if let Output::Python(engine) = output {
        return Box::pin(beside(process, input, engine, &forms)).await;
    }
    let output = match servers(&process, output)? {
        Ok(servers) if input == Input::Http => {
            return Box::pin(behind(process, servers, forms.model.as_deref())).await;
        }
        Ok(_) => bail!("out=http://HOST:PORT goes with in=http"),
        Err(output) => output,
    };
    match input {
        Input::Endpoint(endpoint) => {
            Box::pin(worker(process, endpoint, &output, forms.model.as_deref())).await
        }
        Input::None => engine_alone(process, &output, forms.model.as_deref()).await,
        Input::Http => {
            let registry = registry(&process);
            let local = attach(&process, &registry, &output, forms.model.as_deref()).await?;
            http(process, registry, local, None, None).await
        }
        input @ (Input::Text | Input::Stdin | Input::Batch(_)) => {
            let registry = registry(&process);
            let local = attach(&process, &registry, &output, forms.model.as_deref()).await?;
            let name = match &local {
                Some(local) => Some(local.name.clone()),
                None => announced(&process, &registry, WAIT_FOR_MODEL).await?,
            };
            let client = local_client(&process, registry);
            Box::pin(console::run(process, client, name.as_deref(), input)).await
        }
    }
}

/// `dynamo llama_cpp`
pub(crate) async fn llama_cpp(
    process: Process,
    endpoint: EndpointId,
    model: Option<String>,
) -> anyhow::Result<ExitStatus> {
    worker(process, endpoint, &Output::Llamacpp, model.as_deref()).await
}

/// An engine in Python beside this process, and what asks it.
async fn beside(
    process: Process,
    input: Input,
    engine: PythonEngine,
    forms: &Forms,
) -> anyhow::Result<ExitStatus> {
    let options: &ModelOptions = process.options.get();
    let model = forms.model.as_deref().or(options.model_path.as_deref());
    let own = |namespace: &str| EndpointId::parse_with_defaults("dyn://", namespace);
    let endpoint = match &input {
        Input::Endpoint(endpoint) => endpoint.clone(),
        _ => own(&process.options.get::<RuntimeOptions>().namespace)?,
    };
    if input == Input::None {
        bail!(
            "in=none does not go with out={engine}: further nodes of its job are started by \
             python3 -m dynamo.{engine} with its own flags"
        );
    }
    let words = &forms.engine_words;
    let is_beside = !matches!(input, Input::Endpoint(_));
    let mut component = python_engine::start(&process, engine, model, &endpoint, words, is_beside)?;
    let registry = registry(&process);
    match input {
        Input::Endpoint(_) | Input::None => {
            let work = async { Err::<(), _>(component.ended().await) };
            let status = process.serve_while(work, ready(())).await;
            component.stop().await;
            status
        }
        Input::Http => {
            watch(&process, &registry, Scope::Endpoint(endpoint)).await?;
            http(process, registry, None, None, Some(component)).await
        }
        Input::Text | Input::Stdin | Input::Batch(_) => {
            watch(&process, &registry, Scope::Endpoint(endpoint)).await?;
            let name = tokio::select! {
                biased;
                ended = component.ended() => bail!(ended),
                name = announced(&process, &registry, WAIT_FOR_ENGINE) => name?,
            };
            let client = local_client(&process, registry);
            let status = Box::pin(console::run(process, client, name.as_deref(), input)).await;
            component.stop().await;
            status
        }
    }
}

/// The servers that an output form names, and those of `--backend`; the form back if there are
/// none.
fn servers(
    process: &Process,
    output: Output,
) -> anyhow::Result<Result<Vec<BackendAddress>, Output>> {
    let options: &BackendOptions = process.options.get();
    let named = options.backend.iter().map(|text| text.parse());
    let named: Vec<BackendAddress> = named.collect::<Result<_, _>>()?;
    Ok(match output {
        Output::Servers(mut servers) => {
            servers.extend(named);
            Ok(servers)
        }
        Output::Auto if !named.is_empty() => Ok(named),
        output => Err(output),
    })
}

/// The HTTP server in front of other servers.
async fn behind(
    process: Process,
    servers: Vec<BackendAddress>,
    model: Option<&str>,
) -> anyhow::Result<ExitStatus> {
    let registry = registry(&process);
    let backends = backends::start(&process, &registry, servers, model).await?;
    http(process, registry, None, Some(backends), None).await
}

/// `dynamo frontend`
pub(crate) async fn frontend(process: Process) -> anyhow::Result<ExitStatus> {
    if let Ok(servers) = servers(&process, Output::Auto)? {
        return behind(process, servers, None).await;
    }
    let registry = registry(&process);
    let scope = own_scope(&process);
    watch(&process, &registry, scope).await?;
    http(process, registry, None, None, None).await
}

/// Who asks the registry's models for a person or a file.
fn local_client(process: &Process, registry: ModelRegistry) -> LocalClient {
    let frontend: &FrontendOptions = process.options.get();
    let limits = PreprocessLimits {
        max_prompt_tokens: frontend.max_prompt_tokens,
    };
    LocalClient::new(registry, process.environment.clone(), limits)
}

/// A registry without models.
fn registry(process: &Process) -> ModelRegistry {
    let options: &PreprocessOptions = process.options.get();
    let size = options.prompt_token_cache_size.as_usize();
    ModelRegistry::remembering(PromptTokenCache::new(size))
}

/// Fills the registry: with an engine of this process, or with what workers announce.
async fn attach(
    process: &Process,
    registry: &ModelRegistry,
    output: &Output,
    model: Option<&str>,
) -> anyhow::Result<Option<Local>> {
    match output {
        Output::Echo | Output::Llamacpp => {
            let local = engine::build(process, output, model).await?;
            let served = &local.served;
            // Deadlines hold for it, too; there is nobody else to move to.
            let setup = MigrationSetup {
                options: process.options.get::<DeliveryOptions>().clone(),
                has_workers: false,
                can_continue: false,
                gone: CancellationToken::new(),
                model: local.name.as_str().into(),
                metrics: migrations(process)?,
                environment: process.environment.clone(),
            };
            let engine = Migrating::new(Arc::clone(&served.engine), setup);
            let served = ServedModel {
                engine: Arc::new(engine),
                ..served.clone()
            };
            registry.add(local.name.as_str(), Arc::new(served));
            Ok(Some(local))
        }
        Output::Auto => {
            watch(process, registry, own_scope(process)).await?;
            Ok(None)
        }
        Output::Endpoint(only) => {
            watch(process, registry, Scope::Endpoint(only.clone())).await?;
            Ok(None)
        }
        Output::Servers(_) => bail!("out=http://HOST:PORT goes with in=http"),
        Output::Python(engine) => bail!("out={engine} is a process of its own"),
    }
}

/// Everybody's models, unless a namespace is asked for: its default names what this process
/// serves, and hides nothing.
fn own_scope(process: &Process) -> Scope {
    match process.options.source("namespace") {
        None | Some(Source::Default) => Scope::All,
        Some(_) => Scope::Namespace(process.options.get::<RuntimeOptions>().namespace.clone()),
    }
}

fn migrations(process: &Process) -> anyhow::Result<MigrationMetrics> {
    let prefix = &process.options.get::<FrontendOptions>().metrics_prefix;
    Ok(MigrationMetrics::shown_by(&process.metrics, prefix)?)
}

async fn watch(process: &Process, registry: &ModelRegistry, scope: Scope) -> anyhow::Result<()> {
    let runtime = process.join().await?;
    let options = ModelWatchOptions {
        scope,
        router: process.options.get::<RouterOptions>().clone(),
        cache: engine::artefact_cache(process),
        delivery: process.options.get::<DeliveryOptions>().clone(),
        migrations: migrations(process)?,
    };
    let watch = ModelWatch::new(&runtime, registry.clone(), options, engine::vocabulary());
    let tasks = &process.tasks;
    tasks.spawn_until_cancelled("model watch", watch.run());
    let tidy = memory::give_back_after_changes(registry.clone(), process.environment.clone());
    tasks.spawn_until_cancelled("memory", tidy);
    Ok(())
}

/// Waits until a model is announced; its name if there is one model, or if one was asked for.
async fn announced(
    process: &Process,
    registry: &ModelRegistry,
    limit: Duration,
) -> anyhow::Result<Option<String>> {
    let options: &ModelOptions = process.options.get();
    let deadline = Instant::now() + limit;
    loop {
        let found = match &options.model_name {
            Some(name) => registry.find(name).is_ok(),
            None => !registry.is_empty(),
        };
        if found {
            return Ok(options.model_name.clone());
        }
        if Instant::now() > deadline {
            bail!(
                "no worker announced {} within {limit:?}; start one in the same namespace and discovery folder",
                options.model_name.as_deref().unwrap_or("a model")
            );
        }
        sleep(LOOK_AGAIN).await;
    }
}

async fn http(
    process: Process,
    registry: ModelRegistry,
    local: Option<Local>,
    backends: Option<Backends>,
    mut beside: Option<python_engine::Component>,
) -> anyhow::Result<ExitStatus> {
    process.serve_status().await?;
    let bound = bind(&process, registry, backends).await?;
    let address = bound.local_addr();
    let runtime: &RuntimeOptions = process.options.get();
    let (draining, timeout) = (process.shutdown.draining().clone(), runtime.drain_timeout);
    let (sender, drained) = oneshot::channel();
    let tasks = process.tasks.clone();
    process.tasks.spawn("http frontend", async move {
        let drained = bound.serve(&tasks, draining, timeout).await;
        // Nobody waits for it when the process ends without a drain.
        sender.send(drained).ok();
    });
    process.health.set_endpoint("http", EndpointStatus::Ready);
    tracing::info!(%address, "frontend serves the openai api");
    let scheme = match process.options.get::<HttpTlsOptions>().is_on() {
        true => "https",
        false => "http",
    };
    print_line(&format!("{scheme}://{address}"));
    let mut cut_off = false;
    let work = async {
        match &mut beside {
            Some(component) => Err::<(), _>(component.ended().await),
            None => pending().await,
        }
    };
    let status = process
        .serve_while(work, async {
            if let Ok(drained) = drained.await
                && drained.dropped_requests > 0
            {
                cut_off = true;
                tracing::warn!(
                    requests = drained.dropped_requests,
                    "requests were cut off by the drain timeout"
                );
            }
        })
        .await?;
    // The engine outlives its last request.
    drop(local);
    if let Some(component) = beside {
        component.stop().await;
    }
    // The frontend and the process count the same time; either may be first.
    Ok(match (status, cut_off) {
        (ExitStatus::Success, true) => ExitStatus::DrainTimedOut,
        _ => status,
    })
}

/// The options with the keys of their file.
pub(crate) fn with_keys(options: &FrontendOptions) -> anyhow::Result<FrontendOptions> {
    let mut options = options.clone();
    if let Some(path) = &options.api_key_file {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read --api-key-file {}", path.display()))?;
        let keys = dynamo_frontend::parse_key_file(&text)?;
        options.api_key.extend(keys);
    }
    Ok(options)
}

async fn bind(
    process: &Process,
    registry: ModelRegistry,
    backends: Option<Backends>,
) -> anyhow::Result<BoundFrontend> {
    let options = with_keys(process.options.get::<FrontendOptions>())?;
    let tls: &HttpTlsOptions = process.options.get();
    let frontend = Frontend {
        metrics: FrontendMetrics::new(&process.metrics, &options.metrics_prefix)?,
        tls: tls.server(&HTTP_PROTOCOLS)?,
        options,
        models: registry,
        backends,
        environment: process.environment.clone(),
        registry: process.metrics.clone(),
        sampler: process.sampler,
    };
    Ok(frontend.bind().await?)
}

async fn worker(
    process: Process,
    endpoint: EndpointId,
    output: &Output,
    model: Option<&str>,
) -> anyhow::Result<ExitStatus> {
    if matches!(output, Output::Auto | Output::Endpoint(_)) {
        bail!("in={endpoint} needs an engine of this process: out=echo or out=llamacpp");
    }
    process.serve_status().await?;
    let local = engine::build(&process, output, model).await?;
    let offer = local.offer(&process)?;
    let runtime = process.join().await?;
    let engine = Arc::clone(&local.served.engine);
    let telemetry = WorkerTelemetry {
        metrics: process.metrics.clone(),
        sampler: process.sampler,
        news: process.options.get::<NewsOptions>().clone(),
        canary: process.options.get::<CanaryOptions>().clone(),
        labels: OwnLabels::default(),
    };
    let serving = Arc::clone(&engine);
    let worker = Worker::start(&runtime, &endpoint, serving, offer, &telemetry).await?;
    tracing::info!(model = local.name, %endpoint, "worker serves");
    print_line(&endpoint.to_string());
    let limit = process.options.get::<RuntimeOptions>().drain_timeout;
    let drain = Box::pin(async move {
        runtime.refuse_new().await;
        let finish = async {
            worker.drain().await;
            engine.drain().await;
        };
        runtime.finish_or_hand_over(finish, limit).await;
    });
    process.serve(drain).await
}

async fn engine_alone(
    process: Process,
    output: &Output,
    model: Option<&str>,
) -> anyhow::Result<ExitStatus> {
    if matches!(output, Output::Auto | Output::Endpoint(_)) {
        bail!("in=none needs an engine of this process: out=echo or out=llamacpp");
    }
    process.serve_status().await?;
    let local = engine::build(&process, output, model).await?;
    process.health.set_endpoint("engine", EndpointStatus::Ready);
    tracing::info!(model = local.name, "engine runs without an input");
    process
        .serve(async move { local.served.engine.drain().await })
        .await
}
