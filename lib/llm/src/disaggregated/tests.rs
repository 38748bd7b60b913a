//! Tests of prompts that one worker computes and another one answers.

use super::*;
use crate::remote::Prefilling;
use dynamo_protocols::engine::{Bootstrap, BootstrapAddress, FinishReason};
use dynamo_protocols::structured::{Constraint, StructuredOutput};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::json;
use std::time::Duration;

const PREFILL_WORKER: u64 = 7;
const DECODE_WORKER: u64 = 9;

/// What a prefill worker does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Prefills {
    Refuses,
    /// Computes the prompt, then says where its state is.
    Result,
    /// Says first where the state will be, and hears later that it was fetched.
    Early,
    /// Says nothing of it.
    Nothing,
    Vanishes,
    Stalls,
    /// Meets the decode worker.
    Meets,
    /// Meets it and fails.
    MeetsAndFails,
}

/// Both kinds of workers, and what they were asked.
#[derive(Debug)]
struct Cluster {
    prefills: Prefills,
    prompts: Mutex<Vec<(EngineRequest, RouteHints)>>,
    answers: Mutex<Vec<EngineRequest>>,
}

fn params() -> serde_json::Value {
    json!({"kv_transfer_params": {"remote_block_ids": [1, 2]}})
}

fn bootstrap() -> Bootstrap {
    Bootstrap {
        address: BootstrapAddress {
            host: "10.0.0.7".into(),
            port: 8_998,
        },
        room: 5,
    }
}

fn failure() -> RequestError {
    RequestError::new(ErrorCode::EngineFailed, "scripted")
}

impl Prefill for Cluster {
    fn prefill(
        &self,
        request: EngineRequest,
        context: RequestContext,
        _bits: u64,
    ) -> BoxFuture<'_, Result<Prefilling, RequestError>> {
        let slip = context.route.unwrap();
        slip.write(Routed {
            instance: PREFILL_WORKER,
            ..Routed::default()
        });
        self.prompts.lock().push((request, slip.hints.clone()));
        let done = EngineOutput {
            token_ids: vec![100],
            finish_reason: Some(FinishReason::Length),
            cached_tokens: Some(2),
            ..EngineOutput::default()
        };
        let with_params = EngineOutput {
            kv_transfer_params: Some(params()),
            ..done.clone()
        };
        let place = EngineOutput {
            kv_transfer_params: Some(params()),
            ..EngineOutput::default()
        };
        let outputs: EngineStream = match self.prefills {
            Prefills::Refuses => return Box::pin(std::future::ready(Err(failure()))),
            Prefills::Result => stream::iter([Ok(with_params)]).boxed(),
            Prefills::Early => stream::iter([Ok(place), Ok(done)]).boxed(),
            Prefills::Nothing | Prefills::Meets => stream::iter([Ok(done)]).boxed(),
            Prefills::Vanishes => stream::empty().boxed(),
            Prefills::Stalls => stream::pending().boxed(),
            Prefills::MeetsAndFails => stream::iter([Err(failure())]).boxed(),
        };
        let meets = matches!(self.prefills, Prefills::Meets | Prefills::MeetsAndFails);
        Box::pin(std::future::ready(Ok(Prefilling {
            outputs,
            bootstrap: meets.then(bootstrap),
            place: PrefillPlace {
                instance: PREFILL_WORKER,
                dp_rank: 1,
            },
        })))
    }
}

impl Engine for Cluster {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        context.route.unwrap().write(Routed {
            instance: DECODE_WORKER,
            ..Routed::default()
        });
        self.answers.lock().push(request);
        let output = |token: u32| {
            Ok(EngineOutput {
                token_ids: vec![token],
                cached_tokens: (token == 0).then_some(1_000),
                finish_reason: (token == 2).then_some(FinishReason::Length),
                ..EngineOutput::default()
            })
        };
        Box::pin(std::future::ready(Ok(stream::iter(0..3)
            .map(output)
            .boxed())))
    }

    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn cluster(prefills: Prefills) -> Arc<Cluster> {
    Arc::new(Cluster {
        prefills,
        prompts: Mutex::default(),
        answers: Mutex::default(),
    })
}

