//! A frontend's software, without the HTTP server: it follows the models that workers announce,
//! and takes its clients' requests through the real pipeline.

use super::fault::Host;
use super::plan::RequestPlan;
use super::process::{Failed, STOP_LIMIT, join};
use super::world::World;
use super::{Broken, Ending, MODEL, Violation};
use dynamo_kv_router::config::RouterOptions;
use dynamo_llm::announced_models::Scope;
use dynamo_llm::config::DeliveryOptions;
use dynamo_llm::migration::MigrationMetrics;
use dynamo_llm::model_watch::{ModelWatch, ModelWatchOptions};
use dynamo_llm::postprocess::{ChoiceDelta, Generation};
use dynamo_llm::preprocess::{PreprocessLimits, prepare_chat};
use dynamo_llm::registry::ModelRegistry;
use dynamo_protocols::RequestError;
use dynamo_protocols::deadline::Deadlines;
use dynamo_protocols::engine::{EngineRequest, RequestContext};
use dynamo_protocols::openai::ChatRequest;
use dynamo_protocols::openai::parse::parse;
use dynamo_runtime::telemetry::MetricsRegistry;
use dynamo_runtime::{Environment, Tasks};
use futures_util::StreamExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// How long the parts of a request may take; less than by default, so that a run sees them end.
pub(super) const PARTS: Duration = Duration::from_secs(20);

/// How long the first token may take: narrow engines let requests wait, and those that were lost with
/// a worker wait again (seed 129).
pub(super) const FIRST_TOKEN: Duration = Duration::from_secs(40);

/// How long handing a request over may take, as by default: one call asks three workers, one after
/// the other, and each that is cut off costs three seconds.
pub(super) const DISPATCH: Duration = Duration::from_secs(15);

/// How the names of a frontend's metrics begin.
const METRICS: &str = "simulated";

/// When a frontend with a broken book forgets a booking.
const FORGETS_AT: Duration = Duration::from_secs(4);

/// What a frontend's requests share.
struct Asking {
    world: Arc<World>,
    registry: ModelRegistry,
    environment: Environment,
}

/// Counts what a frontend that ends has told of answers that moved.
pub(super) fn count_moves(world: &World, number: usize) {
    let metrics = world.frontends[number].lock().metrics.take();
    for line in metrics.map_or(String::new(), |it| it.encode()).lines() {
        let moves = line.rsplit(' ').next().and_then(|it| it.parse().ok());
        let what = match line.contains("ongoing_request") {
            true => "answers moved",
            false => "requests moved before their first token",
        };
        if line.starts_with(&format!("{METRICS}_model_migration_total")) {
            world.count(what, moves.unwrap_or(0));
        }
    }
}

/// Serves until the run is over.
pub(super) async fn run(number: usize, world: Arc<World>) -> Result<(), Failed> {
    let host = Host::Frontend(number);
    let orders = world.orders(host);
    let tasks = orders.gate.tasks();
    let runtime = join(host, &orders, &world, &tasks).await?;
    let registry = ModelRegistry::new();
    let metrics = MetricsRegistry::new();
    let migrations = MigrationMetrics::shown_by(&metrics, METRICS)?;
    world.frontends[number].lock().metrics = Some(metrics);
    let options = ModelWatchOptions {
        scope: Scope::All,
        router: RouterOptions {
            router_replica_sync: world.plan.replica_sync,
            ..RouterOptions::default()
        },
        // The model has no files to fetch.
        cache: PathBuf::new(),
        delivery: DeliveryOptions {
            queue_timeout: PARTS,
            dispatch_timeout: DISPATCH,
            first_token_timeout: FIRST_TOKEN,
            inter_token_timeout: PARTS,
            ..DeliveryOptions::default()
        },
        migrations,
    };
    let watch = ModelWatch::new(&runtime, registry.clone(), options, None);
    tasks.spawn_until_cancelled("model watch", watch.run());
    world.frontends[number].lock().registry = Some(registry.clone());
    let asking = Arc::new(Asking {
        environment: runtime.environment().clone(),
        world: Arc::clone(&world),
        registry,
    });
    asking.begin(number, &tasks);
    tokio::select! {
        biased;
        () = orders.stop.cancelled() => {}
        () = tasks.cancellation().cancelled() => {
            world.violated(world.now(), Violation::Panicked { host });
        }
    }
    world.frontends[number].lock().registry = None;
    drop(asking);
    if world.broken == Broken::NeverStop {
        tasks.spawn("stubborn", std::future::pending());
    }
    if timeout(STOP_LIMIT, tasks.stop()).await.is_err() {
        world.violated(world.now(), Violation::NotStopped { host });
    }
    Ok(())
}

