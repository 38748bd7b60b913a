//! An engine that stands for the workers of an endpoint: what the pipeline asks when the model
//! runs elsewhere.
//!
//! Its router decides whom to ask, of nobody but the workers that announce the very model it stands
//! for: an endpoint may have others. A worker that does not take the request is followed by the
//! next one in the client; what happens after the first token belongs to whoever holds the stream.

mod prefill;
mod structured;

pub(crate) use prefill::Prefilling;

use crate::model_set::ModelIdentity;
use dynamo_kv_router::config::RouterOptions;
use dynamo_protocols::RequestError;
use dynamo_protocols::deadline::Deadlines;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest, EngineStream, RequestContext,
};
use dynamo_protocols::error::ErrorCode;
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::routing::RouteSlip;
use dynamo_protocols::structured::StructuredSupport;
use dynamo_routing::news::news_endpoint;
use dynamo_routing::replicas::bookings_endpoint;
use dynamo_routing::{RoutedCall, RouterSetup, WorkerRouter};
use dynamo_runtime::component::client::{Call, Policy};
use dynamo_runtime::component::{DistributedRuntime, InstanceFilter, TypedClient};
use dynamo_runtime::discovery::{CardRecord, EndpointId, NameError, ProcessRecord};
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use std::future::Future;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;
use structured::Wish;
use tokio::time::timeout;

/// Name of the endpoint that embeds, beside a component's generating one.
pub const EMBED_ENDPOINT: &str = "embed";

/// The workers of one model, as one engine.
#[derive(Debug)]
pub struct RemoteEngine {
    generate: TypedClient<EngineRequest, EngineOutput>,
    embed: TypedClient<EmbedRequest, EmbedResponse>,
    router: Arc<WorkerRouter>,
    /// Those it asks are routers.
    asks_routers: bool,
}

impl RemoteEngine {
    /// Follows the workers that announce this very model by such a card from now on. Their KV blocks
    /// have so many tokens.
    pub fn new(
        runtime: &DistributedRuntime,
        card: &CardRecord,
        block_size: NonZeroU32,
        options: &RouterOptions,
    ) -> Result<Self, NameError> {
        let identity = ModelIdentity::of(card);
        let embed = embed_endpoint(&identity.endpoint)?;
        let news = news_endpoint(&identity.endpoint)?;
        let bookings = bookings_endpoint(&identity.endpoint, &card.name, &identity.checksum)?;
        let generate = runtime.endpoint(identity.endpoint.clone());
        let (kind, name) = (card.kind.clone(), card.name.clone());
        let accepted: InstanceFilter =
            Arc::new(move |process| announces(process, &kind, &name, &identity));
        let generate: TypedClient<EngineRequest, EngineOutput> =
            generate.typed_client_of(Arc::clone(&accepted));
        let router = WorkerRouter::start(RouterSetup {
            runtime: runtime.clone(),
            news,
            bookings,
            workers: Arc::clone(&accepted),
            instances: generate.untyped().watch_instances(),
            block_size,
            options: options.clone(),
        });
        Ok(Self {
            generate,
            embed: runtime.endpoint(embed).typed_client_of(accepted),
            router: Arc::new(router),
            asks_routers: false,
        })
    }

    /// The same, with requests going to routers, which are told what requests ask of a choice.
    #[must_use]
    pub fn asking_routers(mut self, asks_routers: bool) -> Self {
        self.asks_routers = asks_routers;
        self
    }

    /// Chooses among routers, and has the chosen one told what the request asks of a choice: that
    /// is about its workers, not about these.
    async fn route_to_router(
        &self,
        request: &mut EngineRequest,
        context: &mut RequestContext,
    ) -> Result<RoutedCall, RequestError> {
        let own = Arc::new(RouteSlip::default());
        let slip = context.route.replace(Arc::clone(&own));
        if let Some(slip) = &slip {
            request.hints = Some(Box::new(slip.hints.clone()));
        }
        let routed = self.router.route(request, context).await?;
        if let (Some(slip), Some(choice)) = (slip, own.routed()) {
            slip.write(choice);
        }
        Ok(routed)
    }

