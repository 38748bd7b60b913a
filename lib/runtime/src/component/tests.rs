//! The object model over an in-process plane, where refusals and lost processes can be arranged.

use super::client::Call;
use super::selection::CIRCUIT_FAILURES;
use super::typed::HandlerStream;
use super::{Chooser, Chosen, ClientError, DistributedRuntime, Endpoint, Policy};
use crate::discovery::mem::MemRegistry;
use crate::discovery::{EndpointId, InstanceId, Metadata};
use crate::request_plane::{
    Handlers, IncomingRequest, ItemStream, ReceiveItems, ReceivedRawItem, RequestHeader,
    RequestPlane, ResponseStream,
};
use crate::{Environment, Tasks};
use bytes::Bytes;
use dynamo_protocols::engine::RequestContext;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Every process of a test, by address.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<String, Handlers>>>);

/// Calls other processes' handlers directly.
struct LocalPlane {
    net: Net,
    address: String,
    handlers: Handlers,
}

impl fmt::Debug for LocalPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl RequestPlane for LocalPlane {
    fn handlers(&self) -> &Handlers {
        &self.handlers
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn versions(&self) -> RangeInclusive<u16> {
        1..=1
    }

    fn call<'a>(
        &'a self,
        address: &'a str,
        header: RequestHeader,
        body: Bytes,
    ) -> BoxFuture<'a, Result<ResponseStream, RequestError>> {
        let called = self.net.0.lock().get(address).cloned();
        Box::pin(async move {
            let called = called.ok_or_else(|| {
                RequestError::new(ErrorCode::WorkerUnreachable, "cut off by a test")
            })?;
            let position = header.start_position;
            let request = IncomingRequest { header, body };
            let items = called
                .dispatch(request)
                .await
                .unwrap_or_else(|refusal| Box::pin(stream::iter([Err(refusal)])));
            Ok(ResponseStream::new(
                Box::new(Numbered { items, position }),
                position,
            ))
        })
    }
}

/// Numbers the items of a handler.
struct Numbered {
    items: ItemStream,
    position: u64,
}

impl ReceiveItems for Numbered {
    fn poll_item(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<ReceivedRawItem, RequestError>>> {
        let item = ready!(self.items.poll_next_unpin(context));
        Poll::Ready(item.map(|item| {
            let item = item?;
            let position = self.position;
            self.position += u64::from(item.positions);
            Ok(ReceivedRawItem {
                position,
                positions: item.positions,
                payload: item.payload,
            })
        }))
    }
}

/// Processes that share discovery and network.
#[derive(Default)]
struct Cluster {
    registry: MemRegistry,
    net: Net,
    started: u32,
}

impl Cluster {
    fn new() -> Self {
        Self {
            registry: MemRegistry::new(),
            ..Self::default()
        }
    }

    /// Starts a process and gives back its endpoint `ns.comp.ep`.
    fn start(&mut self) -> (Endpoint, String) {
        self.started += 1;
        let address = format!("local://{}", self.started);
        let handlers = Handlers::new();
        self.net.0.lock().insert(address.clone(), handlers.clone());
        let discovery = self.registry.join();
        let plane = LocalPlane {
            net: self.net.clone(),
            address: address.clone(),
            handlers,
        };
        let runtime = DistributedRuntime::new(
            Environment::system(),
            Tasks::root(),
            Arc::new(discovery),
            Arc::new(plane),
        );
        let component = runtime.namespace("ns").unwrap().component("comp").unwrap();
        (component.endpoint("ep").unwrap(), address)
    }

    /// Takes a process off the network, while discovery still shows it.
    fn cut(&self, address: &str) -> Handlers {
        self.net.0.lock().remove(address).unwrap()
    }

