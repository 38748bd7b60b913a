//! Streams of numbered items while the server is killed, restarted, frozen and thawed: every item
//! comes exactly once and in order.

use crate::PATIENCE;
use crate::request_plane::NatsProcess;
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use dynamo_runtime::discovery::{EndpointId, InstanceId};
use dynamo_runtime::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, Registration, RequestHeader, RequestPlane,
    ResponseStream,
};
use dynamo_testkit::nats_server::NatsServer;
use futures_util::future::{BoxFuture, join_all};
use futures_util::{StreamExt, stream};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

const STREAMS: usize = 32;

/// Items of each stream, and the pause between two of them: some seconds in all, so that what
/// happens to the server happens in the middle.
const ITEMS: u64 = 600;
const PAUSE: Duration = Duration::from_millis(5);

/// Counts, at an engine's pace.
#[derive(Debug)]
struct Count;

impl Handler for Count {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        let start = request.header.start_position;
        let items = stream::iter(start..ITEMS).then(|number| async move {
            sleep(PAUSE).await;
            Ok(Item {
                positions: 1,
                payload: Bytes::from(number.to_string()),
            })
        });
        let items: ItemStream = Box::pin(items);
        Box::pin(std::future::ready(Ok(items)))
    }
}

fn endpoint() -> EndpointId {
    EndpointId::new("ns", "worker", "count").unwrap()
}

fn header(request: String) -> RequestHeader {
    RequestHeader::new(request, endpoint(), InstanceId::from_bits(1))
}

struct Pair {
    server: NatsProcess,
    caller: NatsProcess,
    _registration: Registration,
}

impl Pair {
    async fn start(nats: &NatsServer) -> Self {
        let (server, caller) = (
            NatsProcess::start(nats).await,
            NatsProcess::start(nats).await,
        );
        let handlers = server.plane.handlers();
        let registration = handlers.register(endpoint(), Arc::new(Count)).unwrap();
        Self {
            server,
            caller,
            _registration: registration,
        }
    }

    async fn call(&self, number: usize) -> ResponseStream {
        let address = self.server.plane.address();
        let header = header(format!("r{number}"));
        let called = self.caller.plane.call(address, header, Bytes::new());
        called.await.expect("the call goes out")
    }

    /// Reads many streams to their ends while `happens` happens; `middle` resolves once some
    /// items have come on each.
    async fn read_all<F>(&self, happens: impl FnOnce(Middle) -> F) -> Vec<Result<(), RequestError>>
    where
        F: Future<Output = ()>,
    {
        let came = watch::Sender::new(0_u64);
        let calls = join_all((0..STREAMS).map(|number| self.call(number)));
        let reading = async {
            let answers = calls.await;
            join_all(answers.into_iter().map(|answer| read(answer, &came))).await
        };
        let middle = Middle(came.subscribe());
        let both = async { tokio::join!(reading, happens(middle)).0 };
        timeout(PATIENCE, both).await.expect("no stream hangs")
    }
}

struct Middle(watch::Receiver<u64>);

impl Middle {
    async fn reached(&mut self, items_of_each: u64) {
        let all = items_of_each * STREAMS as u64;
        self.0.wait_for(|came| *came >= all).await.unwrap();
    }
}

/// Reads an answer to its end; each item is the next one.
async fn read(mut answer: ResponseStream, came: &watch::Sender<u64>) -> Result<(), RequestError> {
    let mut next = 0;
    while let Some(item) = answer.next().await {
        let item = item?;
        assert_eq!(item.position, next, "each once and in order");
        assert_eq!(&item.payload[..], next.to_string().as_bytes());
        next += 1;
        came.send_modify(|came| *came += 1);
    }
    assert_eq!(next, ITEMS, "nothing is missing at the end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_and_restarted_server_loses_nothing() {
    let mut nats = NatsServer::start();
    let pair = Pair::start(&nats).await;
    let ends = pair
        .read_all(async |mut middle: Middle| {
            middle.reached(100).await;
            nats.kill();
            nats.restart();
            // Once more, just when everybody is back.
            middle.reached(300).await;
            nats.restart();
        })
        .await;
    assert_eq!(ends, vec![Ok(()); STREAMS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_longer_than_the_silence_that_peers_are_allowed_is_survived() {
    let mut nats = NatsServer::start();
    let pair = Pair::start(&nats).await;
    let ends = pair
        .read_all(async |mut middle: Middle| {
            middle.reached(100).await;
            nats.kill();
            // Not a wait for something to happen: this is for how long the server is away.
            sleep(Duration::from_secs(5)).await;
            nats.restart();
        })
        .await;
    assert_eq!(ends, vec![Ok(()); STREAMS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_and_thawed_server_loses_nothing() {
    let nats = NatsServer::start();
    let pair = Pair::start(&nats).await;
    let ends = pair
        .read_all(async |mut middle: Middle| {
            middle.reached(100).await;
            nats.freeze();
            // Not a wait for something to happen: this is for how long the server stands still.
            sleep(Duration::from_secs(4)).await;
            nats.thaw();
        })
        .await;
    assert_eq!(ends, vec![Ok(()); STREAMS]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_is_noticed_while_the_server_is_well() {
    use dynamo_runtime::request_plane::contract::TestProcess;
    let nats = NatsServer::start();
    let pair = Pair::start(&nats).await;
    let ends = pair
        .read_all(async |mut middle: Middle| {
            middle.reached(50).await;
            pair.server.set_frozen(true);
        })
        .await;
    for end in ends {
        assert_eq!(end.unwrap_err().code, ErrorCode::WorkerLost);
    }
    assert!(pair.caller.link.is_up());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_after_a_restart() {
    let mut nats = NatsServer::start();
    let pair = Pair::start(&nats).await;
    for number in 0..3 {
        let mut answer = pair.call(number).await;
        let first = timeout(PATIENCE, answer.next()).await.unwrap().unwrap();
        assert_eq!(first.unwrap().position, 0);
        nats.restart();
    }
}
