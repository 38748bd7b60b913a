//! The event plane over NATS against the contract that every backend passes, and what the server
//! keeps.

use crate::PATIENCE;
use bytes::Bytes;
use dynamo_nats::{Link, NatsEvents, NatsOptions, NatsPlane};
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::discovery::{Discovery, EndpointId};
use dynamo_runtime::event_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::event_plane::{
    Broadcast, Channel, ChannelState, EventPlane, News, PublisherNews,
};
use dynamo_runtime::request_plane::{RequestPlane, TcpPlane, TcpPlaneOptions};
use dynamo_runtime::status::HealthState;
use dynamo_runtime::{Environment, Tasks, event_plane_contract};
use dynamo_testkit::nats_server::NatsServer;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use tokio::time::timeout;

event_plane_contract!(
    nats,
    [flavor = "multi_thread", worker_threads = 2],
    Nats::start("", true).await
);

event_plane_contract!(
    nats_beside_tcp_requests,
    [flavor = "multi_thread", worker_threads = 2],
    Nats::start("", false).await
);

struct Nats {
    server: NatsServer,
    registry: MemRegistry,
    nats_requests: bool,
    jetstream: bool,
}

struct NatsProcess {
    plane: Arc<dyn EventPlane>,
    medium: Arc<dyn Broadcast>,
    discovery: Arc<dyn Discovery>,
    tasks: Tasks,
}

impl Nats {
    async fn start(settings: &str, nats_requests: bool) -> Self {
        Self {
            server: NatsServer::start_with(settings),
            registry: MemRegistry::new(),
            nats_requests,
            jetstream: false,
        }
    }

    async fn join(&self) -> NatsProcess {
        let (tasks, environment) = (Tasks::root(), Environment::system());
        let options = NatsOptions {
            nats_server: self.server.url(),
            ..NatsOptions::default()
        };
        let health = HealthState::new();
        let link = Link::open(&options, &environment, &tasks, &health).await;
        let link = link.unwrap();
        let requests: Arc<dyn RequestPlane> = if self.nats_requests {
            let options = TcpPlaneOptions::default();
            let plane =
                NatsPlane::start(link.clone(), environment.clone(), tasks.child(), &options);
            Arc::new(plane.await.unwrap())
        } else {
            let options = TcpPlaneOptions::default();
            let plane = TcpPlane::bind(environment.clone(), tasks.child(), &options);
            Arc::new(plane.await.unwrap())
        };
        let random = Arc::clone(&environment.random);
        let medium = NatsEvents::start(link, tasks.child(), random, self.jetstream);
        let medium: Arc<dyn Broadcast> = Arc::new(medium.await);
        let discovery: Arc<dyn Discovery> = Arc::new(self.registry.join());
        let runtime =
            DistributedRuntime::new(environment, tasks.clone(), Arc::clone(&discovery), requests);
        NatsProcess {
            plane: runtime.with_event_medium(Arc::clone(&medium)).event_plane(),
            medium,
            discovery,
            tasks,
        }
    }
}

impl TestBackend for Nats {
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>> {
        Box::pin(async move { Box::new(self.join().await) as Box<dyn TestProcess> })
    }
}

impl TestProcess for NatsProcess {
    fn plane(&self) -> &dyn EventPlane {
        &*self.plane
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.tasks.cancel();
            self.discovery.withdraw().await.unwrap();
        })
    }
}

impl Drop for NatsProcess {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

/// A state that needs no telling: its snapshot is its last event.
#[derive(Debug)]
struct Last(u32);

impl ChannelState for Last {
    fn snapshot(&self) -> Vec<Bytes> {
        vec![Bytes::copy_from_slice(&self.0.to_le_bytes())]
    }
}

fn number(bytes: &Bytes) -> u32 {
    u32::from_le_bytes(bytes[..].try_into().unwrap())
}

fn publish(channel: &Channel<Last>, number: u32) {
    channel.publish(|last| {
        last.0 = number;
        Some(Bytes::copy_from_slice(&number.to_le_bytes()))
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_go_on_after_the_server_was_killed() {
    let mut backend = Nats::start("", true).await;
    let (publisher, subscriber) = (backend.join().await, backend.join().await);
    let name = EndpointId::new("ns", "comp", "last").unwrap();
    let channel = Arc::new(Channel::new(1, Last(0)));
    let publication = publisher.plane.publish(name.clone(), channel.clone() as _);
    let _publication = publication.await.unwrap();
    let mut subscription = subscriber.plane.subscribe(name, Arc::new(|_| true));
    let mut known = None;
    for round in 0..3 {
        let end = (round + 1) * 100;
        for next in round * 100 + 1..=end {
            publish(&channel, next);
            if next % 100 == 50 {
                backend.server.restart();
            }
        }
        let hear = async {
            while known != Some(end) {
                let PublisherNews { news, .. } = subscription.next().await.unwrap();
                match news {
                    News::Snapshot(state) => known = Some(number(&state[0])),
                    News::Events(events) => {
                        for event in &events {
                            assert_eq!(Some(number(event)), known.map(|last| last + 1));
                            known = Some(number(event));
                        }
                    }
                    News::Lost => {}
                    News::Gone => panic!("it is there"),
                }
            }
        };
        timeout(PATIENCE, hear).await.expect("all of it is heard");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_keeps_events_and_gives_them_again() {
    let folder = tempfile::tempdir().unwrap();
    let settings = format!("jetstream {{ store_dir: {:?} }}", folder.path());
    let mut backend = Nats::start(&settings, true).await;
    backend.jetstream = true;
    let process = backend.join().await;
    let name = EndpointId::new("ns", "comp", "kept").unwrap();
    let topic = process.medium.open(&name).await.unwrap();
    let mut listening = process.medium.listen(topic.address()).await.unwrap();
    // The stream is made in the background: the first messages may come before it.
    let kept = async {
        loop {
            topic.send(Bytes::from_static(b"before")).await;
            listening.next().await.unwrap();
            if !listening.replay().await.is_empty() {
                return;
            }
        }
    };
    timeout(PATIENCE, kept).await.expect("the stream is made");
    for number in 0..10_u8 {
        topic.send(Bytes::copy_from_slice(&[number])).await;
        listening.next().await.unwrap();
    }
    let mut again = Vec::new();
    let read = async {
        while again.len() < 10 {
            again.extend(listening.replay().await);
        }
    };
    timeout(PATIENCE, read).await.expect("they are kept");
    assert!(again.iter().map(|message| message[0]).eq(0..10));
    backend.server.restart();
    // A new listener has them all, also from a server that was killed meanwhile.
    let mut late = process.medium.listen(topic.address()).await.unwrap();
    let all = async {
        loop {
            let all = late.replay().await;
            if !all.is_empty() {
                return all;
            }
        }
    };
    let all = timeout(PATIENCE, all).await.expect("they are on disk");
    assert_eq!(all.last().unwrap()[..], [9]);
}