fn engine(cluster: &Arc<Cluster>, has_prefill: bool, works_alone: bool) -> Disaggregated {
    let prefill = Arc::clone(cluster);
    Disaggregated {
        decode: Arc::clone(cluster) as Arc<dyn Engine>,
        prefill: Arc::new(move || has_prefill.then(|| Arc::clone(&prefill) as Arc<dyn Prefill>)),
        works_alone,
        environment: Environment::system(),
    }
}

fn request() -> EngineRequest {
    EngineRequest {
        prompt_ids: Arc::from([1, 2, 3]),
        stop: StopConditions {
            max_tokens: 64,
            min_tokens: 3,
            stop_ids: vec![5],
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }
}

fn context() -> (RequestContext, Arc<RouteSlip>) {
    let slip = Arc::new(RouteSlip::default());
    let context = RequestContext {
        route: Some(Arc::clone(&slip)),
        ..RequestContext::default()
    };
    (context, slip)
}

/// The tokens, the cached tokens that were told, and the error.
async fn read(stream: EngineStream) -> (Vec<u32>, Vec<u32>, Option<ErrorCode>) {
    let outputs: Vec<_> = stream.collect().await;
    let error = outputs.iter().find_map(|it| it.as_ref().err());
    let error = error.map(|error| error.code);
    let given: Vec<_> = outputs.into_iter().flatten().collect();
    let tokens = given.iter().flat_map(|it| it.token_ids.clone()).collect();
    let cached = given.iter().filter_map(|it| it.cached_tokens).collect();
    (tokens, cached, error)
}

#[tokio::test]
async fn a_decode_worker_is_asked_with_what_the_prefill_worker_gave() {
    for prefills in [Prefills::Result, Prefills::Early] {
        let cluster = cluster(prefills);
        let (context, slip) = context();
        let engine = engine(&cluster, true, false);
        let answer = engine.generate(request(), context);
        let (tokens, cached, error) = read(answer.await.unwrap()).await;
        // The prefill worker's token is nobody's, and what it found cached is the client's figure.
        assert_eq!(
            (tokens, cached, error),
            (vec![0, 1, 2], vec![2], None),
            "{prefills:?}"
        );
        let asked = cluster.answers.lock();
        assert_eq!(asked[0].kv_transfer_params, Some(params()));
        assert_eq!(asked[0].stop, request().stop);
        let routed = slip.routed().unwrap();
        assert_eq!(routed.instance, DECODE_WORKER);
        assert_eq!(routed.prefill.unwrap().instance, PREFILL_WORKER);
    }
}

#[tokio::test]
async fn a_prefill_worker_is_asked_for_one_token_of_the_prompt_and_what_was_generated() {
    let cluster = cluster(Prefills::Result);
    let slip = RouteSlip::new(RouteHints {
        instance: Some(DECODE_WORKER),
        prefill_instance: Some(PREFILL_WORKER),
        session: Some("s".into()),
        explain: true,
        ..RouteHints::default()
    });
    let context = RequestContext {
        route: Some(Arc::new(slip)),
        ..RequestContext::default()
    };
    let mut request = request();
    request.generated_ids = vec![8, 9];
    request.logprobs = Some(3);
    request.dp_rank = Some(4);
    request.sampling.structured = Some(Arc::new(StructuredOutput {
        constraint: Constraint::JsonObject,
        whitespace: None,
        field: "response_format".into(),
    }));
    let engine = engine(&cluster, true, false);
    drop(engine.generate(request.clone(), context).await.unwrap());
    let prompts = cluster.prompts.lock();
    let (prompt, hints) = &prompts[0];
    assert_eq!(prompt.stop.max_tokens, 3);
    assert_eq!(
        (prompt.stop.min_tokens, &*prompt.stop.stop_ids),
        (0, &[][..])
    );
    assert_eq!(prompt.generated_ids, [8, 9]);
    assert!(prompt.logprobs.is_none() && prompt.sampling.structured.is_none());
    assert_eq!(prompt.dp_rank, None);
    let expected = RouteHints {
        instance: Some(PREFILL_WORKER),
        session: Some("s".into()),
        ..RouteHints::default()
    };
    assert_eq!(*hints, expected);
    let expected = EngineRequest {
        kv_transfer_params: Some(params()),
        ..request
    };
    assert_eq!(cluster.answers.lock()[0], expected);
}

#[tokio::test]
async fn workers_that_meet_are_asked_at_once() {
    let cluster = cluster(Prefills::Meets);
    let (context, _) = context();
    let engine = engine(&cluster, true, false);
    let answer = engine.generate(request(), context);
    let (tokens, cached, error) = read(answer.await.unwrap()).await;
    assert_eq!((tokens, cached, error), (vec![0, 1, 2], vec![2], None));
    let asked = cluster.answers.lock();
    assert_eq!(asked[0].bootstrap.as_deref(), Some(&bootstrap()));
    assert_eq!(asked[0].kv_transfer_params, None);
}

#[tokio::test]
async fn a_prefill_worker_that_fails_is_named_as_the_one_to_avoid() {
    for (prefills, code) in [
        (Prefills::Refuses, ErrorCode::EngineFailed),
        (Prefills::Vanishes, ErrorCode::WorkerLost),
        (Prefills::Nothing, ErrorCode::Internal),
    ] {
        let cluster = cluster(prefills);
        let (context, slip) = context();
        let engine = engine(&cluster, true, true);
        let answer = engine.generate(request(), context);
        let error = answer.await.err().unwrap();
        assert_eq!(error.code, code, "{prefills:?}");
        assert_eq!(slip.routed().unwrap().instance, PREFILL_WORKER);
        assert!(cluster.answers.lock().is_empty());
    }
}

#[tokio::test]
async fn a_prefill_worker_that_fails_before_the_answer_has_begun_ends_it() {
    let cluster = cluster(Prefills::MeetsAndFails);
    let (context, slip) = context();
    let engine = engine(&cluster, true, false);
    let answer = engine.generate(request(), context);
    let mut answer = answer.await.unwrap();
    let error = answer.next().await.unwrap().unwrap_err();
    assert_eq!(error.code, ErrorCode::EngineFailed);
    assert_eq!(slip.routed().unwrap().instance, PREFILL_WORKER);
}

#[tokio::test(start_paused = true)]
async fn a_prompt_that_is_never_computed_fails_in_time() {
    let cluster = cluster(Prefills::Stalls);
    let (mut context, _) = context();
    context.deadlines.first_token = Some(Duration::from_secs(5));
    let engine = engine(&cluster, true, false);
    let answer = engine.generate(request(), context);
    let error = answer.await.err().unwrap();
    assert_eq!(error.code, ErrorCode::FirstTokenTimeout);
}

#[tokio::test]
async fn without_prefill_workers_decode_workers_answer_if_they_can() {
    let cluster = cluster(Prefills::Result);
    let (context, _) = context();
    let sociable = engine(&cluster, false, true);
    let alone = sociable.generate(request(), context.clone());
    assert_eq!(read(alone.await.unwrap()).await.0, [0, 1, 2]);
    assert_eq!(cluster.answers.lock()[0], request());
    let dependent = engine(&cluster, false, false);
    let never = dependent.generate(request(), context);
    let error = never.await.err().unwrap();
    assert_eq!(error.code, ErrorCode::ModelNotReady);
    assert!(error.message.contains("--disaggregation-mode prefill"));
}

#[tokio::test]
async fn a_request_that_brings_its_state_along_goes_to_a_decode_worker() {
    let cluster = cluster(Prefills::Result);
    let mut request = request();
    request.kv_transfer_params = Some(params());
    let (context, _) = context();
    let engine = engine(&cluster, true, false);
    read(engine.generate(request, context).await.unwrap()).await;
    assert!(cluster.prompts.lock().is_empty());
    assert_eq!(cluster.answers.lock().len(), 1);
}