    /// Brings it back.
    fn mend(&self, address: &str, handlers: Handlers) {
        self.net.0.lock().insert(address.to_owned(), handlers);
    }
}

type Answer = BoxFuture<'static, Result<HandlerStream<String>, RequestError>>;

/// Answers with its name, the request and the attempt.
fn answer(name: &'static str) -> impl Fn(String, RequestHeader) -> Answer + Send + Sync + 'static {
    answer_unless_full(name, Arc::default())
}

fn answer_unless_full(
    name: &'static str,
    full: Arc<AtomicBool>,
) -> impl Fn(String, RequestHeader) -> Answer + Send + Sync + 'static {
    move |request, header| {
        if full.load(Ordering::SeqCst) {
            let refusal = RequestError::new(ErrorCode::NoCapacity, "full by a test");
            return std::future::ready(Err(refusal)).boxed();
        }
        let items = [name.to_owned(), request, header.attempt.to_string()].map(Ok);
        let items: HandlerStream<String> = Box::pin(stream::iter(items));
        std::future::ready(Ok(items)).boxed()
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

type TestClient = super::TypedClient<String, String>;

/// A client that knows `count` instances.
async fn client_of(endpoint: &Endpoint, count: usize) -> TestClient {
    let client: TestClient = endpoint.typed_client();
    let mut instances = client.untyped().watch_instances();
    let enough = instances.wait_for(|all| all.as_ref().is_some_and(|all| all.len() == count));
    enough.await.unwrap();
    client
}

/// The name of the instance that answers the next call, and the attempt it took.
async fn who(client: &TestClient) -> (String, String) {
    let stream = client
        .round_robin(&"hello".to_owned(), RequestContext::default())
        .await
        .unwrap();
    let mut stream = stream;
    let items: Vec<String> = stream.by_ref().map(Result::unwrap).collect().await;
    assert_eq!(items[1], "hello");
    assert_eq!(items[2], stream.attempt().to_string());
    (items[0].clone(), items[2].clone())
}

#[tokio::test]
async fn calls_reach_the_instances_in_turn_and_the_one_asked_for() {
    let mut cluster = Cluster::new();
    let (a, b, caller) = (cluster.start().0, cluster.start().0, cluster.start().0);
    let served_a = a.serve(answer("a"), Metadata::new()).await.unwrap();
    let served_b = b.serve(answer("b"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 2).await;
    let ids = client.untyped().instance_ids();
    assert_eq!(ids, [served_a.instance(), served_b.instance()]);
    let turns = [
        who(&client).await.0,
        who(&client).await.0,
        who(&client).await.0,
    ];
    assert_eq!(turns, ["a", "b", "a"]);
    let direct = client
        .direct(ids[1], &String::new(), RequestContext::default())
        .await
        .unwrap();
    assert_eq!(direct.instance(), served_b.instance());
}

#[tokio::test]
async fn endpoints_of_one_process_share_its_record() {
    let mut cluster = Cluster::new();
    let (one, _) = cluster.start();
    let other = EndpointId::new("ns", "comp", "other").unwrap();
    let other = one.runtime().endpoint(other);
    let first = one.serve(answer("one"), Metadata::new()).await.unwrap();
    let second = other.serve(answer("two"), Metadata::new()).await.unwrap();
    assert_eq!(first.instance(), second.instance());
    client_of(&one, 1).await;
    first.drain().await;
    client_of(&one, 0).await;
    client_of(&other, 1).await;
}

#[tokio::test]
async fn an_unreachable_instance_is_left_out_and_the_call_goes_elsewhere() {
    let mut cluster = Cluster::new();
    let ((a, lost), (b, _), (caller, _)) = (cluster.start(), cluster.start(), cluster.start());
    let _served_a = a.serve(answer("a"), Metadata::new()).await.unwrap();
    let _served_b = b.serve(answer("b"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 2).await;
    cluster.cut(&lost);
    // The first call finds out, as its attempt says; the next ones do not ask again.
    assert_eq!(who(&client).await, ("b".to_owned(), "1".to_owned()));
    assert_eq!(who(&client).await, ("b".to_owned(), "0".to_owned()));
    assert_eq!(who(&client).await, ("b".to_owned(), "0".to_owned()));
}

#[tokio::test]
async fn the_only_instance_is_asked_again_although_it_was_unreachable() {
    let mut cluster = Cluster::new();
    let ((a, lost), (caller, _)) = (cluster.start(), cluster.start());
    let _served = a.serve(answer("a"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 1).await;
    let handlers = cluster.cut(&lost);
    let error = client
        .random(&String::new(), RequestContext::default())
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::WorkerUnreachable);
    cluster.mend(&lost, handlers);
    assert_eq!(who(&client).await.0, "a");
}

#[tokio::test]
async fn an_instance_that_is_full_is_passed_over_and_not_left_out() {
    let mut cluster = Cluster::new();
    let ((a, _), (b, _), (caller, _)) = (cluster.start(), cluster.start(), cluster.start());
    let full = Arc::new(AtomicBool::new(true));
    let handler = answer_unless_full("a", Arc::clone(&full));
    let _served_a = a.serve(handler, Metadata::new()).await.unwrap();
    let _served_b = b.serve(answer("b"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 2).await;
    assert_eq!(who(&client).await.0, "b");
    full.store(false, Ordering::SeqCst);
    assert_eq!(who(&client).await.0, "a");
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_does_not_take_a_call_in_time_is_passed_over() {
    let mut cluster = Cluster::new();
    let ((a, _), (b, _), (caller, _)) = (cluster.start(), cluster.start(), cluster.start());
    let never = |_: String, _: RequestHeader| -> Answer { Box::pin(std::future::pending()) };
    let _served_a = a.serve(never, Metadata::new()).await.unwrap();
    let served_b = b.serve(answer("b"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 2).await;
    let dispatch = Duration::from_secs(5);
    let call = || Call {
        dispatch: Some(dispatch),
        ..Call::default()
    };
    let begun = Instant::now();
    let asked = client.round_robin(&String::new(), call()).await.unwrap();
    assert_eq!(asked.instance(), served_b.instance());
    assert!(begun.elapsed() >= dispatch);
    drop(asked);
    // Who was late is left out for a while.
    let begun = Instant::now();
    let asked = client.round_robin(&String::new(), call()).await.unwrap();
    assert_eq!(asked.instance(), served_b.instance());
    assert_eq!(begun.elapsed(), Duration::ZERO);
    drop(asked);

    served_b.drain().await;
    let client = client_of(&caller, 1).await;
    let error = client
        .round_robin(&String::new(), call())
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::DispatchTimeout);
}

#[tokio::test(start_paused = true)]
async fn an_instance_whose_answers_fail_in_a_row_gets_none_for_a_while() {
    let mut cluster = Cluster::new();
    let ((a, _), (b, _), (caller, _)) = (cluster.start(), cluster.start(), cluster.start());
    let failing = |_: String, _: RequestHeader| -> Answer {
        let failure = RequestError::new(ErrorCode::EngineFailed, "failed by a test");
        let items: HandlerStream<String> =
            Box::pin(stream::iter([Ok("x".to_owned()), Err(failure)]));
        std::future::ready(Ok(items)).boxed()
    };
    let served_a = a.serve(failing, Metadata::new()).await.unwrap();
    let _served_b = b.serve(answer("b"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 2).await;
    let ask = async || {
        let call = RequestContext::default();
        let answer = client.round_robin(&"hello".to_owned(), call).await;
        let mut answer = answer.unwrap();
        while answer.next().await.is_some() {}
        answer.instance()
    };
    let mut asked = 0;
    for _ in 0..2 * CIRCUIT_FAILURES + 10 {
        asked += u32::from(ask().await == served_a.instance());
    }
    assert_eq!(asked, CIRCUIT_FAILURES);
    // Then it is tried again, and one failure is enough.
    tokio::time::advance(caller.runtime().inhibited_duration()).await;
    let mut again = 0;
    for _ in 0..10 {
        again += u32::from(ask().await == served_a.instance());
    }
    assert_eq!(again, 1);
}

#[tokio::test]
async fn a_drain_withdraws_refuses_and_waits_for_open_streams() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    let served = worker.serve(answer("a"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 1).await;
    let id = served.instance();
    let mut open = client
        .direct(id, &"hello".to_owned(), RequestContext::default())
        .await
        .unwrap();
    let mut drain = Box::pin(served.drain());
    assert!(drain.as_mut().now_or_never().is_none());
    // The client did not hear of the withdrawal yet: its call is refused in a retriable way.
    let mut refused = client
        .direct(id, &String::new(), RequestContext::default())
        .await
        .unwrap();
    let refused = refused.next().await.unwrap().unwrap_err();
    assert_eq!(refused.code, ErrorCode::Draining);
    assert!(refused.code.may_retry_elsewhere());
    assert_eq!(open.next().await, Some(Ok("a".to_owned())));
    drop(open);
    drain.await;
    client_of(&caller, 0).await;
}

#[tokio::test]
async fn a_dropped_endpoint_is_withdrawn() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    let served = worker.serve(answer("a"), Metadata::new()).await.unwrap();
    client_of(&caller, 1).await;
    drop(served);
    client_of(&caller, 0).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_instances_ends_at_the_deadline_with_an_error_that_helps() {
    let mut cluster = Cluster::new();
    let (caller, _) = cluster.start();
    let client = caller.client();
    let error = client.wait_for_instances(soon()).await.unwrap_err();
    assert_eq!(error, ClientError::NoInstances(caller.id().clone()));
    let error = client
        .random(Bytes::new(), RequestContext::default())
        .await
        .unwrap_err();
    assert_eq!(error.code, ErrorCode::WorkerUnreachable);
    assert!(error.message.contains("dyn://ns.comp.ep"), "{error}");
}

#[tokio::test]
async fn instances_that_come_later_end_the_wait() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    let client = caller.client();
    let (waited, served) = tokio::join!(
        client.wait_for_instances(soon()),
        worker.serve(answer("a"), Metadata::new()),
    );
    assert_eq!(waited.unwrap(), [served.unwrap().instance()]);
}

#[tokio::test]
async fn an_outage_of_discovery_keeps_calls_going() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    let _served = worker.serve(answer("a"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 1).await;
    cluster.registry.set_available(false);
    assert_eq!(who(&client).await.0, "a");
    assert_eq!(client.untyped().instance_ids().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn serving_waits_for_a_discovery_that_is_away_when_it_starts() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    cluster.registry.set_available(false);
    let serving = worker.serve(answer("a"), Metadata::new());
    let returning = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        cluster.registry.set_available(true);
    };
    let (served, ()) = tokio::join!(serving, returning);
    let _served = served.unwrap();
    let client = client_of(&caller, 1).await;
    assert_eq!(who(&client).await.0, "a");
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_given_up_is_not_announced_behind_the_callers_back() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    cluster.registry.set_available(false);
    let serving = worker.serve(answer("a"), Metadata::new());
    let given_up = tokio::time::timeout(Duration::from_secs(10), serving).await;
    assert!(given_up.is_err());
    // The withdrawal is a task.
    tokio::task::yield_now().await;
    cluster.registry.set_available(true);
    client_of(&caller, 0).await;
}

#[tokio::test]
async fn what_is_announced_in_an_outage_is_left_to_its_end() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    let first = worker.serve(answer("a"), Metadata::new()).await.unwrap();
    cluster.registry.set_available(false);
    drop(first);
    tokio::task::yield_now().await;
    let served = worker.serve(answer("b"), Metadata::new()).await;
    let _served = served.unwrap();
    cluster.registry.set_available(true);
    let client = client_of(&caller, 1).await;
    assert_eq!(who(&client).await.0, "b");
}

#[tokio::test]
async fn bytes_that_are_no_request_are_refused() {
    let mut cluster = Cluster::new();
    let ((worker, _), (caller, _)) = (cluster.start(), cluster.start());
    let _served = worker.serve(answer("a"), Metadata::new()).await.unwrap();
    let client = client_of(&caller, 1).await;
    let garbage = Bytes::from_static(&[0xc1, 0xff]);
    let mut refused = client
        .untyped()
        .random(garbage, RequestContext::default())
        .await
        .unwrap();
    let refused = refused.next().await.unwrap().unwrap_err();
    assert_eq!(refused.code, ErrorCode::WorkerProtocol);
}

/// Chooses from a list of its own, in order, whoever is not to be asked.
#[derive(Debug)]
struct InOrder(Vec<InstanceId>);

impl Chooser for InOrder {
    fn choose(&self, except: &[InstanceId]) -> Option<Chosen> {
        let instance = *self.0.iter().find(|id| !except.contains(id))?;
        let body = super::typed::encode(&format!("for {instance}")).ok();
        Some(Chosen { instance, body })
    }
}

#[tokio::test]
async fn a_chooser_is_asked_again_when_its_choice_is_gone_or_refuses() {
    let mut cluster = Cluster::new();
    let (first, address) = cluster.start();
    let (second, _) = cluster.start();
    let one = first.serve(answer("one"), Metadata::new()).await.unwrap();
    let two = second.serve(answer("two"), Metadata::new()).await.unwrap();
    let (caller, _) = cluster.start();
    let client = client_of(&caller, 2).await;
    let gone = InstanceId::new(1).unwrap();
    let order = vec![gone, one.instance(), two.instance()];
    let call = async || {
        let policy = Policy::By(Arc::new(InOrder(order.clone())));
        let request = "unused".to_owned();
        client
            .call(policy, &request, RequestContext::default())
            .await
    };
    let heard = |stream: super::TypedStream<String>| async move {
        stream.map(Result::unwrap).collect::<Vec<String>>().await
    };
    let said = heard(call().await.unwrap()).await;
    assert_eq!(
        said[..2],
        ["one".to_owned(), format!("for {}", one.instance())]
    );
    let handlers = cluster.cut(&address);
    let said = heard(call().await.unwrap()).await;
    assert_eq!(
        said[..2],
        ["two".to_owned(), format!("for {}", two.instance())]
    );
    cluster.mend(&address, handlers);
    // It is left out for a while, whoever chooses.
    let said = heard(call().await.unwrap()).await;
    assert_eq!(said[0], "two");
}