impl Asking {
    /// Starts a task for each request that is still to come.
    fn begin(self: &Arc<Self>, frontend: usize, tasks: &Tasks) {
        let world = &self.world;
        let now = world.now();
        let own = |(_, request): &(usize, &RequestPlan)| request.frontend == frontend;
        for (index, request) in world.plan.requests.iter().enumerate().filter(own) {
            if world.requests.lock()[index].begun.is_some() {
                continue;
            }
            if request.at < now {
                world.requests.lock()[index].begun = Some(request.at);
                world.ended(index, now, Ending::Refused);
                continue;
            }
            let asking = Arc::clone(self);
            tasks.spawn_until_cancelled("simulated request", async move {
                let world = &asking.world;
                let at = world.plan.requests[index].at;
                sleep(at.saturating_sub(world.now())).await;
                let ending = Box::pin(asking.ask(index)).await;
                world.ended(index, world.now(), ending);
            });
        }
        if world.broken == Broken::ForgetBooking {
            let asking = Arc::clone(self);
            tasks.spawn_until_cancelled("forgetful", async move { asking.forget().await });
        }
    }

    /// Makes a request at its time, and reads its answer.
    async fn ask(&self, index: usize) -> Ending {
        let request = &self.world.plan.requests[index];
        let now = self.world.now();
        {
            let state = &mut self.world.requests.lock()[index];
            state.begun = Some(now);
            state.heard = now;
        }
        let answered = self.answer(index, request);
        match request.patience {
            None => answered.await,
            Some(patience) => timeout(patience, answered)
                .await
                .unwrap_or(Ending::OutOfTime),
        }
    }

    async fn answer(&self, index: usize, request: &RequestPlan) -> Ending {
        let mut generation = match self.start(request).await {
            Ok(generation) => generation,
            Err(error) => return Ending::Failed(error.code),
        };
        let mut finished = 0;
        loop {
            let given: usize = self.world.requests.lock()[index].given.iter().sum();
            if request.gives_up_after.is_some_and(|after| given >= after) {
                return Ending::GivenUp;
            }
            match generation.next().await {
                None if finished == request.choices => return Ending::Complete,
                None => return Ending::CutShort,
                Some(Err(error)) => return Ending::Failed(error.code),
                Some(Ok(delta)) => {
                    finished += usize::from(delta.finish.is_some());
                    self.take(index, request, &delta);
                }
            }
        }
    }

    async fn start(&self, request: &RequestPlan) -> Result<Generation, RequestError> {
        let body = serde_json::json!({
            "model": MODEL,
            "messages": [{"role": "user", "content": request.prompt}],
            "max_tokens": request.tokens,
            "n": request.choices,
            "seed": request.seed,
            "stream": true,
        });
        let chat: ChatRequest = parse(body.to_string().as_bytes())?;
        let served = self.registry.find(&chat.model)?;
        let limits = PreprocessLimits::default();
        let prepared = prepare_chat(chat, served, limits, &self.environment).await?;
        let context = RequestContext {
            request_id: request.id.as_str().into(),
            deadlines: Deadlines {
                first_token: request.first_token,
                ..Deadlines::default()
            },
            ..RequestContext::default()
        };
        Generation::start(prepared, context).await
    }

    /// Judges what came: each position once, in order, with the token of the undisturbed draw.
    fn take(&self, index: usize, request: &RequestPlan, delta: &ChoiceDelta) {
        let world = &self.world;
        let now = world.now();
        let choice = delta.index;
        let host = Host::Frontend(request.frontend).to_string();
        let mut wrong = None;
        let given = {
            let state = &mut world.requests.lock()[index];
            state.heard = now;
            let given = &mut state.given[choice as usize];
            for byte in delta.text.bytes() {
                let is_right = *given < request.tokens && byte == request.expected(choice, *given);
                if !is_right && wrong.is_none() {
                    wrong = Some(*given);
                }
                *given += 1;
            }
            *given
        };
        let trace = &world.trace;
        trace.record(&host, format_args!("{} {choice}: {given}", request.id));
        let id = || request.id.clone();
        if let Some(position) = wrong {
            let violation = Violation::WrongToken {
                id: id(),
                choice,
                position,
            };
            world.violated(now, violation);
        }
        if delta.finish.is_some() && (delta.finish != Some("length") || given != request.tokens) {
            let violation = Violation::WrongEnd {
                id: id(),
                choice,
                given,
            };
            world.violated(now, violation);
        }
    }

    /// Books a worker for a request that never is, and forgets it.
    async fn forget(&self) {
        sleep(FORGETS_AT.saturating_sub(self.world.now())).await;
        let Ok(model) = self.registry.find(MODEL) else {
            return;
        };
        if let Some(router) = &model.router {
            let request = EngineRequest {
                prompt_ids: vec![1; 64].into(),
                ..EngineRequest::default()
            };
            let routed = router.route(&request, &RequestContext::default()).await;
            std::mem::forget(routed);
        }
    }
}
