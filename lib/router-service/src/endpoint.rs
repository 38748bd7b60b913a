//! The router as an endpoint: frontends send it requests as they would to a worker, and it sends
//! them on.
//!
//! Invariants
//! - The card that it announces is the workers' own, with the router's endpoint in place of
//!   theirs, and only while there are workers.
//! - One model is served: its name is given, or it is the only one.

use dynamo_llm::routed_models::{RoutedModel, RoutedModels};
use dynamo_llm::worker::{Offer, Worker, WorkerError, WorkerTelemetry};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineRequest, EngineStream, RequestContext,
};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::routing::RouteSlip;
use dynamo_protocols::structured::StructuredSupport;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::EndpointId;
use futures_core::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// How long to wait after the endpoint could not be served.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The endpoint of a router.
#[derive(Debug)]
pub struct RouterEndpoint {
    /// The process it is in.
    pub runtime: DistributedRuntime,
    /// The models whose workers are known.
    pub models: RoutedModels,
    /// The one to serve; not given, the only one.
    pub model: Option<String>,
    /// Where to serve it.
    pub endpoint: EndpointId,
    /// Where it tells what it does.
    pub telemetry: WorkerTelemetry,
}

/// Something of the endpoint that cannot be.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("its card cannot be written: {0}")]
    Card(#[from] serde_json::Error),
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// A model that is served, and what serves it.
struct Served {
    model: Arc<RoutedModel>,
    worker: Worker,
}

impl RouterEndpoint {
    /// Serves until `draining` is cancelled, then ends gently. The caller bounds that.
    pub async fn serve(self, draining: CancellationToken) {
        let mut changes = self.models.watch();
        let mut served: Option<Served> = None;
        let mut reported = String::new();
        loop {
            changes.mark_unchanged();
            let wanted = self.wanted(&mut reported);
            let is_served = match (&served, &wanted) {
                (Some(served), Some(wanted)) => Arc::ptr_eq(&served.model, wanted),
                (None, None) => true,
                _ => false,
            };
            let mut failed = false;
            if !is_served {
                if let Some(former) = served.take() {
                    former.worker.drain().await;
                }
                if let Some(model) = wanted {
                    match self.start(Arc::clone(&model)).await {
                        Ok(worker) => served = Some(Served { model, worker }),
                        Err(error) => {
                            failed = true;
                            tracing::warn!(endpoint = %self.endpoint, %error, "cannot serve the router's endpoint now");
                        }
                    }
                }
            }
            let retry = async {
                match failed {
                    true => sleep(RETRY_INTERVAL).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = draining.cancelled() => break,
                // The list lives as long as this endpoint.
                _ = changes.changed() => {}
                () = retry => {}
            }
        }
        if let Some(served) = served {
            served.worker.drain().await;
        }
    }

    /// The model to serve, if it is there.
    fn wanted(&self, reported: &mut String) -> Option<Arc<RoutedModel>> {
        if let Some(name) = &self.model {
            return self.models.find(name).ok();
        }
        let mut models = self.models.list();
        if models.len() > 1 {
            let names: Vec<&str> = models.iter().map(|it| &*it.name).collect();
            let names = names.join(", ");
            if *reported != names {
                tracing::warn!(
                    models = names,
                    "the workers serve several models: choose one with --model-name"
                );
                *reported = names;
            }
            return None;
        }
        models.pop()
    }

    async fn start(&self, model: Arc<RoutedModel>) -> Result<Worker, ServeError> {
        let mut card = model.card.clone();
        card.runtime.is_router = true;
        let offer = Offer {
            name: model.name.to_string(),
            embeds: card.model_types.embeddings,
            card: serde_json::to_value(card)?,
            artefacts: model.artefacts.clone(),
            ..Offer::default()
        };
        let engine = Arc::new(PassOn {
            model: Arc::clone(&model),
        });
        let (runtime, endpoint) = (&self.runtime, &self.endpoint);
        let worker = Worker::start(runtime, endpoint, engine, offer, &self.telemetry).await?;
        tracing::info!(model = &*model.name, %endpoint, workers = %model.identity.endpoint, "router serves");
        Ok(worker)
    }
}

/// Sends requests on to a model's workers.
#[derive(Debug)]
struct PassOn {
    model: Arc<RoutedModel>,
}

impl Engine for PassOn {
    fn generate(
        &self,
        mut request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let hints = request.hints.take();
        let route = hints.map(|hints| Arc::new(RouteSlip::new(*hints)));
        let context = RequestContext { route, ..context };
        self.model.engine.generate(request, context)
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        self.model.engine.embed(request, context)
    }

    fn structured_output(&self) -> StructuredSupport {
        self.model.engine.structured_output()
    }

    /// Nothing: workers report their own load, and the router has none.
    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    /// At once: workers drain themselves.
    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
