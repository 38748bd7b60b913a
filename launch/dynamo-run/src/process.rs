//! A process from its start to its end: async runtime, telemetry, signals, drain, exit status.

use crate::cli::{CommandKind, Invocation};
use crate::loader::Surroundings;
use crate::output::complain;
use crate::{
    bench, bench_routing, deploy, doctor, engine, metrics, mocker, planes, router, run, simulate,
};
use anyhow::{Context, bail};
use dynamo_config::Resolved;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::config::{DiscoveryBackend, RuntimeOptions};
use dynamo_runtime::discovery::DiscoveryMetrics;
use dynamo_runtime::shutdown::{ExitStatus, Shutdown, Signals};
use dynamo_runtime::status::{self, HealthState, StatusOptions};
use dynamo_runtime::telemetry::process_metrics::ProcessMetrics;
use dynamo_runtime::telemetry::{self, MetricsRegistry, Sampler, TelemetryGuard, TelemetryOptions};
use dynamo_runtime::{Environment, Tasks, discovery};
use std::convert::Infallible;
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// What every command of a process works with.
pub(crate) struct Process {
    pub(crate) environment: Environment,
    pub(crate) tasks: Tasks,
    pub(crate) shutdown: Shutdown,
    pub(crate) health: HealthState,
    pub(crate) metrics: MetricsRegistry,
    discovery_metrics: DiscoveryMetrics,
    pub(crate) sampler: Sampler,
    pub(crate) surroundings: Surroundings,
    pub(crate) options: Resolved,
}

/// Runs a command to its end.
pub(crate) fn start(invocation: Invocation, surroundings: Surroundings) -> ExitStatus {
    let threads = bench::threads(&invocation);
    let mut builder = match threads {
        // Work that one thread does wakes no other.
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(threads);
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("error: cannot start threads: {error}"));
            return ExitStatus::Failure;
        }
    };
    let status = runtime.block_on(Box::pin(run(invocation, surroundings)));
    // A thread that waits for a key press must not hold the process.
    runtime.shutdown_background();
    status
}

async fn run(invocation: Invocation, surroundings: Surroundings) -> ExitStatus {
    let Invocation {
        command,
        options,
        verbosity,
    } = invocation;
    let mut telemetry_options =
        TelemetryOptions::new(options.get(), surroundings.stderr_is_terminal);
    if run::is_quiet(&command) && options.source("log_level").is_none_or(is_default) {
        // A conversation is not to be mixed with log lines unless they matter.
        let level = match command {
            // What simulated processes log has the time of this machine and not theirs.
            CommandKind::Simulate => "off",
            _ => "warn",
        };
        level.clone_into(&mut telemetry_options.log);
    }
    if verbosity > 0 && options.source("log_level").is_none_or(is_default) {
        let level = if verbosity > 1 { "trace" } else { "debug" };
        level.clone_into(&mut telemetry_options.log);
    }
    let (process, telemetry) = match Process::open(options, surroundings, &telemetry_options) {
        Ok(opened) => opened,
        Err(error) => {
            complain(&format!("error: {error}"));
            return ExitStatus::Usage;
        }
    };
    let status = match Box::pin(process.run(command)).await {
        Ok(status) => status,
        Err(error) => {
            complain(&format!("error: {}", describe(&error)));
            ExitStatus::Failure
        }
    };
    telemetry.shutdown().await;
    status
}

