//! Every event-plane backend against the one contract, and what is the direct backend's own.

use bytes::Bytes;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::discovery::{Discovery, EndpointId};
use dynamo_runtime::event_plane::broadcast::{Broadcast, BroadcastError, Listening, Topic};
use dynamo_runtime::event_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::event_plane::{
    BroadcastEventPlane, Channel, ChannelState, DirectEventPlane, EventPlane, News, PublisherNews,
};
use dynamo_runtime::request_plane::{TcpPlane, TcpPlaneOptions};
use dynamo_runtime::{Tasks, event_plane_contract};
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::broadcast;

use crate::request_plane_network::{MemoryNetwork, Switch, Traffic, switched};

event_plane_contract!(
    direct_over_tcp,
    [flavor = "multi_thread", worker_threads = 2],
    Direct::new()
);

event_plane_contract!(
    over_a_medium_that_loses_much,
    [flavor = "multi_thread", worker_threads = 2],
    Direct {
        medium: Some(Arc::new(Lossy::default())),
        ..Direct::new()
    }
);

struct Direct {
    registry: MemRegistry,
    network: Arc<MemoryNetwork>,
    medium: Option<Arc<dyn Broadcast>>,
}

/// A medium in memory that loses every third message of more than one event, and what a listener is
/// too slow for.
#[derive(Debug, Default)]
struct Lossy {
    topics: Mutex<BTreeMap<String, broadcast::Sender<Bytes>>>,
}

struct LossyTopic {
    address: String,
    sender: broadcast::Sender<Bytes>,
    sent: AtomicU64,
}

struct LossyListening(broadcast::Receiver<Bytes>);

impl Broadcast for Lossy {
    fn open<'a>(
        &'a self,
        name: &'a EndpointId,
    ) -> BoxFuture<'a, Result<Box<dyn Topic>, BroadcastError>> {
        let mut topics = self.topics.lock();
        let address = format!("lossy://{name}/{}", topics.len());
        let (sender, _) = broadcast::channel(16);
        topics.insert(address.clone(), sender.clone());
        let topic = LossyTopic {
            address,
            sender,
            sent: AtomicU64::new(0),
        };
        Box::pin(std::future::ready(Ok(Box::new(topic) as Box<dyn Topic>)))
    }

    fn listen<'a>(
        &'a self,
        address: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Listening>, BroadcastError>> {
        let topics = self.topics.lock();
        let receiver = topics.get(address).map(broadcast::Sender::subscribe);
        let listening = receiver
            .map(|receiver| Box::new(LossyListening(receiver)) as Box<dyn Listening>)
            .ok_or_else(|| BroadcastError("no such topic".to_owned()));
        Box::pin(std::future::ready(listening))
    }
}

impl Topic for LossyTopic {
    fn address(&self) -> &str {
        &self.address
    }

    fn max_message(&self) -> usize {
        4096
    }

    fn send(&self, message: Bytes) -> BoxFuture<'_, ()> {
        let is_long = message.len() > 100;
        if !is_long || self.sent.fetch_add(1, Ordering::Relaxed) % 3 != 2 {
            drop(self.sender.send(message));
        }
        Box::pin(std::future::ready(()))
    }
}

impl Listening for LossyListening {
    fn next(&mut self) -> BoxFuture<'_, Option<Bytes>> {
        Box::pin(async {
            loop {
                match self.0.recv().await {
                    Ok(message) => return Some(message),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }
}

struct DirectProcess {
    plane: Arc<dyn EventPlane>,
    discovery: Arc<dyn Discovery>,
    tasks: Tasks,
    switch: Arc<Switch>,
}

impl Direct {
    fn new() -> Self {
        Self {
            registry: MemRegistry::new(),
            network: Arc::default(),
            medium: None,
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
        let plane: Arc<dyn EventPlane> = match &self.medium {
            None => Arc::new(DirectEventPlane::new(runtime)),
            Some(medium) => Arc::new(BroadcastEventPlane::new(runtime, Arc::clone(medium))),
        };
        DirectProcess {
            plane,
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
        &*self.plane
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
    // One that has nothing to tell is heard to be back, too.
    publisher.switch.set(Traffic::Stands);
    assert_eq!(next().await, News::Lost);
    publisher.switch.set(Traffic::Flows);
    assert_eq!(next().await, News::Events(Vec::new()));
    publish(4);
    assert_eq!(next().await, News::Events(vec![bytes(4)]));
}
