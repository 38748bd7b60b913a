//! The `etcd` backend against real servers that die, freeze, forget, compact, refuse and encrypt.

use dynamo_config::Secret;
use dynamo_runtime::discovery::etcd::{EtcdDiscovery, PREFIX};
use dynamo_runtime::discovery::{
    Discovery, DiscoveryError, DiscoveryMetrics, DiscoveryWatch, EndpointId, InstanceRecord,
    Metadata, ProcessId, ProcessRecord, View,
};
use dynamo_runtime::etcd::{Endpoint, EtcdSettings, TlsFiles, User};
use dynamo_runtime::{Environment, Tasks};
use dynamo_testkit::certificates::Certificates;
use dynamo_testkit::etcd_server::EtcdServer;
use prometheus::core::Collector;
use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Nothing in a healthy run takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

const TTL: Duration = Duration::from_secs(3);

fn settings(endpoints: &[&str]) -> EtcdSettings {
    let endpoints = endpoints.iter().map(|text| Endpoint::parse(text).unwrap());
    EtcdSettings {
        endpoints: endpoints.collect(),
        user: None,
        tls: TlsFiles::default(),
        lease_ttl: TTL,
    }
}

/// A process, as far as discovery is concerned.
struct Process {
    discovery: EtcdDiscovery,
    metrics: DiscoveryMetrics,
    _tasks: Tasks,
}

impl Process {
    fn start(settings: EtcdSettings) -> Self {
        let (tasks, metrics) = (Tasks::root(), DiscoveryMetrics::new().unwrap());
        let environment = Environment::system();
        Self {
            discovery: EtcdDiscovery::start(settings, environment, &tasks, &metrics),
            metrics,
            _tasks: tasks,
        }
    }

    fn of(server: &EtcdServer) -> Self {
        Self::start(settings(&[&server.endpoint()]))
    }

    async fn announce(&self, number: u16) -> ProcessId {
        self.discovery.announce(record(number)).await.unwrap()
    }

    /// The value of one of its metrics.
    fn metric(&self, name: &str) -> f64 {
        let families = self.metrics.collect();
        let family = families.iter().find(|family| family.name() == name);
        let metric = &family.unwrap().get_metric()[0];
        metric.get_gauge().get_value() + metric.get_counter().get_value()
    }

    async fn until_metric(&self, name: &str, is_so: impl Fn(f64) -> bool) {
        let waiting = async {
            while !is_so(self.metric(name)) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("{name} is {}", self.metric(name)));
    }
}

fn record(number: u16) -> ProcessRecord {
    ProcessRecord {
        instances: vec![InstanceRecord {
            endpoint: EndpointId::new("ns", "comp", "ep").unwrap(),
            address: format!("tcp://127.0.0.1:{number}"),
            metadata: Metadata::new(),
        }],
        ..ProcessRecord::default()
    }
}

/// Follows a watch, and never lets go of those that are not to go.
struct Follower {
    watch: DiscoveryWatch,
    view: View,
    held: BTreeSet<ProcessId>,
}

impl Follower {
    fn new(process: &Process) -> Self {
        Self {
            watch: process.discovery.watch(),
            view: View::default(),
            held: BTreeSet::new(),
        }
    }

    async fn step(&mut self) {
        let stepped = timeout(PATIENCE, self.watch.next()).await;
        let event = stepped.unwrap_or_else(|_| panic!("nothing happens at {:?}", self.view));
        self.view.apply(event.unwrap());
        for id in &self.held {
            let known = self.view.processes().contains_key(id);
            assert!(known, "{id} vanished: {:?}", self.view);
        }
    }

    async fn until(&mut self, is_so: impl Fn(&View) -> bool) {
        while !(self.view.is_known() && is_so(&self.view)) {
            self.step().await;
        }
    }

    async fn until_exactly(&mut self, ids: &[ProcessId]) {
        let ids: BTreeSet<ProcessId> = ids.iter().copied().collect();
        self.until(|view| view.processes().keys().eq(&ids)).await;
    }

    async fn until_stale(&mut self) {
        self.until(|view| view.stale_since().is_some()).await;
    }

    async fn until_fresh(&mut self) {
        self.until(|view| view.stale_since().is_none()).await;
    }
}

