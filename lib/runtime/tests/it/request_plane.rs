//! Every request-plane backend against the one contract, and what is the tcp backend's own.

use crate::request_plane_network::{MemoryNetwork, Switch, Traffic, switched};
use dynamo_runtime::environment::Network;
use dynamo_runtime::request_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::request_plane::{RequestPlane, TcpPlane, TcpPlaneOptions};
use dynamo_runtime::{Environment, Tasks, request_plane_contract};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

request_plane_contract!(tcp_in_virtual_time, [start_paused = true], Tcp::in_memory());
request_plane_contract!(
    tcp,
    [flavor = "multi_thread", worker_threads = 2],
    Tcp::on_loopback()
);

/// What the stream contract promises by default.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

struct Tcp {
    network: Arc<dyn Network>,
    loss_bound: Duration,
}

struct TcpProcess {
    plane: TcpPlane,
    tasks: Tasks,
    switch: Arc<Switch>,
}

impl Tcp {
    fn in_memory() -> Self {
        Self {
            network: Arc::new(MemoryNetwork::default()),
            loss_bound: NOTICED_WITHIN,
        }
    }

    fn on_loopback() -> Self {
        Self {
            network: Environment::system().network,
            loss_bound: 10 * NOTICED_WITHIN,
        }
    }
}

impl TestBackend for Tcp {
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>> {
        Box::pin(async move {
            let (switch, tasks) = (Arc::<Switch>::default(), Tasks::root());
            let environment = switched(Arc::clone(&self.network), &switch);
            let options = TcpPlaneOptions::default();
            let plane = TcpPlane::bind(environment, tasks.child(), &options).await;
            Box::new(TcpProcess {
                plane: plane.unwrap(),
                tasks,
                switch,
            }) as Box<dyn TestProcess>
        })
    }

    fn loss_bound(&self) -> Duration {
        self.loss_bound
    }
}

impl TestProcess for TcpProcess {
    fn plane(&self) -> &dyn RequestPlane {
        &self.plane
    }

    fn kill(&self) {
        self.switch.set(Traffic::Ended);
        self.tasks.cancel();
    }

    fn set_frozen(&self, frozen: bool) {
        self.switch.set(if frozen {
            Traffic::Stands
        } else {
            Traffic::Flows
        });
    }
}

impl Drop for TcpProcess {
    fn drop(&mut self) {
        self.tasks.cancel();
    }
}
