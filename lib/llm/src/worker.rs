//! A worker: an engine of this process, served to the others.
//!
//! Invariants
//! - The model's card is announced after everything it promises is served, and withdrawn before
//!   anything of it stops: who sees the card can use it.
//! - A worker whose start fails half-way takes back what it announced.
//! - Every request has a span in its caller's trace, and is counted.
//! - A worker whose engine does not work takes no requests (`canary`).

mod canary;
mod observed;
mod vigil;

pub use canary::CanaryOptions;
pub use observed::WorkerTelemetry;

use crate::remote::embed_endpoint;
use crate::role::Role;
use crate::worker::canary::Watched;
use crate::worker::observed::{Observed, Shown};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    BootstrapAddress, EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest,
    RequestContext,
};
use dynamo_protocols::structured::StructuredSupport;
use dynamo_routing::news::{NewsPublisher, news_endpoint};
use dynamo_runtime::Tasks;
use dynamo_runtime::artefact::{ARTEFACT_ENDPOINT, ArtefactStore};
use dynamo_runtime::component::typed::{HandlerStream, erase};
use dynamo_runtime::component::{
    AnnouncedInstance, DistributedRuntime, ServeError, ServedEndpoint,
};
use dynamo_runtime::discovery::{
    ArtefactRef, CardRecord, DiscoveryError, EndpointId, InstanceId, Metadata, NameError,
};
use dynamo_runtime::request_plane::{Handler, RequestHeader};
use dynamo_runtime::telemetry::MetricsError;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use std::path::PathBuf;
use std::sync::Arc;

/// What a worker offers: a model's name, its description, and the files that go with it.
#[derive(Debug, Clone, Default)]
pub struct Offer {
    /// The model's served name.
    pub name: String,
    /// The model card, as it is announced.
    pub card: serde_json::Value,
    /// Files that whoever uses the model needs, and where they are here.
    pub artefacts: Vec<(ArtefactRef, PathBuf)>,
    /// Whether the engine computes embeddings.
    pub embeds: bool,
    /// What it does of its requests.
    pub role: Role,
}

/// An engine that is being served. Dropping it stops serving; [`Worker::drain`] does so gently.
#[derive(Debug)]
pub struct Worker {
    runtime: DistributedRuntime,
    card: CardRecord,
    /// Generating first, the rest after it.
    served: Vec<ServedEndpoint>,
    shown: Vec<Shown>,
    news: NewsPublisher,
    /// Watches the engine.
    tasks: Tasks,
}

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// An endpoint could not be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// The model's card could not be announced.
    #[error("cannot announce model {name}: {source}")]
    Announce {
        /// The model.
        name: String,
        /// What discovery said.
        source: DiscoveryError,
    },
    /// An endpoint's name is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An endpoint's metrics are there already.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl Worker {
    /// Serves the engine at `endpoint` and announces what it offers.
    pub async fn start(
        runtime: &DistributedRuntime,
        endpoint: &EndpointId,
        engine: Arc<dyn Engine>,
        offer: Offer,
        telemetry: &WorkerTelemetry,
    ) -> Result<Self, WorkerError> {
        let place = Place { runtime, telemetry };
        // First: whoever sees the worker can hear of it.
        let name = news_endpoint(endpoint)?;
        let told = Arc::clone(&engine);
        let news = NewsPublisher::start(runtime, name, Arc::clone(&told), &telemetry.news).await?;
        let watched = Watched::new(engine);
        let engine: Arc<dyn Engine> = watched.clone();
        let generate = generate_handler(Arc::clone(&engine));
        let (mut served, mut shown) = (Vec::new(), Vec::new());
        let mut serve = async |endpoint, handler, says| {
            let (endpoint, metrics) = place.serve(endpoint, handler, says).await?;
            served.push(endpoint);
            shown.push(metrics);
            Ok::<_, WorkerError>(())
        };
        let says = instance_metadata(&*told, &offer.role);
        serve(endpoint.clone(), generate, says).await?;
        if offer.embeds {
            let embed = embed_handler(engine);
            serve(embed_endpoint(endpoint)?, embed, Metadata::new()).await?;
        }
        let store = ArtefactStore::new(runtime.environment().clone());
        let mut artefacts = Vec::new();
        for (artefact, path) in offer.artefacts {
            store.insert(&artefact, path);
            artefacts.push(artefact);
        }
        if !artefacts.is_empty() {
            let id = artefact_endpoint(endpoint)?;
            serve(id, Arc::new(store), Metadata::new()).await?;
        }
        let card = CardRecord {
            kind: offer.role.worker_type.card_kind().to_owned(),
            name: offer.name,
            endpoint: endpoint.clone(),
            body: offer.card,
            artefacts,
        };
        let announced = runtime.announcer().put_card(card.clone()).await;
        announced.map_err(|source| WorkerError::Announce {
            name: card.name.clone(),
            source,
        })?;
        let tasks = runtime.tasks().child();
        if let Some(generate) = served.first() {
            watched.watch(generate.announced(), &telemetry.canary, &tasks);
        }
        Ok(Self {
            runtime: runtime.clone(),
            card,
            served,
            shown,
            news,
            tasks,
        })
    }

    /// The endpoint that generates.
    pub fn endpoint(&self) -> &EndpointId {
        &self.card.endpoint
    }

    /// This process's instance of it.
    pub fn instance(&self) -> Option<InstanceId> {
        self.served.first().map(ServedEndpoint::instance)
    }

    /// Its place in discovery.
    pub fn announced(&self) -> Option<AnnouncedInstance> {
        self.served.first().map(ServedEndpoint::announced)
    }

    /// Withdraws the card and the endpoints, refuses new requests, and waits for the open streams
    /// to end. The caller bounds the wait.
    pub async fn drain(self) {
        // First: it must not announce what is being withdrawn.
        self.tasks.stop().await;
        if let Err(error) = self.runtime.announcer().remove_card(&self.card).await {
            tracing::warn!(model = self.card.name, %error, "could not withdraw a model card now");
        }
        // Together: none of them may take requests while another one finishes its own.
        join_all(self.served.into_iter().map(ServedEndpoint::drain)).await;
        drop(self.shown);
        // Last: until then it is of use to know how busy the worker is.
        self.news.close().await;
    }
}

