//! The request plane over NATS against the contract that every backend passes.

use crate::proxy::{Proxy, Traffic};
use dynamo_nats::{Link, NatsOptions, NatsPlane};
use dynamo_runtime::request_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::request_plane::{RequestPlane, TcpPlaneOptions};
use dynamo_runtime::status::HealthState;
use dynamo_runtime::{Environment, Tasks, request_plane_contract};
use dynamo_testkit::nats_server::NatsServer;
use futures_util::future::BoxFuture;
use std::time::Duration;

request_plane_contract!(
    nats,
    [flavor = "multi_thread", worker_threads = 2],
    Nats::start("").await
);

request_plane_contract!(
    nats_with_small_messages,
    [flavor = "multi_thread", worker_threads = 2],
    Nats::start("max_payload: 4096").await
);

/// What the stream contract promises, with room for a busy machine.
const LOSS_BOUND: Duration = Duration::from_secs(30);

struct Nats {
    server: NatsServer,
}

pub(crate) struct NatsProcess {
    pub(crate) plane: NatsPlane,
    pub(crate) link: Link,
    tasks: Tasks,
    proxy: Proxy,
}

impl Nats {
    async fn start(settings: &str) -> Self {
        Self {
            server: NatsServer::start_with(settings),
        }
    }
}

impl NatsProcess {
    pub(crate) async fn start(server: &NatsServer) -> Self {
        let (tasks, environment) = (Tasks::root(), Environment::system());
        let proxy = Proxy::to(server.address()).await;
        let options = NatsOptions {
            nats_server: proxy.url(),
            ..NatsOptions::default()
        };
        let health = HealthState::new();
        let link = Link::open(&options, &environment, &tasks, &health).await;
        let link = link.unwrap();
        let options = TcpPlaneOptions::default();
        let plane = NatsPlane::start(link.clone(), environment, tasks.child(), &options).await;
        Self {
            plane: plane.unwrap(),
            link,
            tasks,
            proxy,
        }
    }
}

impl TestBackend for Nats {
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>> {
        Box::pin(
            async move { Box::new(NatsProcess::start(&self.server).await) as Box<dyn TestProcess> },
        )
    }

    fn loss_bound(&self) -> Duration {
        LOSS_BOUND
    }
}

impl TestProcess for NatsProcess {
    fn plane(&self) -> &dyn RequestPlane {
        &self.plane
    }

    fn kill(&self) {
        self.proxy.set(Traffic::Ended);
        self.tasks.cancel();
    }

    fn set_frozen(&self, frozen: bool) {
        self.proxy.set(if frozen {
            Traffic::Stands
        } else {
            Traffic::Flows
        });
    }
}

impl Drop for NatsProcess {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
