//! The contract of the request plane: one suite that every backend passes. Test support.
//!
//! A backend's tests say how a process of it is started, killed and frozen ([`TestBackend`],
//! [`TestProcess`]); [`request_plane_contract!`](crate::request_plane_contract) then makes one
//! test of each case. The cases panic where the backend breaks the contract. They wait for events
//! and never for time to pass, so that they run in real and in virtual time alike.
#![expect(missing_docs, reason = "the names of the cases say it all")]

pub use super::contract_endings::*;

use super::{
    Handler, IncomingRequest, Item, ItemStream, ReceivedItem, Registration, RequestHeader,
    RequestPlane, ResponseStream, TrafficClass,
};
use crate::discovery::{EndpointId, InstanceId};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use futures_util::future::join_all;
use futures_util::{FutureExt, StreamExt, stream};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// A backend under test.
pub trait TestBackend: Send + Sync {
    /// Starts a process.
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>>;

    /// Within which time a frozen peer's streams end. Where time is real, leave room for a busy
    /// machine.
    fn loss_bound(&self) -> Duration;

    /// Whether both sides speak a version in which a call tells when it is taken.
    fn tells_acceptance(&self) -> bool {
        true
    }
}

/// A process under test.
pub trait TestProcess: Send + Sync {
    /// Its side of the plane.
    fn plane(&self) -> &dyn RequestPlane;
    /// Ends as abruptly as the backend allows.
    fn kill(&self);
    /// Stops all its traffic as if the process were frozen, or lets it go on.
    fn set_frozen(&self, frozen: bool);
}

/// Nothing in a healthy run takes this long: a case that waits longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Streams in the case that has many.
const MANY_STREAMS: u32 = 64;

/// Items per stream in that case.
const ITEMS: u32 = 200;

/// Size of what is called large: more than any buffer on the way.
const LARGE_BYTES: usize = 8 * 1024 * 1024;

/// Makes one test of each case for a backend. What stands in brackets goes to `tokio::test`:
/// `request_plane_contract!(tcp, [start_paused = true], TcpBackend::new());`
#[macro_export]
macro_rules! request_plane_contract {
    ($name:ident, [$($flavor:tt)*], $backend:expr) => {
        $crate::request_plane_contract! { @cases $name, [$($flavor)*], $backend,
            an_answer_comes_complete_and_in_order
            the_handler_learns_everything_the_caller_said
            positions_count_from_where_the_caller_starts
            many_streams_do_not_mix
            dropping_the_answer_stops_the_work
            dropping_an_answer_unread_stops_the_work
            a_slow_reader_holds_up_only_itself
            a_deadline_ends_the_answer_and_the_work
            a_refusal_is_all_that_comes
            a_call_waits_until_it_is_taken
            an_error_comes_after_the_items_before_it
            an_unknown_endpoint_is_refused
            a_call_for_another_instance_is_refused
            a_draining_endpoint_finishes_what_it_has
            a_draining_process_finishes_what_it_has
            large_bodies_and_items_pass
            what_is_too_large_is_refused
            bulk_data_passes_beside_tokens
            nobody_at_the_address_is_an_error
            a_lost_server_ends_its_streams
            a_frozen_server_ends_its_streams
            a_frozen_caller_frees_the_server
            output_of_a_thawed_server_meets_nobody
        }
    };
    (@cases $name:ident, $flavor:tt, $backend:expr, $($case:ident)+) => {
        mod $name {
            #[expect(unused_imports, reason = "the backend may be written without names from outside")]
            use super::*;
            $($crate::request_plane_contract! { @case $flavor, $backend, $case })+
        }
    };
    (@case [$($flavor:tt)*], $backend:expr, $case:ident) => {
        #[tokio::test($($flavor)*)]
        async fn $case() {
            $crate::request_plane::contract::$case(&$backend).await;
        }
    };
}

/// A handler made of a function.
struct Serve<F>(F);

impl<F> fmt::Debug for Serve<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serve")
    }
}

impl<F> Handler for Serve<F>
where
    F: Fn(IncomingRequest) -> Result<ItemStream, RequestError> + Send + Sync + 'static,
{
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let answer = (self.0)(request);
        Box::pin(async move { answer })
    }
}

