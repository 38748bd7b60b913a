//! The frontend's server for models of this very process, whatever gives them.
//!
//! It has the routes, limits, errors and metrics of `dynamo frontend`, and its options. Each server has
//! a registry of metrics of its own, so that a process may have several.

use super::{Embedded, EmbeddedError};
use crate::cli;
use crate::loader::Surroundings;
use crate::run::with_keys;
use dynamo_frontend::{Frontend, FrontendMetrics, FrontendOptions, HTTP_PROTOCOLS};
use dynamo_llm::config::DeliveryOptions;
use dynamo_llm::migration::{Migrating, MigrationMetrics, MigrationSetup};
use dynamo_llm::model::ServedModel;
use dynamo_llm::registry::ModelRegistry;
use dynamo_protocols::engine::Engine;
use dynamo_runtime::Environment;
use dynamo_runtime::telemetry::MetricsRegistry;
use dynamo_runtime::telemetry::process_metrics::ProcessMetrics;
use dynamo_runtime::tls::HttpTlsOptions;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A server that listens.
#[derive(Debug)]
pub struct HttpServing {
    address: SocketAddr,
    models: ModelRegistry,
    delivery: DeliveryOptions,
    migrations: MigrationMetrics,
    environment: Environment,
    drain: CancellationToken,
    ended: CancellationToken,
}

impl Embedded {
    /// Starts a server without models. `arguments` are options of `dynamo frontend`, before those of
    /// the environment. Resolves when it listens.
    pub async fn serve_http(&self, arguments: Vec<OsString>) -> Result<HttpServing, EmbeddedError> {
        Ok(Box::pin(self.bind_http(arguments)).await?)
    }

    async fn bind_http(&self, arguments: Vec<OsString>) -> anyhow::Result<HttpServing> {
        let surroundings = Surroundings::of_this_process(arguments);
        let resolved = cli::options_of("frontend", &surroundings)?;
        let options = with_keys(resolved.get::<FrontendOptions>())?;
        let registry = MetricsRegistry::new();
        registry.register(ProcessMetrics::new()?)?;
        let migrations = MigrationMetrics::shown_by(&registry, &options.metrics_prefix)?;
        let models = ModelRegistry::new();
        let process = &self.process;
        let frontend = Frontend {
            metrics: FrontendMetrics::new(&registry, &options.metrics_prefix)?,
            tls: resolved.get::<HttpTlsOptions>().server(&HTTP_PROTOCOLS)?,
            options,
            models: models.clone(),
            backends: None,
            environment: process.environment.clone(),
            registry,
            sampler: process.sampler,
        };
        let bound = frontend.bind().await?;
        let serving = HttpServing {
            address: bound.local_addr(),
            models,
            delivery: resolved.get::<DeliveryOptions>().clone(),
            migrations,
            environment: process.environment.clone(),
            drain: CancellationToken::new(),
            ended: CancellationToken::new(),
        };
        let (tasks, drain) = (process.tasks.clone(), serving.drain.clone());
        let (limit, over) = (self.drain_timeout(), serving.ended.clone().drop_guard());
        process.tasks.spawn("http frontend", async move {
            let drained = bound.serve(&tasks, drain, limit).await;
            if drained.dropped_requests > 0 {
                let requests = drained.dropped_requests;
                tracing::warn!(requests, "requests were cut off by the drain timeout");
            }
            drop(over);
        });
        tracing::info!(address = %serving.address, "frontend serves the openai api");
        Ok(serving)
    }
}

impl HttpServing {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves a model from now on, in place of another one of the name. Its deadlines are kept, as
    /// those of every other.
    pub fn add(&self, model: ServedModel) {
        let name = model.card.name.clone();
        let setup = MigrationSetup {
            options: self.delivery.clone(),
            has_workers: false,
            can_continue: false,
            model: name.as_str().into(),
            gone: CancellationToken::new(),
            metrics: self.migrations.clone(),
            environment: self.environment.clone(),
        };
        let engine: Arc<dyn Engine> = Arc::new(Migrating::new(Arc::clone(&model.engine), setup));
        self.models
            .add(name, Arc::new(ServedModel { engine, ..model }));
    }

    /// Serves it no more; requests that have begun go on.
    pub fn remove(&self, name: &str) {
        self.models.remove(name);
    }

    /// Takes nothing new, and lets what runs finish for as long as `--drain-timeout` allows.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Resolves when it has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for HttpServing {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}