    /// The instances that a request with structured output may go to, where not all can serve it.
    fn able(
        &self,
        request: &EngineRequest,
        context: &RequestContext,
    ) -> Result<Option<Arc<[u64]>>, RequestError> {
        let Some(structured) = &request.sampling.structured else {
            return Ok(None);
        };
        let hints = context.route.as_ref().map(|slip| &slip.hints);
        let wish = Wish {
            structured,
            model: &request.model,
            has_begun: !request.generated_ids.is_empty(),
            // Whom a router is to ask is the router's to judge.
            named: hints
                .and_then(|it| it.instance)
                .filter(|_| !self.asks_routers),
        };
        structured::able(&wish, &self.supports())
    }

    /// What each instance announces of structured output.
    fn supports(&self) -> Vec<(u64, StructuredSupport)> {
        let instances = self.generate.untyped().instances();
        let supports = instances.iter().map(|instance| {
            let word = instance
                .record
                .metadata
                .get(StructuredSupport::METADATA_KEY);
            let word = word.and_then(|word| word.as_str());
            (instance.id.get(), StructuredSupport::announced(word))
        });
        supports.collect()
    }

    /// Who picks its workers.
    pub fn router(&self) -> &Arc<WorkerRouter> {
        &self.router
    }

    /// Resolves when discovery has told of the workers for the first time.
    pub async fn ready(&self) {
        let mut instances = self.generate.untyped().watch_instances();
        // The watch ends with the runtime: then there is nothing left to wait for.
        drop(instances.wait_for(Option::is_some).await);
    }
}

/// The embedding endpoint that goes with a generating one.
pub fn embed_endpoint(generate: &EndpointId) -> Result<EndpointId, NameError> {
    EndpointId::new(generate.namespace(), generate.component(), EMBED_ENDPOINT)
}

/// Whether the process is a worker of this model and no other.
fn announces(process: &ProcessRecord, kind: &str, name: &str, identity: &ModelIdentity) -> bool {
    process
        .cards
        .iter()
        .any(|card| card.kind == kind && card.name == name && ModelIdentity::of(card) == *identity)
}

/// Waits for a choice of worker until the queue's deadline.
async fn within<T>(
    limit: Option<Duration>,
    choosing: impl Future<Output = Result<T, RequestError>>,
) -> Result<T, RequestError> {
    let Some(limit) = limit else {
        return choosing.await;
    };
    match timeout(limit, choosing).await {
        Ok(chosen) => chosen,
        Err(_) => Err(queue_error(limit.as_secs_f64())),
    }
}

fn queue_error(seconds: f64) -> RequestError {
    RequestError::new(
        ErrorCode::QueueTimeout,
        format!(
            "no worker had room within {seconds}s; try again later, or allow more with \
             --queue-timeout or the x-dynamo-queue-timeout-ms header"
        ),
    )
}

impl Engine for RemoteEngine {
    fn generate(
        &self,
        mut request: EngineRequest,
        mut context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        Box::pin(async move {
            context.only = self.able(&request, &context)?;
            let Deadlines {
                queue, dispatch, ..
            } = context.deadlines;
            let routing = async {
                match self.asks_routers {
                    false => self.router.route(&request, &context).await,
                    true => self.route_to_router(&mut request, &mut context).await,
                }
            };
            let routed = within(queue, routing).await?;
            // A router takes what a worker of its own has taken, and lets it wait until then.
            let dispatch = match self.asks_routers {
                false => dispatch,
                true => queue
                    .zip(dispatch)
                    .map(|(queue, dispatch)| queue + dispatch),
            };
            let call = Call {
                dispatch,
                choice: request.choice,
                start_position: request.generated_ids.len() as u64,
                ..Call::from(context)
            };
            let request = Arc::new(request);
            let policy = routed.policy(&request);
            let outputs = self.generate.call(policy, &request, call).await?;
            Ok(routed.account(outputs).boxed() as EngineStream)
        })
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        Box::pin(async move {
            let mut answer = self
                .embed
                .call(Policy::RoundRobin, &request, context)
                .await?;
            answer.next().await.unwrap_or_else(|| {
                Err(RequestError::new(
                    ErrorCode::WorkerLost,
                    "the worker ended its answer before it gave one; send the request again",
                ))
            })
        })
    }

    /// What the best of the workers can do: requests go to those that can. Without any it is not
    /// known yet.
    fn structured_output(&self) -> StructuredSupport {
        let best = self
            .supports()
            .into_iter()
            .map(|(_, support)| support)
            .max();
        best.unwrap_or(StructuredSupport::Replayed)
    }

    /// Nothing: workers report their own load.
    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    /// At once: workers drain themselves.
    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