/// A server and a caller in two processes.
pub(super) struct Pair {
    pub(super) server: Box<dyn TestProcess>,
    pub(super) caller: Box<dyn TestProcess>,
    pub(super) registration: Registration,
}

/// How far a handler's stream came: items given, and whether it was dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Progress {
    given: u64,
    pub(super) dropped: bool,
}

/// Marks its progress as dropped when it is.
struct MarkDropped(watch::Sender<Progress>);

impl Drop for MarkDropped {
    fn drop(&mut self) {
        self.0.send_modify(|progress| progress.dropped = true);
    }
}

impl Pair {
    pub(super) async fn start<F>(backend: &dyn TestBackend, answer: F) -> Self
    where
        F: Fn(IncomingRequest) -> Result<ItemStream, RequestError> + Send + Sync + 'static,
    {
        let (server, caller) = (backend.start().await, backend.start().await);
        let handlers = server.plane().handlers();
        let registration = handlers.register(endpoint("ep"), Arc::new(Serve(answer)));
        Self {
            registration: registration.expect("nobody else serves it"),
            server,
            caller,
        }
    }

    pub(super) async fn call(&self, header: RequestHeader, body: &[u8]) -> ResponseStream {
        let body = Bytes::copy_from_slice(body);
        let address = self.server.plane().address();
        let called = self.caller.plane().call(address, header, body);
        patiently(called).await.expect("the call goes out")
    }

    /// Calls an address or endpoint at which nobody answers.
    pub(super) async fn refusal(
        &self,
        address: &str,
        header: RequestHeader,
        body: Bytes,
    ) -> RequestError {
        match patiently(self.caller.plane().call(address, header, body)).await {
            Err(error) => error,
            Ok(answer) => {
                let (items, end) = read(answer).await;
                assert_eq!(items, [], "a refusal gives nothing");
                end.expect("a refusal")
            }
        }
    }
}

fn endpoint(name: &str) -> EndpointId {
    EndpointId::new("ns", "contract", name).expect("a good name")
}

pub(super) fn header(request: &str) -> RequestHeader {
    let instance = InstanceId::from_bits(1);
    RequestHeader::new(request, endpoint("ep"), instance)
}

pub(super) async fn patiently<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("it takes longer than anything should")
}

pub(super) fn item(positions: u32, payload: impl Into<Bytes>) -> Result<Item, RequestError> {
    Ok(Item {
        positions,
        payload: payload.into(),
    })
}

/// So many items of one position each, that say which they are.
pub(super) fn count(items: u64) -> ItemStream {
    Box::pin(stream::iter(0..items).map(|number| item(1, number.to_string())))
}

/// Reads to the end. An answer that has ended stays ended.
pub(super) async fn read(mut answer: ResponseStream) -> (Vec<ReceivedItem>, Option<RequestError>) {
    let mut items = Vec::new();
    loop {
        match patiently(answer.next()).await {
            Some(Ok(item)) => items.push(item),
            end => {
                assert!(answer.next().await.is_none(), "nothing follows the end");
                return (items, end.and_then(Result::err));
            }
        }
    }
}

pub(super) fn positions(items: &[ReceivedItem]) -> Vec<u64> {
    items.iter().map(|item| item.position).collect()
}

pub(super) async fn next(answer: &mut ResponseStream) -> ReceivedItem {
    patiently(answer.next())
        .await
        .expect("another item")
        .expect("no error")
}

/// A stream that gives `items` items of `bytes` bytes and then nothing more, without an end.
pub(super) fn endless(items: u64, bytes: usize, progress: &watch::Sender<Progress>) -> ItemStream {
    let payload = Bytes::from(vec![0; bytes]);
    let mark = MarkDropped(progress.clone());
    let given = stream::iter(0..items).chain(stream::pending());
    // The outermost part holds the mark: an inner one goes as soon as it has given its last.
    Box::pin(given.map(move |_| {
        mark.0.send_modify(|progress| progress.given += 1);
        item(1, payload.clone())
    }))
}

pub(super) async fn until(
    progress: &watch::Sender<Progress>,
    wanted: impl FnMut(&Progress) -> bool,
) {
    let mut progress = progress.subscribe();
    patiently(progress.wait_for(wanted))
        .await
        .expect("the sender is held by the case");
}

