//! Replicas of one router over a real network: bookings are told, and forgotten with who made them.

use super::*;
use crate::call::RoutedCall;
use crate::news::news_endpoint;
use crate::{RouterSetup, WorkerRouter};
use dynamo_kv_router::WorkerKey;
use dynamo_kv_router::book::{BookChange, BookingId, Load};
use dynamo_kv_router::config::RouterOptions;
use dynamo_protocols::engine::{EngineRequest, RequestContext};
use dynamo_protocols::routing::{RouteHints, RouteSlip};
use dynamo_runtime::component::Instance;
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::discovery::{Discovery, InstanceRecord, Metadata};
use dynamo_runtime::request_plane::{TcpPlane, TcpPlaneOptions};
use dynamo_runtime::{Environment, Tasks};
use std::num::NonZeroU32;
use tokio::sync::watch;
use tokio::time::timeout;

const BLOCK: NonZeroU32 = NonZeroU32::new(4).unwrap();

/// Nothing in a healthy run takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process with a router, over real sockets.
struct Replica {
    router: Option<WorkerRouter>,
    workers: watch::Sender<Option<Arc<[Instance]>>>,
    discovery: Arc<dyn Discovery>,
    tasks: Tasks,
}

fn generate() -> EndpointId {
    EndpointId::new("ns", "backend", "generate").unwrap()
}

fn workers(ids: &[u64]) -> Option<Arc<[Instance]>> {
    let instance = |id: &u64| Instance {
        id: InstanceId::new(*id).unwrap(),
        record: Arc::new(InstanceRecord {
            endpoint: generate(),
            address: "127.0.0.1:9".to_owned(),
            metadata: Metadata::new(),
        }),
    };
    Some(ids.iter().map(instance).collect())
}

async fn replica(registry: &MemRegistry, model: &str, ids: &[u64]) -> Replica {
    let tasks = Tasks::root();
    let environment = Environment::system();
    let options = TcpPlaneOptions::default();
    let plane = TcpPlane::bind(environment.clone(), tasks.child(), &options).await;
    let plane = Arc::new(plane.unwrap());
    let discovery: Arc<dyn Discovery> = Arc::new(registry.join());
    let joined = Arc::clone(&discovery);
    let runtime = DistributedRuntime::new(environment, tasks.clone(), joined, plane);
    let (workers, instances) = watch::channel(workers(ids));
    let router = WorkerRouter::start(RouterSetup {
        runtime,
        news: news_endpoint(&generate()).unwrap(),
        bookings: bookings_endpoint(&generate(), model, "sum").unwrap(),
        workers: Arc::new(|_| true),
        instances,
        block_size: BLOCK,
        options: RouterOptions {
            router_replica_sync: true,
            router_session_affinity_ttl_secs: Some(60.0),
            ..RouterOptions::default()
        },
    });
    Replica {
        router: Some(router),
        workers,
        discovery,
        tasks,
    }
}

impl Replica {
    fn router(&self) -> &WorkerRouter {
        self.router.as_ref().unwrap()
    }

    /// Requests in flight and blocks in use, of each worker.
    fn loads(&self) -> Vec<(u64, u32, u64)> {
        let of = |load: Load| (load.requests, load.blocks);
        self.router().with_router(|router| {
            let workers = router.fleet().workers().iter();
            let loads = workers.map(|it| (it.key.instance, of(router.book().load(it.slot))));
            loads
                .map(|(id, (requests, blocks))| (id, requests, blocks))
                .collect()
        })
    }

    async fn knows(&self, loads: &[(u64, u32, u64)]) {
        self.until(&format!("{loads:?}"), || self.loads() == loads)
            .await;
    }

    async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let look = async {
            while !is_so() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        if timeout(PATIENCE, look).await.is_err() {
            panic!("never so: {what}; but {:?}", self.loads());
        }
    }

    async fn route(
        &self,
        tokens: std::ops::Range<u32>,
        session: Option<&str>,
    ) -> (RoutedCall, u64) {
        let request = EngineRequest {
            prompt_ids: tokens.collect(),
            ..EngineRequest::default()
        };
        let slip = Arc::new(RouteSlip::new(RouteHints {
            session: session.map(Arc::from),
            ..RouteHints::default()
        }));
        let context = RequestContext {
            route: Some(Arc::clone(&slip)),
            ..RequestContext::default()
        };
        let call = self.router().route(&request, &context).await.unwrap();
        (call, slip.routed().unwrap().instance)
    }

    async fn has_workers(&self, count: usize) {
        self.until("its workers are there", || self.loads().len() == count)
            .await;
    }

