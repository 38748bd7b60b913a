//! Tests of answers that move: each token once, whatever fails when.

use super::*;
use dynamo_protocols::engine::{FinishReason, StopConditions};
use dynamo_protocols::structured::{Constraint, StructuredOutput};
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::time::Duration;

/// What one attempt does: refuses, or gives so many tokens and then breaks off, stands still or
/// goes on to its end.
#[derive(Debug, Clone)]
enum Script {
    Refuse(ErrorCode),
    Break(usize, ErrorCode),
    /// The stream ends without a word.
    Vanish(usize),
    Stall(usize),
    Finish,
}

/// An engine whose n-th token is n, like any that draws by position, and whose attempts follow a
/// script.
#[derive(Debug)]
struct Scripted {
    scripts: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<Asked>>,
    structured: StructuredSupport,
}

/// An attempt's number, what it began with and whom it avoided.
type Asked = (u32, Vec<u32>, Option<Vec<u64>>);

impl Scripted {
    fn new(scripts: &[Script]) -> Arc<Self> {
        Arc::new(Self {
            scripts: Mutex::new(scripts.iter().cloned().collect()),
            asked: Mutex::default(),
            structured: StructuredSupport::Replayed,
        })
    }
}

impl Engine for Scripted {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let script = self.scripts.lock().pop_front().unwrap_or(Script::Finish);
        let avoid = context.avoid.map(|it| it.to_vec());
        let mut asked = self.asked.lock();
        asked.push((context.attempt, request.generated_ids.clone(), avoid));
        if let Some(slip) = context.route {
            slip.write(dynamo_protocols::routing::Routed {
                instance: asked.len() as u64,
                ..Default::default()
            });
        }
        let begun = request.generated_ids.len() as u32;
        let all = request.stop.max_tokens;
        let is_text = request.text.is_some();
        let output = move |token: u32| {
            Ok(EngineOutput {
                token_ids: (!is_text).then_some(token).into_iter().collect(),
                chunk: is_text.then(|| token.to_string().into()),
                finish_reason: (token + 1 == all).then_some(FinishReason::Length),
                cached_tokens: (token == begun).then_some(7),
                ..EngineOutput::default()
            })
        };
        let some = |count: usize| stream::iter((begun..all).take(count)).map(output);
        let failure = |code| stream::iter([Err(RequestError::new(code, "scripted"))]);
        let answer: Result<EngineStream, _> = match script {
            Script::Refuse(code) => Err(RequestError::new(code, "scripted")),
            Script::Break(count, code) => Ok(some(count).chain(failure(code)).boxed()),
            Script::Vanish(count) => Ok(some(count).boxed()),
            Script::Stall(count) => Ok(some(count).chain(stream::pending()).boxed()),
            Script::Finish => Ok(some(usize::MAX).boxed()),
        };
        Box::pin(std::future::ready(answer))
    }

    fn structured_output(&self) -> StructuredSupport {
        self.structured
    }

    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn migrating(engine: &Arc<Scripted>, change: impl FnOnce(&mut MigrationSetup)) -> Migrating {
    let mut setup = MigrationSetup {
        options: DeliveryOptions::default(),
        has_workers: true,
        can_continue: true,
        model: "m".into(),
        gone: CancellationToken::new(),
        metrics: MigrationMetrics::new("dynamo_frontend").unwrap(),
        environment: Environment::system(),
    };
    change(&mut setup);
    Migrating::new(Arc::clone(engine) as Arc<dyn Engine>, setup)
}

