//! A place among Dynamo's processes for one that is not the `dynamo` command: a worker written in
//! another language.
//!
//! It has the options of every command (`--discovery-backend`, `DYN_REQUEST_PLANE`, ...), the same
//! planes, telemetry and status server; its work is its own.
//!
//! What it does not do: signals, which belong to whoever owns the process.

mod http;

pub use http::HttpServing;

use crate::cli;
use crate::engine;
use crate::loader::Surroundings;
use crate::process::Process;
use crate::schemas;
use dynamo_config::Resolved;
use dynamo_llm::card::LocalModel;
use dynamo_llm::hub::Wanted;
use dynamo_llm::worker::{CanaryOptions, WorkerTelemetry};
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::shutdown::STOP_TIMEOUT;
use dynamo_runtime::telemetry::{OwnLabels, SpanRecorder, TelemetryGuard, TelemetryOptions};
use parking_lot::Mutex;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::timeout;

/// What such a process has of Dynamo.
#[expect(missing_debug_implementations, reason = "it holds the whole process")]
pub struct Embedded {
    process: Process,
    telemetry: Mutex<Option<TelemetryGuard>>,
    spans: SpanRecorder,
}

/// Where a worker's model is, and what it is called.
#[derive(Debug, Clone, Default)]
pub struct ModelSource {
    /// A GGUF file, a Hugging Face folder, or a Hugging Face id.
    pub path: String,
    /// What clients call it; made of the path if not given.
    pub name: Option<String>,
    /// A Jinja chat template to use in place of its own.
    pub template: Option<PathBuf>,
}

/// Why a worker cannot take part.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub struct EmbeddedError(#[from] anyhow::Error);

/// The options of a worker: those on a command line, without the program's name, before those of
/// the environment.
pub fn options(arguments: Vec<OsString>) -> Result<Resolved, EmbeddedError> {
    let surroundings = Surroundings::of_this_process(arguments);
    Ok(cli::options_of("worker", &surroundings).map_err(anyhow::Error::from)?)
}

/// The options of a router, in the same way.
pub fn router_options(arguments: Vec<OsString>) -> Result<Resolved, EmbeddedError> {
    let surroundings = Surroundings::of_this_process(arguments);
    Ok(cli::options_of("router", &surroundings).map_err(anyhow::Error::from)?)
}

/// What is declared about every option of a command (`worker`: those that [`options`] takes), as JSON.
/// `None` for a command that there is not.
pub fn declarations(command: &str) -> Option<serde_json::Value> {
    let known = command == "run" || schemas::REFERENCE.iter().any(|(name, _)| *name == command);
    known.then(|| schemas::schema(command).json())
}

impl Embedded {
    /// Opens what the options ask for. Needs to be within an async runtime.
    pub fn open(options: Resolved) -> Result<Self, EmbeddedError> {
        let surroundings = Surroundings::of_this_process(Vec::new());
        let telemetry = TelemetryOptions::new(options.get(), surroundings.stderr_is_terminal);
        // Its owner has variables of its own: what looks like none of ours is none of our business.
        let options = options.without_warnings(|unknown| unknown.nearest.is_none());
        let (process, telemetry) = Process::open(options, surroundings, &telemetry)?;
        Ok(Self {
            spans: telemetry.recorder(),
            process,
            telemetry: Mutex::new(Some(telemetry)),
        })
    }

    /// Starts the status server where the options ask for one, and takes the process's place among
    /// the others.
    pub async fn join(&self) -> Result<DistributedRuntime, EmbeddedError> {
        self.process.serve_status().await?;
        Ok(self.process.join().await?)
    }

    /// Records spans of its own.
    pub fn spans(&self) -> &SpanRecorder {
        &self.spans
    }

    /// What it was told.
    pub fn options(&self) -> &Resolved {
        &self.process.options
    }

    /// The namespace that it is in where none is named.
    pub fn namespace(&self) -> String {
        self.process
            .options
            .get::<RuntimeOptions>()
            .namespace
            .clone()
    }

    /// The time that it has to drain.
    pub fn drain_timeout(&self) -> Duration {
        self.process.options.get::<RuntimeOptions>().drain_timeout
    }

    /// Where its workers tell what they do, with labels of their own.
    pub fn worker_telemetry(&self, labels: OwnLabels) -> WorkerTelemetry {
        WorkerTelemetry {
            metrics: self.process.metrics.clone(),
            sampler: self.process.sampler,
            news: self.process.options.get::<NewsOptions>().clone(),
            canary: self.process.options.get::<CanaryOptions>().clone(),
            labels,
        }
    }

    /// Opens a model's description: tokenizer, template, limits. One that is named by its id is
    /// fetched, without its weights unless they are asked for.
    pub async fn model(
        &self,
        source: ModelSource,
        with_weights: bool,
    ) -> Result<LocalModel, EmbeddedError> {
        let wanted = match with_weights {
            true => Wanted::Everything,
            false => Wanted::WithoutWeights,
        };
        let path = engine::resolve(&self.process, &source.path, wanted).await?;
        let opened = self.process.environment.compute(move || {
            let mut model = LocalModel::open(&path)?;
            if let Some(file) = &source.template {
                model = model.with_template(file)?;
            }
            if let Some(name) = source.name {
                model = model.with_card(|card| card.name = name);
            }
            Ok::<_, dynamo_llm::card::ModelError>(model)
        });
        let opened = opened.await.map_err(anyhow::Error::from)?;
        Ok(opened.map_err(anyhow::Error::from)?)
    }

    /// Where a model's files are, fetched if need be.
    pub async fn fetch(&self, model: &str, with_weights: bool) -> Result<PathBuf, EmbeddedError> {
        let wanted = match with_weights {
            true => Wanted::Everything,
            false => Wanted::WithoutWeights,
        };
        Ok(engine::resolve(&self.process, model, wanted).await?)
    }

    /// Folder for what is made of model files for others to fetch.
    pub fn artefact_cache(&self) -> PathBuf {
        engine::artefact_cache(&self.process)
    }

    /// Stops everything that this started and sends what telemetry has left.
    pub async fn close(&self) {
        if timeout(STOP_TIMEOUT, self.process.tasks.stop())
            .await
            .is_err()
        {
            tracing::warn!(timeout = ?STOP_TIMEOUT, "tasks did not stop, ending without them");
        }
        let telemetry = self.telemetry.lock().take();
        if let Some(telemetry) = telemetry {
            telemetry.shutdown().await;
        }
    }
}
