//! Every discovery backend against the one contract.

use dynamo_runtime::discovery::contract::{TestBackend, TestProcess};
use dynamo_runtime::discovery::etcd::EtcdDiscovery;
use dynamo_runtime::discovery::file::{FileDiscovery, FileTimings};
use dynamo_runtime::discovery::k8s_like::{K8sCluster, K8sLike};
use dynamo_runtime::discovery::mem::{MemDiscovery, MemRegistry};
use dynamo_runtime::discovery::{
    Discovery, DiscoveryError, DiscoveryMetrics, DiscoveryWatch, ProcessId, ProcessRecord,
};
use dynamo_runtime::etcd::{Endpoint, EtcdSettings, TlsFiles};
use dynamo_runtime::{Environment, Tasks, discovery_contract};
use dynamo_testkit::etcd_server::EtcdServer;
use futures_util::future::BoxFuture;
use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

discovery_contract!(mem, MemBackend(MemRegistry::new()));
discovery_contract!(k8s_like, K8sBackend::new());
discovery_contract!(file, FileBackend::new(Return::AsItWas));
discovery_contract!(file_that_lost_everything, FileBackend::new(Return::Empty));
discovery_contract!(etcd, EtcdBackend::new(Return::AsItWas));
discovery_contract!(etcd_that_lost_everything, EtcdBackend::new(Return::Empty));

/// Gives a backend's handle the way it is killed.
#[derive(Debug)]
struct Process<D> {
    discovery: D,
    kill: fn(D),
}

impl<D: Discovery> Discovery for Process<D> {
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>> {
        self.discovery.announce(record)
    }

    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>> {
        self.discovery.withdraw()
    }

    fn watch(&self) -> DiscoveryWatch {
        self.discovery.watch()
    }
}

impl<D: Discovery> TestProcess for Process<D> {
    fn kill(self: Box<Self>) {
        (self.kill)(self.discovery);
    }
}

struct MemBackend(MemRegistry);

impl TestBackend for MemBackend {
    fn start(&self) -> Box<dyn TestProcess> {
        Box::new(Process {
            discovery: self.0.join(),
            kill: drop::<MemDiscovery>,
        })
    }

    fn set_available(&self, available: bool) {
        self.0.set_available(available);
    }
}

struct K8sBackend {
    cluster: K8sCluster,
    tasks: Tasks,
    started: AtomicU32,
}

impl K8sBackend {
    fn new() -> Self {
        Self {
            cluster: K8sCluster::new(),
            tasks: Tasks::root(),
            started: AtomicU32::new(0),
        }
    }
}

impl TestBackend for K8sBackend {
    fn start(&self) -> Box<dyn TestProcess> {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let pod = self.cluster.start(&format!("worker-{number}"), &self.tasks);
        Box::new(Process {
            discovery: pod,
            kill: drop::<K8sLike>,
        })
    }

    fn set_available(&self, available: bool) {
        self.cluster.set_available(available);
    }
}

/// What the folder or the server holds after an outage.
#[derive(Clone, Copy)]
enum Return {
    AsItWas,
    Empty,
}

struct FileBackend {
    temp: TempDir,
    tasks: Tasks,
    returns: Return,
}

impl FileBackend {
    fn new(returns: Return) -> Self {
        Self {
            temp: tempfile::tempdir().unwrap(),
            tasks: Tasks::root(),
            returns,
        }
    }

    fn folder(&self) -> PathBuf {
        self.temp.path().join("discovery")
    }
}

impl TestBackend for FileBackend {
    fn start(&self) -> Box<dyn TestProcess> {
        let timings = FileTimings {
            poll: Duration::from_millis(5),
            keep: Duration::from_millis(20),
            rejoin_grace: Duration::from_secs(2),
        };
        let environment = Environment::system();
        let discovery = FileDiscovery::open(self.folder(), environment, &self.tasks, timings);
        Box::new(Process {
            discovery: discovery.unwrap(),
            kill: FileDiscovery::abandon,
        })
    }

    fn set_available(&self, available: bool) {
        let (folder, away) = (self.folder(), self.temp.path().join("away"));
        if !available {
            // A file in the folder's place keeps the processes from making it anew.
            let blocker = self.temp.path().join("blocker");
            fs::write(&blocker, "").unwrap();
            fs::rename(&folder, &away).unwrap();
            fs::rename(&blocker, &folder).unwrap();
            return;
        }
        fs::remove_file(&folder).unwrap();
        if matches!(self.returns, Return::AsItWas) {
            // A process may have made the folder anew already: its files are put back once more.
            drop(fs::remove_dir_all(&folder));
            drop(fs::rename(&away, &folder));
        }
    }
}

struct EtcdBackend {
    server: RefCell<EtcdServer>,
    tasks: Tasks,
    returns: Return,
}

impl EtcdBackend {
    fn new(returns: Return) -> Self {
        Self {
            server: RefCell::new(EtcdServer::start()),
            tasks: Tasks::root(),
            returns,
        }
    }
}

impl TestBackend for EtcdBackend {
    fn start(&self) -> Box<dyn TestProcess> {
        let settings = EtcdSettings {
            endpoints: vec![Endpoint::parse(&self.server.borrow().endpoint()).unwrap()],
            user: None,
            tls: TlsFiles::default(),
            // A call may take a third of it, also where many start at once on a busy machine.
            lease_ttl: Duration::from_secs(9),
        };
        let environment = Environment::system();
        let metrics = DiscoveryMetrics::new().unwrap();
        Box::new(Process {
            discovery: EtcdDiscovery::start(settings, environment, &self.tasks, &metrics),
            kill: EtcdDiscovery::abandon,
        })
    }

    fn set_available(&self, available: bool) {
        let mut server = self.server.borrow_mut();
        if !available {
            server.kill();
            return;
        }
        if matches!(self.returns, Return::Empty) {
            server.forget();
        }
        server.restart();
    }
}