    /// Ends as a process that is killed.
    async fn dies(mut self) {
        self.router = None;
        self.tasks.cancel();
        self.discovery.withdraw().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_see_each_other_s_bookings_until_they_end() {
    let registry = MemRegistry::new();
    let (one, two) = (
        replica(&registry, "m", &[7]).await,
        replica(&registry, "m", &[7]).await,
    );
    one.has_workers(1).await;
    two.has_workers(1).await;
    let (first, _) = one.route(0..16, None).await;
    let (second, _) = two.route(0..20, None).await;
    // Four blocks are of both.
    one.knows(&[(7, 2, 5)]).await;
    two.knows(&[(7, 2, 5)]).await;
    // Who starts late learns of everybody's, though its workers come later still.
    let late = replica(&registry, "m", &[]).await;
    late.until("both are heard", || late.router().replicas().peers == 2)
        .await;
    late.workers.send_replace(workers(&[7]));
    late.knows(&[(7, 2, 5)]).await;
    let other = replica(&registry, "another model", &[7]).await;
    drop(first);
    one.knows(&[(7, 1, 5)]).await;
    late.knows(&[(7, 1, 5)]).await;
    drop(second);
    for each in [&one, &two, &late] {
        each.knows(&[(7, 0, 0)]).await;
        assert_eq!(each.router().replicas().malformed, 0);
    }
    assert_eq!(other.router().replicas().peers, 0);
    assert_eq!(other.router().replicas().heard, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_dies_is_forgotten_with_its_bookings() {
    let registry = MemRegistry::new();
    let (one, two) = (
        replica(&registry, "m", &[7, 8]).await,
        replica(&registry, "m", &[7, 8]).await,
    );
    one.has_workers(2).await;
    two.has_workers(2).await;
    let (_first, chosen) = one.route(0..8, None).await;
    let other = 15 - chosen;
    let own = |loads: [(u64, u32, u64); 2]| {
        let mut loads = loads;
        loads.sort_unstable();
        loads
    };
    two.knows(&own([(chosen, 1, 2), (other, 0, 0)])).await;
    // With one view, the second goes where the first did not.
    let (_second, elsewhere) = two.route(100..108, None).await;
    assert_eq!(elsewhere, other);
    one.knows(&own([(chosen, 1, 2), (other, 1, 2)])).await;
    one.dies().await;
    two.knows(&own([(chosen, 0, 0), (other, 1, 2)])).await;
    two.until("nobody else is there", || {
        two.router().replicas().peers == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_goes_on_at_its_worker_whichever_replica_gets_it() {
    let registry = MemRegistry::new();
    let ids = [1, 2, 3, 4, 5, 6, 7, 8];
    let one = replica(&registry, "m", &ids).await;
    one.has_workers(8).await;
    let (call, chosen) = one.route(0..8, Some("alice")).await;
    drop(call);
    let late = replica(&registry, "m", &ids).await;
    late.has_workers(8).await;
    late.until("its binding is heard", || {
        late.router().replicas().heard > 0
    })
    .await;
    let mut calls = Vec::new();
    for nth in 1..4 {
        let tokens = nth * 100..nth * 100 + 8;
        let (call, again) = late.route(tokens, Some("alice")).await;
        assert_eq!(again, chosen);
        calls.push(call);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_that_a_snapshot_holds_already_are_not_taken_over_twice() {
    let registry = MemRegistry::new();
    let one = replica(&registry, "m", &[7]).await;
    one.has_workers(1).await;
    let mut peers = Peers::new(Arc::clone(one.router().shared()));
    let publisher = InstanceId::new(99).unwrap();
    let id = BookingId {
        origin: 5,
        number: 0,
    };
    let booked = Change::Booking(BookChange::Booked {
        id,
        worker: WorkerKey {
            instance: 7,
            dp_rank: 0,
        },
        prefill_tokens: 8,
        blocks: vec![1, 2],
        own_blocks: 1,
        expected_output_tokens: None,
    });
    let block = Change::Booking(BookChange::Block {
        id,
        hash: None,
        generated_tokens: 4,
    });
    let tell = |peers: &mut Peers, telling: &Telling| {
        let piece = encode(telling).unwrap();
        peers.read(publisher, &piece);
    };
    let steps = |first, changes: &[&Change]| Telling::Steps {
        origin: 5,
        first,
        changes: changes.iter().copied().cloned().collect(),
    };
    // Steps of somebody who has not begun are not understood.
    tell(&mut peers, &steps(0, &[&block]));
    assert_eq!(one.router().replicas().malformed, 1);
    tell(&mut peers, &Telling::Anew { origin: 5, next: 2 });
    let state = Telling::State {
        origin: 5,
        changes: vec![booked.clone()],
    };
    tell(&mut peers, &state);
    assert_eq!(one.loads(), [(7, 1, 3)]);
    tell(&mut peers, &steps(0, &[&booked, &block, &block]));
    assert_eq!(one.loads(), [(7, 1, 4)], "two of the three were known");
    // Nobody speaks for others, and garbage is counted.
    let foreign = Telling::Steps {
        origin: 6,
        first: 3,
        changes: vec![Change::Booking(BookChange::Ended(id))],
    };
    tell(&mut peers, &foreign);
    peers.read(publisher, b"\xc1 no message");
    assert_eq!(one.router().replicas().malformed, 3);
    assert_eq!(one.loads(), [(7, 1, 4)]);
    tell(&mut peers, &Telling::Anew { origin: 5, next: 9 });
    assert_eq!(one.loads(), [(7, 0, 0)]);
}

#[test]
fn batches_are_bounded_in_changes_and_in_blocks() {
    let id = BookingId {
        origin: 1,
        number: 1,
    };
    let booked = |blocks: usize| {
        Change::Booking(BookChange::Booked {
            id,
            worker: WorkerKey {
                instance: 7,
                dp_rank: 0,
            },
            prefill_tokens: 8,
            blocks: vec![u64::MAX; blocks],
            own_blocks: 0,
            expected_output_tokens: None,
        })
    };
    let lengths =
        |changes: Vec<Change>| -> Vec<usize> { batches(changes).iter().map(Vec::len).collect() };
    assert_eq!(lengths(Vec::new()), [0; 0]);
    let ended = Change::Booking(BookChange::Ended(id));
    assert_eq!(lengths(vec![ended; 2 * MAX_BATCH + 1]), [256, 256, 1]);
    let mixed = [5_000, 1, 4_000, 95, 1, 9_000];
    assert_eq!(lengths(mixed.map(booked).into()), [1, 3, 1, 1]);
    let full = Telling::Steps {
        origin: 1,
        first: 0,
        changes: vec![booked(MAX_BATCH_BLOCKS)],
    };
    assert!(encode(&full).unwrap().len() < 48 * 1024);
}