fn request(tokens: u32) -> EngineRequest {
    EngineRequest {
        prompt_ids: Arc::from([1, 2, 3]),
        stop: StopConditions {
            max_tokens: tokens,
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    }
}

/// The tokens of an answer, the cached tokens that it told of, and its error.
async fn read(
    engine: &Migrating,
    request: EngineRequest,
    context: RequestContext,
) -> (Vec<u32>, u32, Option<ErrorCode>) {
    let (mut tokens, mut cached) = (Vec::new(), 0);
    let mut answer = match engine.generate(request, context).await {
        Ok(answer) => answer,
        Err(error) => return (tokens, cached, Some(error.code)),
    };
    while let Some(output) = answer.next().await {
        match output {
            Ok(output) => {
                tokens.extend(output.token_ids);
                tokens.extend(output.chunk.and_then(|it| it.parse::<u32>().ok()));
                cached += output.cached_tokens.unwrap_or(0);
            }
            Err(error) => return (tokens, cached, Some(error.code)),
        }
    }
    (tokens, cached, None)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(work)
}

#[test]
fn an_answer_goes_on_where_another_worker_broke_off() {
    let engine = Scripted::new(&[
        Script::Break(3, ErrorCode::WorkerLost),
        Script::Refuse(ErrorCode::Draining),
        Script::Vanish(2),
    ]);
    let answer = block_on(read(
        &migrating(&engine, |_| {}),
        request(10),
        RequestContext::default(),
    ));
    assert_eq!(answer, ((0..10).collect(), 7, None));
    let asked = engine.asked.lock();
    let begun: Vec<&[u32]> = asked.iter().map(|it| &*it.1).collect();
    assert_eq!(begun, [&[][..], &[0, 1, 2], &[0, 1, 2], &[0, 1, 2, 3, 4]]);
    let avoided: Vec<_> = asked.iter().map(|it| it.2.clone()).collect();
    assert_eq!(avoided, [None, Some(vec![1]), Some(vec![2]), Some(vec![3])]);
    assert!(
        asked
            .windows(2)
            .all(|it| it[1].0 >= it[0].0 + MAX_TRIES as u32)
    );
}

#[test]
fn what_the_client_did_wrong_is_told_at_once() {
    let engine = Scripted::new(&[Script::Refuse(ErrorCode::InvalidRequest)]);
    let answer = block_on(read(
        &migrating(&engine, |_| {}),
        request(10),
        RequestContext::default(),
    ));
    assert_eq!(answer, (vec![], 0, Some(ErrorCode::InvalidRequest)));
    assert_eq!(engine.asked.lock().len(), 1);
}

#[test]
fn text_is_asked_for_again_until_there_is_some_and_is_never_continued() {
    let engine = Scripted::new(&[
        Script::Break(0, ErrorCode::WorkerLost),
        Script::Break(2, ErrorCode::WorkerLost),
    ]);
    let text = dynamo_protocols::engine::TextRequest {
        api: dynamo_protocols::openai::stream::Api::Chat,
        body: "{}".into(),
    };
    let request = EngineRequest {
        text: Some(Arc::new(text)),
        ..request(10)
    };
    let engine_of_all = migrating(&engine, |_| {});
    let answer = block_on(read(&engine_of_all, request, RequestContext::default()));
    assert_eq!(answer, (vec![0, 1], 7, Some(ErrorCode::WorkerLost)));
    assert_eq!(engine.asked.lock().len(), 2);
}

#[test]
fn a_request_that_names_its_worker_does_not_move() {
    let engine = Scripted::new(&[Script::Break(2, ErrorCode::WorkerLost)]);
    let hints = dynamo_protocols::routing::RouteHints {
        instance: Some(1),
        ..Default::default()
    };
    let context = RequestContext {
        route: Some(Arc::new(RouteSlip::new(hints))),
        ..RequestContext::default()
    };
    let answer = block_on(read(&migrating(&engine, |_| {}), request(10), context));
    assert_eq!(answer, (vec![0, 1], 7, Some(ErrorCode::WorkerLost)));
}

#[test]
fn an_engine_that_cannot_continue_is_asked_again_until_it_has_begun() {
    let engine = Scripted::new(&[
        Script::Break(0, ErrorCode::WorkerLost),
        Script::Break(2, ErrorCode::WorkerLost),
    ]);
    let migrating = migrating(&engine, |setup| setup.can_continue = false);
    let answer = block_on(read(&migrating, request(10), RequestContext::default()));
    assert_eq!(answer, (vec![0, 1], 7, Some(ErrorCode::WorkerLost)));
    assert_eq!(engine.asked.lock().len(), 2);
}

#[test]
fn structured_output_moves_only_to_where_its_constraint_is_replayed() {
    let structured = StructuredOutput {
        field: "guided_regex".into(),
        constraint: Constraint::Regex("a*".into()),
        whitespace: None,
    };
    let structured = Arc::new(structured);
    for (support, expected) in [
        (StructuredSupport::Replayed, None),
        (StructuredSupport::FromStart, Some(ErrorCode::WorkerLost)),
    ] {
        let mut engine = Scripted::new(&[
            Script::Break(0, ErrorCode::WorkerLost),
            Script::Break(2, ErrorCode::WorkerLost),
        ]);
        Arc::get_mut(&mut engine).unwrap().structured = support;
        let migrating = migrating(&engine, |_| {});
        assert_eq!(migrating.structured_output(), support);
        let mut request = request(10);
        request.sampling.structured = Some(Arc::clone(&structured));
        let answer = block_on(read(&migrating, request, RequestContext::default()));
        assert_eq!(answer.2, expected, "{support:?}");
        let attempts = 2 + usize::from(support == StructuredSupport::Replayed);
        assert_eq!(engine.asked.lock().len(), attempts);
    }
}

#[test]
fn answers_that_are_too_long_do_not_move() {
    let engine = Scripted::new(&[Script::Break(8, ErrorCode::WorkerLost)]);
    let migrating = migrating(&engine, |setup| {
        setup.options.migration_max_seq_len = Some(10);
    });
    let answer = block_on(read(&migrating, request(20), RequestContext::default()));
    assert_eq!(answer.2, Some(ErrorCode::WorkerLost));
    assert_eq!(migrating.setup.metrics.too_long.get(), 1);
    // One that would not have moved anyway was not kept from it.
    engine
        .scripts
        .lock()
        .push_back(Script::Break(8, ErrorCode::InvalidRequest));
    let answer = block_on(read(&migrating, request(20), RequestContext::default()));
    assert_eq!(answer.2, Some(ErrorCode::InvalidRequest));
    assert_eq!(migrating.setup.metrics.too_long.get(), 1);
}

#[test]
fn an_answer_that_stands_still_ends_with_the_code_of_what_was_late() {
    for (script, code) in [
        (Script::Stall(0), ErrorCode::FirstTokenTimeout),
        (Script::Stall(3), ErrorCode::InterTokenTimeout),
    ] {
        let engine = Scripted::new(&[script]);
        let answer = block_on(read(
            &migrating(&engine, |_| {}),
            request(10),
            RequestContext::default(),
        ));
        assert_eq!(answer.2, Some(code));
    }
}

#[test]
fn a_slow_reader_is_not_a_slow_worker() {
    let engine = Scripted::new(&[]);
    let migrating = migrating(&engine, |_| {});
    block_on(async {
        let answer = migrating.generate(request(5), RequestContext::default());
        let mut answer = answer.await.unwrap();
        let mut tokens = 0;
        while let Some(output) = answer.next().await {
            tokens += output.unwrap().token_ids.len();
            sleep(Duration::from_secs(600)).await;
        }
        assert_eq!(tokens, 5);
    });
}

#[test]
fn without_workers_a_request_waits_for_its_queue_deadline() {
    let engine = Scripted::new(&vec![Script::Refuse(ErrorCode::ModelNotReady); 1_000]);
    let migrating = migrating(&engine, |_| {});
    let context = RequestContext {
        deadlines: dynamo_protocols::deadline::Deadlines {
            queue: Some(Duration::from_secs(3)),
            ..Default::default()
        },
        ..RequestContext::default()
    };
    block_on(async {
        let began = Instant::now();
        let answer = read(&migrating, request(10), context).await;
        assert_eq!(answer.2, Some(ErrorCode::ModelNotReady));
        let waited = began.elapsed();
        assert!((3..5).contains(&waited.as_secs()), "{waited:?}");
    });
}

#[test]
fn requests_do_not_wait_for_a_model_that_is_gone() {
    let engine = Scripted::new(&vec![Script::Refuse(ErrorCode::ModelNotReady); 9]);
    let migrating = migrating(&engine, |setup| setup.gone.cancel());
    let answer = block_on(read(&migrating, request(10), RequestContext::default()));
    assert_eq!(answer.2, Some(ErrorCode::ModelNotReady));
    assert_eq!(engine.asked.lock().len(), 1);
}

fn script() -> impl Strategy<Value = Script> {
    let code = prop_oneof![
        Just(ErrorCode::WorkerLost),
        Just(ErrorCode::WorkerProtocol),
        Just(ErrorCode::Draining),
        Just(ErrorCode::WorkerUnreachable),
    ];
    prop_oneof![
        code.clone().prop_map(Script::Refuse),
        (1_usize..6, code).prop_map(|(count, code)| Script::Break(count, code)),
        (1_usize..6).prop_map(Script::Vanish),
    ]
}

proptest! {
    #[test]
    fn each_token_is_given_once_whatever_fails(
        scripts in prop::collection::vec(script(), 0..12),
        tokens in 1_u32..60,
    ) {
        let engine = Scripted::new(&scripts);
        let migrating = migrating(&engine, |_| {});
        let (given, cached, error) =
            block_on(read(&migrating, request(tokens), RequestContext::default()));
        prop_assert_eq!(&given, &(0..given.len() as u32).collect::<Vec<_>>());
        match error {
            None => prop_assert_eq!(given.len() as u32, tokens),
            // Refusals in a row of workers that had taken it.
            Some(code) => prop_assert!(code.may_retry_elsewhere()),
        }
        prop_assert!(given.is_empty() || cached == 7);
    }
}