/// A server, two processes that announced themselves, and a watcher that must not lose them.
async fn running() -> (EtcdServer, [Process; 2], [ProcessId; 2], Process, Follower) {
    let server = EtcdServer::start();
    let processes = [Process::of(&server), Process::of(&server)];
    let ids = [
        processes[0].announce(1).await,
        processes[1].announce(2).await,
    ];
    let watcher = Process::of(&server);
    let mut follower = Follower::new(&watcher);
    follower.until_exactly(&ids).await;
    follower.held = ids.into();
    (server, processes, ids, watcher, follower)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_lost_its_data_and_its_revisions_loses_nobody() {
    let (mut server, processes, ids, watcher, mut follower) = running().await;
    // The revisions of the new store are far behind those that were seen.
    for number in 0..50 {
        processes[0].announce(100 + number).await;
    }
    server.kill();
    follower.until_stale().await;
    assert_eq!(watcher.metric("dynamo_discovery_stale"), 1.0);
    // As long as leases last, and longer: an outage has no bound.
    sleep(TTL + Duration::from_secs(1)).await;
    server.forget();
    server.restart();
    follower.until_fresh().await;
    assert_eq!(watcher.metric("dynamo_discovery_stale"), 0.0);
    assert!(watcher.metric("dynamo_discovery_reconnects_total") >= 1.0);
    for process in &processes {
        assert_eq!(process.metric("dynamo_discovery_announced"), 1.0);
        assert_eq!(process.metric("dynamo_discovery_leases_lost_total"), 1.0);
    }
    // The new store holds them too, for those who come now.
    let late = Process::of(&server);
    Follower::new(&late).until_exactly(&ids).await;
    // And it is followed as before.
    let third = Process::of(&server);
    let third_id = third.announce(3).await;
    follower.until_exactly(&[ids[0], ids[1], third_id]).await;
    drop(third);
    follower.until_exactly(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_etcd_that_ends_all_leases_when_it_thaws_loses_nobody() {
    let (server, processes, ids, watcher, mut follower) = running().await;
    server.freeze();
    follower.until_stale().await;
    // Time goes by for the frozen server too: each lease is over when it thaws.
    sleep(TTL + Duration::from_secs(2)).await;
    server.thaw();
    follower.until_fresh().await;
    follower.until_exactly(&ids).await;
    assert_eq!(watcher.metric("dynamo_discovery_stale"), 0.0);
    let id = processes[0].announce(9).await;
    assert_eq!(id, ids[0]);
    follower
        .until(|view| *view.processes()[&id] == record(9))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_lease_is_taken_again_under_the_same_id() {
    let (server, processes, ids, _watcher, mut follower) = running().await;
    follower.held.clear();
    let lease = format!("{:x}", ids[0].get());
    server.ctl(&["lease", "revoke", &lease]);
    follower.until_exactly(&ids[1..]).await;
    follower.until_exactly(&ids).await;
    assert_eq!(
        processes[0].metric("dynamo_discovery_leases_lost_total"),
        1.0
    );
    // A key that somebody takes away is put back with the next renewal.
    server.ctl(&["del", &format!("{PREFIX}{}", ids[1])]);
    follower.until_exactly(&ids[..1]).await;
    follower.until_exactly(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compaction_under_a_watcher_costs_nothing() {
    let (server, processes, ids, watcher, mut follower) = running().await;
    for number in 0..20 {
        processes[0].announce(number).await;
        let status = server.ctl(&["get", PREFIX, "--write-out=json"]);
        let (_, revision) = status.split_once("\"revision\":").unwrap();
        let revision = revision.split([',', '}']).next().unwrap();
        server.ctl(&["compact", revision]);
        // One who comes now reads what is left.
        Follower::new(&Process::of(&server))
            .until_exactly(&ids)
            .await;
    }
    follower
        .until(|view| *view.processes()[&ids[0]] == record(19))
        .await;
    assert_eq!(follower.view.stale_since(), None);
    assert_eq!(watcher.metric("dynamo_discovery_reconnects_total"), 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_processes_than_a_page_are_all_seen() {
    let server = EtcdServer::start();
    let record = serde_json::to_string(&record(1)).unwrap();
    let expected: Vec<ProcessId> = (1..=150).map(|n| ProcessId::new(n).unwrap()).collect();
    for id in &expected {
        server.ctl(&["put", &format!("{PREFIX}{id}"), &record]);
    }
    let process = Process::of(&server);
    let mut follower = Follower::new(&process);
    follower.step().await;
    assert!(follower.view.processes().keys().eq(&expected));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_do_not_answer_are_passed_over() {
    let server = EtcdServer::start();
    // One where nobody listens, one that takes connections and says nothing, one that is no etcd.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let endpoints = ["http://127.0.0.1:1", silent.as_str(), &server.endpoint()];
    for rotation in 0..endpoints.len() {
        let mut endpoints = endpoints;
        endpoints.rotate_left(rotation);
        let process = Process::start(settings(&endpoints));
        let id = process.announce(1).await;
        let mut follower = Follower::new(&process);
        follower
            .until(|view| view.processes().contains_key(&id))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_etcd_a_process_says_what_is_missing_and_goes_on_when_it_comes() {
    let mut server = EtcdServer::start();
    server.kill();
    let process = Process::of(&server);
    let mut follower = Follower::new(&process);
    let error = process.discovery.announce(record(1)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, DiscoveryError::Unavailable { .. }),
        "{text}"
    );
    assert!(
        text.contains(&server.endpoint()) && text.contains("--etcd-endpoints"),
        "{text}"
    );
    let held_back = timeout(Duration::from_millis(300), follower.watch.next()).await;
    assert!(held_back.is_err(), "{held_back:?}");
    server.restart();
    follower.until(|view| view.processes().len() == 1).await;
    process
        .until_metric("dynamo_discovery_announced", |value| value == 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_let_in_with_their_password_alone() {
    let server = EtcdServer::start_with("http", &["--auth-token-ttl=1".to_owned()]);
    for words in [
        "user add root:secret",
        "user add dynamo:open-sesame",
        "user add stranger:known",
        "role add discovery",
        "role grant-permission discovery readwrite /dynamo/v1/ --prefix",
        "user grant-role dynamo discovery",
        "user grant-role root root",
        "auth enable",
    ] {
        server.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    let start = |user: Option<(&str, &str)>| {
        let mut settings = settings(&[&server.endpoint()]);
        settings.user = user.map(|(name, password)| User {
            name: name.to_owned(),
            password: Secret::new(password),
        });
        Process::start(settings)
    };
    let known = start(Some(("dynamo", "open-sesame")));
    let id = known.announce(1).await;
    let mut follower = Follower::new(&known);
    follower.until_exactly(&[id]).await;
    for stranger in [
        None,
        Some(("dynamo", "wrong-password")),
        Some(("stranger", "known")),
    ] {
        let process = start(stranger);
        let error = process.discovery.announce(record(2)).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DiscoveryError::Refused { .. }), "{text}");
        assert!(
            text.contains("--etcd-username") && text.contains("--etcd-password"),
            "{text}"
        );
        assert!(!text.contains("wrong-password"), "{text}");
    }
    // Tokens end after a second without use, and with the server: others are asked for.
    let mut other = start(Some(("dynamo", "open-sesame")));
    sleep(Duration::from_secs(2)).await;
    let second = other.announce(2).await;
    follower.until_exactly(&[id, second]).await;
    assert_eq!(follower.view.stale_since(), None);
    drop(std::mem::replace(&mut other, start(None)));
    follower.until_exactly(&[id]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_is_spoken_with_the_right_certificates_alone() {
    let certificates = Certificates::make();
    certificates.authority("stranger");
    let server = EtcdServer::start_tls(&certificates);
    let start = |ca: &str, client: Option<(&str, &str)>| {
        let mut settings = settings(&[&server.endpoint()]);
        settings.tls = TlsFiles {
            ca: Some(certificates.path(ca)),
            client: client.map(|(cert, key)| (certificates.path(cert), certificates.path(key))),
        };
        Process::start(settings)
    };
    let client = Some(("client.pem", "client.key"));
    let process = start("ca.pem", client);
    let id = process.announce(1).await;
    Follower::new(&process).until_exactly(&[id]).await;

    let wrong_authority = start("stranger.pem", client);
    let error = wrong_authority
        .discovery
        .announce(record(2))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("certificate") && text.contains("--etcd-ca"),
        "{text}"
    );
    let no_certificate = start("ca.pem", None);
    let error = no_certificate
        .discovery
        .announce(record(2))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains("--etcd-client-cert"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_this_etcd_does_not_take_is_refused_with_what_to_change() {
    let server = EtcdServer::start_with("http", &["--max-request-bytes=4096".to_owned()]);
    let process = Process::of(&server);
    process.announce(1).await;
    let mut large = record(2);
    let padding = "x".repeat(10_000);
    large.instances[0]
        .metadata
        .insert("padding".to_owned(), padding.into());
    let error = process.discovery.announce(large).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, DiscoveryError::Refused { .. }), "{text}");
    assert!(text.contains("--max-request-bytes"), "{text}");
    process.announce(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_record_is_left_out_and_counted() {
    let (server, _processes, ids, watcher, mut follower) = running().await;
    server.ctl(&["put", &format!("{PREFIX}not-an-id"), "{}"]);
    server.ctl(&["put", &format!("{PREFIX}77"), "no json"]);
    watcher
        .until_metric("dynamo_discovery_skipped_entries_total", |count| {
            count == 2.0
        })
        .await;
    // In a listing too.
    let late = Process::of(&server);
    Follower::new(&late).until_exactly(&ids).await;
    assert_eq!(late.metric("dynamo_discovery_skipped_entries_total"), 2.0);
    // A process whose value cannot be read is none.
    follower.held.clear();
    server.ctl(&["put", &format!("{PREFIX}{}", ids[0]), "[]"]);
    follower.until_exactly(&ids[1..]).await;
    follower.until_exactly(&ids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_takes_leave_before_it_ends() {
    let server = EtcdServer::start();
    let tasks = Tasks::root();
    let metrics = DiscoveryMetrics::new().unwrap();
    let settings = settings(&[&server.endpoint()]);
    let discovery = EtcdDiscovery::start(settings, Environment::system(), &tasks, &metrics);
    discovery.announce(record(1)).await.unwrap();
    let keys = || server.ctl(&["get", "--prefix", PREFIX, "--keys-only"]);
    assert!(keys().contains(PREFIX));
    timeout(PATIENCE, tasks.stop()).await.unwrap();
    assert_eq!(keys(), "");
    // A server that does not answer does not hold it.
    let tasks = Tasks::root();
    let metrics = DiscoveryMetrics::new().unwrap();
    let settings = self::settings(&[&server.endpoint()]);
    let discovery = EtcdDiscovery::start(settings, Environment::system(), &tasks, &metrics);
    discovery.announce(record(1)).await.unwrap();
    server.freeze();
    timeout(PATIENCE, tasks.stop()).await.unwrap();
}
