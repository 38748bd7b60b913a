//! Every event-plane backend against the one contract, and what is the direct backend's own.

use bytes::Bytes;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::discovery::{Discovery, EndpointId};
use dynamo_runtime::event_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::event_plane::{
    Channel, ChannelState, DirectEventPlane, EventPlane, News, PublisherNews,
};
use dynamo_runtime::request_plane::{TcpPlane, TcpPlaneOptions};
use dynamo_runtime::{Tasks, event_plane_contract};
use futures_util::future::BoxFuture;
use std::sync::Arc;

use crate::request_plane_network::{MemoryNetwork, Switch, Traffic, switched};

event_plane_contract!(
    direct_over_tcp,
    [flavor = "multi_thread", worker_threads = 2],
    Direct::new()
);

struct Direct {
    registry: MemRegistry,
    network: Arc<MemoryNetwork>,
}

struct DirectProcess {
    plane: DirectEventPlane,
    discovery: Arc<dyn Discovery>,
    tasks: Tasks,
    switch: Arc<Switch>,
}

impl Direct {
    fn new() -> Self {
        Self {
            registry: MemRegistry::new(),
            network: Arc::default(),
        }
    }

    async fn join(&self) -> DirectProcess {
        let (switch, tasks) = (Arc::<Switch>::default(), Tasks::root());
        let environment = switched(Arc::clone(&self.network) as _, &switch);
        let options = TcpPlaneOptions::default();
        let plane = TcpPlane::bind(environment.clone(), tasks.child(), &options).await;
        let discovery: Arc<dyn Discovery> = Arc::new(self.registry.join());
        let runtime = DistributedRuntime::new(
            environment,
            tasks.clone(),
            Arc::clone(&discovery),
            Arc::new(plane.unwrap()),
        );
        DirectProcess {
            plane: DirectEventPlane::new(runtime),
            discovery,
            tasks,
            switch,
        }
    }
}

impl TestBackend for Direct {
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>> {
        Box::pin(async move { Box::new(self.join().await) as Box<dyn TestProcess> })
    }
}

impl TestProcess for DirectProcess {
    fn plane(&self) -> &dyn EventPlane {
        &self.plane
    }

    fn kill(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.tasks.cancel();
            self.discovery.withdraw().await.unwrap();
        })
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

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_was_cut_off_goes_on_where_it_stood() {
    let backend = Direct::new();
    let (publisher, subscriber) = (backend.join().await, backend.join().await);
    let name = EndpointId::new("ns", "comp", "last").unwrap();
    let channel = Arc::new(Channel::new(1, Last(0)));
    let publish = |number: u32| {
        channel.publish(|last| {
            last.0 = number;
            Some(Bytes::copy_from_slice(&number.to_le_bytes()))
        });
    };
    let publication = publisher.plane.publish(name.clone(), channel.clone() as _);
    let publication = publication.await.unwrap();
    let bytes = |number: u32| Bytes::copy_from_slice(&number.to_le_bytes());
    let mut subscription = subscriber.plane.subscribe(name, Arc::new(|_| true));
    let mut next = async || {
        let PublisherNews { publisher, news } = subscription.next().await.unwrap();
        assert_eq!(publisher, publication.instance());
        news
    };
    assert_eq!(next().await, News::Snapshot(vec![bytes(0)]));
    publish(1);
    assert_eq!(next().await, News::Events(vec![bytes(1)]));
    publisher.switch.set(Traffic::Stands);
    publish(2);
    publish(3);
    assert_eq!(next().await, News::Lost);
    publisher.switch.set(Traffic::Flows);
    assert_eq!(next().await, News::Events(vec![bytes(2), bytes(3)]));
}
