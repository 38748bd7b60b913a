//! Every request-plane backend against the one contract, and what is the tcp backend's own.

use crate::request_plane_network::{MemoryNetwork, Switch, Traffic, switched};
use dynamo_runtime::environment::Network;
use dynamo_runtime::request_plane::contract::{TestBackend, TestProcess};
use dynamo_runtime::request_plane::{
    MAX_PROTOCOL_VERSION, RequestPlane, TcpPlane, TcpPlaneOptions,
};
use dynamo_runtime::tls::{ClientTls, NamedFile, ServerTls, TlsNetwork};
use dynamo_runtime::{Environment, Tasks, request_plane_contract};
use dynamo_testkit::certificates::Certificates;
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

request_plane_contract!(tcp_in_virtual_time, [start_paused = true], Tcp::in_memory());
request_plane_contract!(
    tcp,
    [flavor = "multi_thread", worker_threads = 2],
    Tcp::on_loopback()
);

// A fleet is updated process by process: either side may be the older one.
request_plane_contract!(
    tcp_with_an_older_server,
    [start_paused = true],
    Tcp::of_versions([1, 2])
);
request_plane_contract!(
    tcp_with_an_older_caller,
    [start_paused = true],
    Tcp::of_versions([2, 1])
);

request_plane_contract!(
    tcp_encrypted,
    [flavor = "multi_thread", worker_threads = 2],
    Tcp::encrypted()
);

/// What the stream contract promises by default.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);

struct Tcp {
    network: Arc<dyn Network>,
    /// Both sides show certificates.
    certificates: Option<Certificates>,
    loss_bound: Duration,
    /// The newest version that the first process speaks, and the second.
    versions: [u16; 2],
    started: AtomicUsize,
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
            certificates: None,
            loss_bound: NOTICED_WITHIN,
            versions: [MAX_PROTOCOL_VERSION; 2],
            started: AtomicUsize::new(0),
        }
    }

    fn on_loopback() -> Self {
        Self {
            network: Environment::system().network,
            certificates: None,
            loss_bound: 10 * NOTICED_WITHIN,
            ..Self::in_memory()
        }
    }

    fn of_versions(versions: [u16; 2]) -> Self {
        Self {
            versions,
            ..Self::in_memory()
        }
    }

    fn encrypted() -> Self {
        Self {
            certificates: Some(Certificates::make()),
            ..Self::on_loopback()
        }
    }
}

/// The same network, on which both sides show certificates.
pub(crate) fn encrypted(environment: Environment, certificates: &Certificates) -> Environment {
    let file = |name: &str| NamedFile::new("--test", certificates.path(name));
    let (own, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let server = ServerTls::new(own.clone(), key.clone(), Some(ca.clone()), &[]).unwrap();
    let client = ClientTls::new(ca, Some((own, key)), None).unwrap();
    let network = TlsNetwork::new(environment.network, Arc::new(server), Arc::new(client));
    Environment {
        network: Arc::new(network),
        ..environment
    }
}

impl TestBackend for Tcp {
    fn start(&self) -> BoxFuture<'_, Box<dyn TestProcess>> {
        Box::pin(async move {
            let (switch, tasks) = (Arc::<Switch>::default(), Tasks::root());
            let environment = switched(Arc::clone(&self.network), &switch);
            let environment = match &self.certificates {
                Some(certificates) => encrypted(environment, certificates),
                None => environment,
            };
            let number = self.started.fetch_add(1, Ordering::Relaxed);
            let options = TcpPlaneOptions {
                newest_version: self.versions[number % 2],
                ..TcpPlaneOptions::default()
            };
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

    fn tells_acceptance(&self) -> bool {
        self.versions == [MAX_PROTOCOL_VERSION; 2]
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
