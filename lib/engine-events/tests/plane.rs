//! The event plane over ZMQ against the contract that every backend passes.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use dynamo_engine_events::ZmqEvents;
use dynamo_runtime::component::DistributedRuntime;
use dynamo_runtime::discovery::Discovery;
use dynamo_runtime::discovery::mem::MemRegistry;
use dynamo_runtime::event_plane::EventPlane;
use dynamo_runtime::event_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::request_plane::{TcpPlane, TcpPlaneOptions};
use dynamo_runtime::{Environment, Tasks, event_plane_contract};
use futures_util::future::BoxFuture;
use std::sync::Arc;

event_plane_contract!(
    zmq,
    [flavor = "multi_thread", worker_threads = 2],
    Zmq {
        registry: MemRegistry::new()
    }
);

struct Zmq {
    registry: MemRegistry,
}

struct ZmqProcess {
    plane: Arc<dyn EventPlane>,
    discovery: Arc<dyn Discovery>,
    tasks: Tasks,
}

impl TestBackend for Zmq {
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>> {
        Box::pin(async move {
            let (tasks, environment) = (Tasks::root(), Environment::system());
            let options = TcpPlaneOptions::default();
            let requests = TcpPlane::bind(environment.clone(), tasks.child(), &options).await;
            let medium = ZmqEvents::bind(environment.clone(), &tasks, "127.0.0.1", None).await;
            let discovery: Arc<dyn Discovery> = Arc::new(self.registry.join());
            let runtime = DistributedRuntime::new(
                environment,
                tasks.clone(),
                Arc::clone(&discovery),
                Arc::new(requests.unwrap()),
            );
            let runtime = runtime.with_event_medium(Arc::new(medium.unwrap()));
            Box::new(ZmqProcess {
                plane: runtime.event_plane(),
                discovery,
                tasks,
            }) as Box<dyn TestProcess>
        })
    }
}

impl TestProcess for ZmqProcess {
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

impl Drop for ZmqProcess {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}

#[tokio::test]
async fn listening_everywhere_asks_how_it_is_reached() {
    let environment = Environment::system();
    let everywhere = ZmqEvents::bind(environment.clone(), &Tasks::root(), "0.0.0.0", None).await;
    let error = everywhere.unwrap_err().to_string();
    assert!(error.contains("--advertise-host"), "{error}");
    let told = ZmqEvents::bind(environment, &Tasks::root(), "0.0.0.0", Some("worker-0")).await;
    drop(told.unwrap());
}
