//! A worker whose engine breaks in the ways that engines do, watched in virtual time.

use super::super::{Offer, Worker, WorkerTelemetry};
use super::*;
use dynamo_protocols::engine::{EngineOutput, FinishReason};
use dynamo_routing::news::NewsOptions;
use dynamo_runtime::Environment;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::discovery::{DiscoveryWatch, EndpointId, View};
use dynamo_runtime::request_plane::{TcpPlane, TcpPlaneOptions};
use dynamo_runtime::telemetry::{MetricsRegistry, OwnLabels, Sampler};
use futures_util::stream;

/// How an engine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Well,
    /// It takes requests and says nothing.
    Silent,
    /// It gives a token, and then no more.
    StopsShort,
    /// It ends answers without their end.
    BreaksOff,
    Fails,
}

#[derive(Debug)]
struct Fickle {
    mood: Mutex<Mood>,
    asked: AtomicUsize,
}

fn token(finish_reason: Option<FinishReason>) -> Result<EngineOutput, RequestError> {
    Ok(EngineOutput {
        token_ids: vec![7],
        finish_reason,
        ..EngineOutput::default()
    })
}

impl Engine for Fickle {
    fn generate(
        &self,
        _: EngineRequest,
        _: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let first = stream::iter([token(None)]);
        let outputs: EngineStream = match *self.mood.lock() {
            Mood::Well => first
                .chain(stream::iter([token(Some(FinishReason::Length))]))
                .boxed(),
            Mood::Silent => stream::pending().boxed(),
            Mood::StopsShort => first.chain(stream::pending()).boxed(),
            Mood::BreaksOff => first.boxed(),
            Mood::Fails => {
                let failure = RequestError::new(ErrorCode::EngineFailed, "failed by a test");
                return Box::pin(std::future::ready(Err(failure)));
            }
        };
        Box::pin(std::future::ready(Ok(outputs)))
    }

    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    fn canary(&self) -> Option<EngineRequest> {
        serde_json::from_value(serde_json::json!({"model": "canary", "prompt_ids": [1]})).ok()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

/// A worker, and what others see of it.
struct Scene {
    engine: Arc<Fickle>,
    runtime: DistributedRuntime,
    worker: Worker,
    watch: DiscoveryWatch,
    view: View,
}

fn endpoint() -> EndpointId {
    EndpointId::new("ns", "comp", "generate").unwrap()
}

impl Scene {
    async fn start(options: CanaryOptions) -> Self {
        let (tasks, environment) = (Tasks::root(), Environment::system());
        let registry = MemRegistry::default();
        let plane_options = TcpPlaneOptions::default();
        let plane = TcpPlane::bind(environment.clone(), tasks.child(), &plane_options).await;
        let runtime = DistributedRuntime::new(
            environment,
            tasks,
            Arc::new(registry.join()),
            Arc::new(plane.unwrap()),
        );
        let watch = runtime.discovery().watch();
        let engine = Arc::new(Fickle {
            mood: Mutex::new(Mood::Well),
            asked: AtomicUsize::new(0),
        });
        let offer = Offer {
            name: "fickle".to_owned(),
            card: serde_json::Value::Null,
            artefacts: Vec::new(),
            embeds: false,
            ..Offer::default()
        };
        let telemetry = WorkerTelemetry {
            metrics: MetricsRegistry::new(),
            sampler: Sampler::NEVER,
            news: NewsOptions::default(),
            canary: options,
            labels: OwnLabels::default(),
        };
        let own = Arc::clone(&engine) as Arc<dyn Engine>;
        let endpoint = endpoint();
        let worker = Worker::start(&runtime, &endpoint, own, offer, &telemetry);
        Self {
            engine,
            worker: worker.await.unwrap(),
            runtime,
            watch,
            view: View::default(),
        }
    }

    /// Waits until others see the instance and its card, or neither.
    async fn until_seen(&mut self, seen: bool) {
        let endpoint = endpoint();
        let is_seen = |view: &View| {
            let instance = view.instances(&endpoint).next().is_some();
            let card = view.processes().values().any(|it| !it.cards.is_empty());
            assert_eq!(instance, card, "who sees a card can use it");
            instance
        };
        let bound = Duration::from_secs(600);
        timeout(bound, async {
            while is_seen(&self.view) != seen || self.view.processes().is_empty() {
                assert!(self.watch.update(&mut self.view).await);
            }
        })
        .await
        .expect("it is noticed");
        let name = endpoint.to_string();
        let status = self.runtime.health().report().endpoints[&name];
        assert_eq!(
            status == dynamo_runtime::status::EndpointStatus::Ready,
            seen
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_engine_breaks_takes_no_requests_until_it_is_mended() {
    let mut scene = Scene::start(CanaryOptions::default()).await;
    for mood in [Mood::Silent, Mood::StopsShort, Mood::BreaksOff, Mood::Fails] {
        scene.until_seen(true).await;
        *scene.engine.mood.lock() = mood;
        let broke = Instant::now();
        scene.until_seen(false).await;
        let options = CanaryOptions::default();
        let most = options.canary_wait + 4 * options.health_check_request_timeout;
        assert!(
            broke.elapsed() < most,
            "{mood:?} after {:?}",
            broke.elapsed()
        );
        *scene.engine.mood.lock() = Mood::Well;
        scene.until_seen(true).await;
    }
    scene.worker.drain().await;
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_stands_still_gives_back_what_it_has() {
    let unwatched = CanaryOptions {
        health_check_enabled: false,
        ..CanaryOptions::default()
    };
    let mut scene = Scene::start(unwatched).await;
    scene.until_seen(true).await;
    let watched = Watched::new(Arc::clone(&scene.engine) as Arc<dyn Engine>);
    let (announced, tasks) = (scene.worker.served[0].announced(), Tasks::root());
    watched.watch(announced, &CanaryOptions::default(), &tasks);
    *scene.engine.mood.lock() = Mood::StopsShort;
    let ask = async || {
        let request = scene.engine.canary().unwrap();
        watched.generate(request, RequestContext::default()).await
    };
    let mut answer = ask().await.unwrap();
    answer.next().await.unwrap().unwrap();
    let begun = Instant::now();
    let error = answer.next().await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::WorkerUnreachable);
    assert!(begun.elapsed() >= CanaryOptions::default().engine_stall_timeout);
    // What comes all the same is refused in a way that callers go on elsewhere.
    let refused = ask().await.err().unwrap();
    assert_eq!(refused.code, ErrorCode::WorkerUnreachable);
    *scene.engine.mood.lock() = Mood::Well;
    while ask().await.is_err() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_who_is_not_to_be() {
    let scene = Scene::start(CanaryOptions {
        health_check_enabled: false,
        ..CanaryOptions::default()
    });
    let scene = scene.await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(scene.engine.asked.load(Ordering::Relaxed), 0);
}