/// An error with its causes, each said once: some messages contain their cause already.
fn describe(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

fn is_default(source: &dynamo_config::Source) -> bool {
    *source == dynamo_config::Source::Default
}

impl Process {
    /// What a process works with, and what ends its telemetry.
    pub(crate) fn open(
        options: Resolved,
        surroundings: Surroundings,
        telemetry: &TelemetryOptions,
    ) -> anyhow::Result<(Self, TelemetryGuard)> {
        let environment = Environment::system();
        let telemetry = telemetry::init(telemetry, &environment)?;
        for unknown in options.warnings() {
            tracing::warn!("{unknown}");
        }
        let runtime_options: &RuntimeOptions = options.get();
        let process = Self {
            environment,
            tasks: Tasks::root(),
            shutdown: Shutdown::new(runtime_options.drain_timeout),
            health: HealthState::new(),
            metrics: MetricsRegistry::new(),
            discovery_metrics: DiscoveryMetrics::new()?,
            sampler: telemetry.sampler(),
            surroundings,
            options,
        };
        Ok((process, telemetry))
    }

    async fn run(self, command: CommandKind) -> anyhow::Result<ExitStatus> {
        match command {
            CommandKind::Run(forms) => Box::pin(run::run(self, forms)).await,
            CommandKind::Frontend => run::frontend(self).await,
            CommandKind::LlamaCpp(endpoint, model) => {
                Box::pin(run::llama_cpp(self, endpoint, model)).await
            }
            CommandKind::Mocker => mocker::mocker(self).await,
            CommandKind::Router => Box::pin(router::router(self)).await,
            CommandKind::Metrics => metrics::metrics(self).await,
            CommandKind::Planner => bail!(
                "the planner is not part of this version: set the number of workers by hand, or let an \
                 autoscaler follow the metrics of `dynamo metrics`"
            ),
            CommandKind::Deploy(verb) => Box::pin(deploy::deploy(self, verb)).await,
            CommandKind::BenchServe => bench::serve(self).await,
            CommandKind::BenchIndex => bench_routing::index(&self).await,
            CommandKind::BenchRouter => bench_routing::router(&self).await,
            CommandKind::DoctorRouting => doctor::routing(&self).await,
            CommandKind::Simulate => simulate::simulate(&self).await,
            CommandKind::ModelFetch(model) => engine::fetch(&self, &model).await,
            CommandKind::ModelShow(model) => engine::show(&self, &model).await,
        }
    }

    /// Takes this process's place among the others.
    pub(crate) async fn join(&self) -> anyhow::Result<DistributedRuntime> {
        let options: &RuntimeOptions = self.options.get();
        let folders = self.surroundings.system_folders();
        let discovery = discovery::open(
            options,
            &folders,
            self.environment.clone(),
            &self.tasks,
            &self.discovery_metrics,
        )?;
        let planes = planes::open(self).await?;
        let runtime = DistributedRuntime::new(
            self.environment.clone(),
            self.tasks.clone(),
            discovery,
            planes.requests,
        );
        let runtime = match planes.events {
            Some(medium) => runtime.with_event_medium(medium),
            None => runtime,
        };
        let runtime = runtime.with_inhibited_duration(options.inhibited_duration);
        Ok(runtime.with_health(self.health.clone()))
    }

    /// Starts the status server, if one is asked for.
    pub(crate) async fn serve_status(&self) -> anyhow::Result<()> {
        self.metrics
            .register(ProcessMetrics::new()?)
            .context("cannot register the process metrics")?;
        let options: &RuntimeOptions = self.options.get();
        if options.discovery_backend == DiscoveryBackend::Etcd {
            // The others do not fill them.
            self.metrics
                .register(self.discovery_metrics.clone())
                .context("cannot register the discovery metrics")?;
        }
        if let Some(options) = StatusOptions::new(self.options.get()) {
            let (health, metrics) = (self.health.clone(), self.metrics.clone());
            status::serve(&options, health, metrics, &self.environment, &self.tasks).await?;
        }
        Ok(())
    }

    /// Serves until asked to end, then drains.
    pub(crate) async fn serve(
        &self,
        drain: impl Future<Output = ()>,
    ) -> anyhow::Result<ExitStatus> {
        let work = std::future::pending::<Result<(), Infallible>>();
        self.serve_while(work, drain).await
    }

    /// The same for a process that fails when `work` does.
    pub(crate) async fn serve_while<E: std::fmt::Display>(
        &self,
        work: impl Future<Output = Result<(), E>>,
        drain: impl Future<Output = ()>,
    ) -> anyhow::Result<ExitStatus> {
        let signals = Signals::system().context("cannot listen for signals")?;
        let health = self.health.clone();
        let drain = async move {
            health.set_draining();
            drain.await;
        };
        Ok(self
            .shutdown
            .supervise(signals, &self.tasks, work, drain)
            .await)
    }

    /// Runs to the end of `work`. Asked to end, the work is to put itself in order and end early:
    /// [`Shutdown::draining`] tells it.
    pub(crate) async fn work<E: std::fmt::Display>(
        &self,
        signals: Signals,
        work: impl Future<Output = Result<(), E>>,
    ) -> ExitStatus {
        let over = CancellationToken::new();
        let work = async {
            let result = work.await;
            over.cancel();
            result
        };
        self.shutdown
            .supervise(signals, &self.tasks, work, over.cancelled())
            .await
    }
}