/// An endpoint whose handler takes and gives bytes, with the spans and metrics of a worker's.
#[derive(Debug)]
pub struct ObservedEndpoint {
    served: ServedEndpoint,
    shown: Shown,
}

impl ObservedEndpoint {
    /// Serves and announces the endpoint.
    pub async fn start(
        runtime: &DistributedRuntime,
        endpoint: &EndpointId,
        handler: Arc<dyn Handler>,
        telemetry: &WorkerTelemetry,
    ) -> Result<Self, WorkerError> {
        let place = Place { runtime, telemetry };
        let says = Metadata::new();
        let (served, shown) = place.serve(endpoint.clone(), handler, says).await?;
        Ok(Self { served, shown })
    }

    /// This process's instance of it.
    pub fn instance(&self) -> InstanceId {
        self.served.instance()
    }

    /// Its place in discovery.
    pub fn announced(&self) -> AnnouncedInstance {
        self.served.announced()
    }

    /// Withdraws it, refuses new requests, and waits for the open streams to end.
    pub async fn drain(self) {
        self.served.drain().await;
        drop(self.shown);
    }
}

/// The artefact endpoint of a component.
pub fn artefact_endpoint(endpoint: &EndpointId) -> Result<EndpointId, NameError> {
    EndpointId::new(
        endpoint.namespace(),
        endpoint.component(),
        ARTEFACT_ENDPOINT,
    )
}

/// Where endpoints are served, and where they tell about it.
struct Place<'a> {
    runtime: &'a DistributedRuntime,
    telemetry: &'a WorkerTelemetry,
}

impl Place<'_> {
    async fn serve(
        &self,
        endpoint: EndpointId,
        handler: Arc<dyn Handler>,
        says: Metadata,
    ) -> Result<(ServedEndpoint, Shown), WorkerError> {
        let environment = self.runtime.environment().clone();
        let observed = Observed::new(handler, environment, self.telemetry.sampler);
        let serving = self.runtime.endpoint(endpoint.clone());
        let handler: Arc<dyn Handler> = observed.clone();
        let served = serving.serve_bytes(handler, says).await?;
        let shown = observed.register(self.telemetry, &endpoint, served.instance())?;
        Ok((served, shown))
    }
}

/// What an instance says of itself beside its address.
fn instance_metadata(engine: &dyn Engine, role: &Role) -> Metadata {
    let mut says = Metadata::new();
    let word = engine.structured_output().as_str();
    says.insert(StructuredSupport::METADATA_KEY.to_owned(), word.into());
    if let Some(BootstrapAddress { host, port }) = &role.bootstrap {
        let address = serde_json::json!({"host": &**host, "port": port});
        says.insert(BootstrapAddress::METADATA_KEY.to_owned(), address);
    }
    says
}

fn generate_handler(engine: Arc<dyn Engine>) -> Arc<dyn Handler> {
    erase::<EngineRequest, EngineOutput>(move |request: EngineRequest, header: RequestHeader| {
        let engine = Arc::clone(&engine);
        async move {
            let outputs = engine.generate(request, context_of(&header)).await?;
            Ok(outputs as HandlerStream<EngineOutput>)
        }
    })
}

fn embed_handler(engine: Arc<dyn Engine>) -> Arc<dyn Handler> {
    erase::<EmbedRequest, EmbedResponse>(move |request: EmbedRequest, header: RequestHeader| {
        let engine = Arc::clone(&engine);
        async move {
            // Within the stream, so that a caller who goes away drops the work.
            let context = context_of(&header);
            let answer = stream::once(async move { engine.embed(request, context).await });
            Ok::<_, RequestError>(answer.boxed() as HandlerStream<EmbedResponse>)
        }
    })
}

fn context_of(header: &RequestHeader) -> RequestContext {
    RequestContext {
        request_id: Arc::clone(&header.request_id),
        attempt: header.attempt,
        traceparent: header.traceparent.clone(),
        tracestate: header.tracestate.clone(),
        ..RequestContext::default()
    }
}