pub async fn an_answer_comes_complete_and_in_order(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |_| Ok(count(1000))).await;
    let (items, end) = read(pair.call(header("r"), b"").await).await;
    assert_eq!(end, None);
    assert_eq!(positions(&items), (0..1000).collect::<Vec<_>>());
    for item in items {
        assert_eq!(item.payload, item.position.to_string());
    }
}

pub async fn the_handler_learns_everything_the_caller_said(backend: &dyn TestBackend) {
    let heard = watch::Sender::new(None);
    let tell = heard.clone();
    let pair = Pair::start(backend, move |request| {
        tell.send_replace(Some(request));
        Ok(count(0))
    })
    .await;
    let said = RequestHeader {
        attempt: 3,
        choice: 2,
        start_position: 77,
        deadline: Some(Instant::now() + PATIENCE),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        tracestate: Some("vendor=value".into()),
        ..header("request 1")
    };
    assert_eq!(read(pair.call(said.clone(), b"body").await).await.1, None);
    let heard = heard.borrow().clone().expect("the handler was called");
    assert_eq!(&heard.body[..], b"body");
    let deadline = heard.header.deadline.expect("a deadline");
    assert!(deadline <= Instant::now() + PATIENCE);
    let deadline = said.deadline;
    assert_eq!(
        RequestHeader {
            deadline,
            ..heard.header
        },
        said
    );
}

pub async fn positions_count_from_where_the_caller_starts(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |_| {
        let items = [(2, "two"), (0, "none"), (1, "one"), (5, "five")];
        Ok(Box::pin(stream::iter(
            items.map(|(positions, text)| item(positions, text)),
        )))
    })
    .await;
    let call = RequestHeader {
        start_position: 40,
        attempt: 1,
        ..header("r")
    };
    let (items, end) = read(pair.call(call, b"").await).await;
    assert_eq!(end, None);
    assert_eq!(positions(&items), [40, 42, 42, 43]);
}

pub async fn many_streams_do_not_mix(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |request| {
        let body = request.body;
        let items = stream::iter(0..ITEMS).then(move |number| {
            let body = body.clone();
            async move {
                tokio::task::yield_now().await;
                item(number % 3, body)
            }
        });
        Ok(Box::pin(items))
    })
    .await;
    let streams = (0..MANY_STREAMS).map(|number| {
        let pair = &pair;
        async move {
            let body = format!("stream {number} and {}", "x".repeat(number as usize));
            let answer = pair.call(header(&body), body.as_bytes()).await;
            let (items, end) = read(answer).await;
            assert_eq!(end, None);
            assert_eq!(items.len(), ITEMS as usize);
            assert!(items.iter().all(|item| item.payload == body), "{body}");
        }
    });
    join_all(streams).await;
}

pub async fn dropping_the_answer_stops_the_work(backend: &dyn TestBackend) {
    let progress = watch::Sender::new(Progress::default());
    let own = progress.clone();
    let pair = Pair::start(backend, move |_| Ok(endless(3, 1, &own))).await;
    let mut answer = pair.call(header("r"), b"").await;
    next(&mut answer).await;
    assert!(!progress.borrow().dropped);
    drop(answer);
    until(&progress, |progress| progress.dropped).await;
    patiently(pair.registration.idle()).await;
}

pub async fn dropping_an_answer_unread_stops_the_work(backend: &dyn TestBackend) {
    let progress = watch::Sender::new(Progress::default());
    let own = progress.clone();
    let pair = Pair::start(backend, move |_| Ok(endless(10, 1, &own))).await;
    let answer = pair.call(header("r"), b"").await;
    until(&progress, |progress| progress.given == 10).await;
    drop(answer);
    until(&progress, |progress| progress.dropped).await;
    // One that is dropped before the server has seen it may or may not reach the handler.
    drop(pair.call(header("s"), b"").await);
    assert_eq!(
        next(&mut pair.call(header("t"), b"").await).await.position,
        0
    );
    patiently(pair.registration.idle()).await;
}

pub async fn a_slow_reader_holds_up_only_itself(backend: &dyn TestBackend) {
    const SLOW_ITEMS: u64 = 20_000;
    const SLOW_BYTES: usize = 1024;
    let progress = watch::Sender::new(Progress::default());
    let own = progress.clone();
    let pair = Pair::start(backend, move |request| {
        Ok(match &request.body[..] {
            b"slow" => endless(SLOW_ITEMS, SLOW_BYTES, &own),
            _ => count(1000),
        })
    })
    .await;
    let mut slow = pair.call(header("slow"), b"slow").await;
    for number in 0..10 {
        let quick = pair.call(header(&format!("quick {number}")), b"").await;
        let (items, end) = read(quick).await;
        assert_eq!((items.len(), end), (1000, None));
    }
    // It got the work of its window done and no more, though nobody has read anything.
    let given = progress.borrow().given;
    assert!(given > 0, "it does not wait for its reader to begin");
    assert!(given < SLOW_ITEMS / 4, "{given} items for nobody");
    for position in 0..SLOW_ITEMS {
        assert_eq!(next(&mut slow).await.position, position);
    }
}

pub async fn a_deadline_ends_the_answer_and_the_work(backend: &dyn TestBackend) {
    let progress = watch::Sender::new(Progress::default());
    let own = progress.clone();
    let pair = Pair::start(backend, move |_| Ok(endless(1, 1, &own))).await;
    let call = RequestHeader {
        // Long enough for a busy machine to take the call first.
        deadline: Some(Instant::now() + Duration::from_secs(2)),
        ..header("r")
    };
    let (items, end) = read(pair.call(call, b"").await).await;
    assert_eq!(items.len(), 1);
    assert_eq!(end.expect("a timeout").code, ErrorCode::RequestTimeout);
    until(&progress, |progress| progress.dropped).await;
}

pub async fn a_refusal_is_all_that_comes(backend: &dyn TestBackend) {
    let refusal =
        RequestError::invalid("prompt", "too long").with_retry_after(Duration::from_millis(1500));
    let own = refusal.clone();
    let pair = Pair::start(backend, move |_| Err(own.clone())).await;
    let address = pair.server.plane().address();
    let told = pair.refusal(address, header("r"), Bytes::new()).await;
    assert_eq!(told, refusal);
}

/// Takes calls when it is told to.
#[derive(Debug)]
struct Hesitating(watch::Sender<bool>);

impl Handler for Hesitating {
    fn handle(&self, _: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let mut taking = self.0.subscribe();
        Box::pin(async move {
            // The sender lives as long as the handler.
            drop(taking.wait_for(|taking| *taking).await);
            Ok(Box::pin(stream::pending()) as ItemStream)
        })
    }
}

pub async fn a_call_waits_until_it_is_taken(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |_| Ok(count(1))).await;
    let (taking, slow) = (watch::Sender::new(false), endpoint("slow"));
    let handler = Arc::new(Hesitating(taking.clone()));
    let handlers = pair.server.plane().handlers();
    let registration = handlers.register(slow.clone(), handler);
    let registration = registration.expect("nobody else serves it");
    let call = || RequestHeader {
        endpoint: slow.clone(),
        ..header("r")
    };
    if !backend.tells_acceptance() {
        let unheard = pair.call(call(), b"").await;
        drop(unheard);
        patiently(registration.idle()).await;
        return;
    }
    let late = RequestHeader {
        deadline: Some(Instant::now() + Duration::from_millis(300)),
        ..call()
    };
    let address = pair.server.plane().address();
    let error = pair.refusal(address, late, Bytes::new()).await;
    assert_eq!(error.code, ErrorCode::RequestTimeout);

    let mut waiting = Box::pin(pair.call(call(), b""));
    // Another call goes there and back meanwhile.
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(read(pair.call(header("s"), b"").await).await.1, None);
    assert!(waiting.as_mut().now_or_never().is_none());
    taking.send_replace(true);
    let mut answer = waiting.await;
    assert!(answer.next().now_or_never().is_none());
    drop(answer);
    patiently(registration.idle()).await;
}

pub async fn an_error_comes_after_the_items_before_it(backend: &dyn TestBackend) {
    let failure = RequestError::new(ErrorCode::EngineFailed, "out of memory");
    let own = failure.clone();
    let pair = Pair::start(backend, move |_| {
        let failure = stream::iter([Err(own.clone())]);
        Ok(Box::pin(count(5).chain(failure).chain(count(5))))
    })
    .await;
    let (items, end) = read(pair.call(header("r"), b"").await).await;
    assert_eq!((items.len(), end), (5, Some(failure)));
    patiently(pair.registration.idle()).await;
}

pub async fn an_unknown_endpoint_is_refused(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |_| Ok(count(1))).await;
    let call = RequestHeader {
        endpoint: endpoint("nobody"),
        ..header("r")
    };
    let address = pair.server.plane().address();
    let error = pair.refusal(address, call, Bytes::new()).await;
    assert_eq!(error.code, ErrorCode::WorkerUnreachable);
    assert!(error.message.contains("ns.contract.nobody"), "{error}");
}

pub async fn a_call_for_another_instance_is_refused(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |_| Ok(count(1))).await;
    pair.registration.set_instance(InstanceId::from_bits(2));
    let address = pair.server.plane().address();
    let error = pair.refusal(address, header("r"), Bytes::new()).await;
    assert_eq!(error.code, ErrorCode::WorkerUnreachable);
    let call = RequestHeader {
        instance: InstanceId::from_bits(2),
        ..header("r")
    };
    assert_eq!(read(pair.call(call, b"").await).await.0.len(), 1);
}

pub async fn large_bodies_and_items_pass(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |request| {
        Ok(Box::pin(stream::iter([
            item(1, request.body.clone()),
            item(1, request.body),
        ])))
    })
    .await;
    let body: Vec<u8> = (0..LARGE_BYTES).map(|byte| byte as u8).collect();
    let (items, end) = read(pair.call(header("r"), &body).await).await;
    assert_eq!((items.len(), end), (2, None));
    assert!(items.iter().all(|item| item.payload == body));
}

pub async fn what_is_too_large_is_refused(backend: &dyn TestBackend) {
    const TOO_LARGE_BYTES: usize = 128 * 1024 * 1024;
    let huge = Bytes::from(vec![0; TOO_LARGE_BYTES]);
    let own = huge.clone();
    let pair = Pair::start(backend, move |_| {
        Ok(Box::pin(stream::iter([item(1, own.clone())])))
    })
    .await;
    let address = pair.server.plane().address();
    let error = pair.refusal(address, header("r"), huge).await;
    assert_eq!(error.code, ErrorCode::PayloadTooLarge);
    let error = pair.refusal(address, header("r"), Bytes::new()).await;
    assert_eq!(error.code, ErrorCode::Internal);
}

pub async fn bulk_data_passes_beside_tokens(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |request| {
        assert_eq!(
            request.header.class == TrafficClass::Bulk,
            request.body == "bulk"
        );
        let large = request.header.class == TrafficClass::Bulk;
        let payload = Bytes::from(vec![1; if large { 1024 * 1024 } else { 10 }]);
        let items = stream::repeat_with(move || item(1, payload.clone()));
        Ok(Box::pin(items.take(50)))
    })
    .await;
    let bulk = RequestHeader {
        class: TrafficClass::Bulk,
        ..header("bulk")
    };
    let (bulk, tokens) = tokio::join!(pair.call(bulk, b"bulk"), pair.call(header("r"), b""));
    let ((bulk, bulk_end), (tokens, end)) = tokio::join!(read(bulk), read(tokens));
    assert_eq!((bulk.len(), bulk_end), (50, None));
    assert_eq!((tokens.len(), end), (50, None));
}

pub async fn nobody_at_the_address_is_an_error(backend: &dyn TestBackend) {
    let pair = Pair::start(backend, |_| Ok(count(1))).await;
    let address = pair.server.plane().address().to_owned();
    assert_eq!(read(pair.call(header("r"), b"").await).await.1, None);
    pair.server.kill();
    // The first calls may find the connection, or the listener, before they are gone.
    patiently(async {
        loop {
            let error = pair.refusal(&address, header("r"), Bytes::new()).await;
            match error.code {
                ErrorCode::WorkerUnreachable => break,
                ErrorCode::WorkerLost => tokio::task::yield_now().await,
                _ => panic!("{error}"),
            }
        }
    })
    .await;
    let foreign = pair.refusal("carrier-pigeon://coop", header("r"), Bytes::new());
    assert_eq!(foreign.await.code, ErrorCode::WorkerUnreachable);
}
