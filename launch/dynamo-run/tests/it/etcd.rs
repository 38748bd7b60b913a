//! Processes that find each other through etcd: what they do while it is away, and what they say
//! when it does not let them in.

use crate::etcd_server::EtcdServer;
use crate::process::{Dynamo, Place, until};
use crate::workers::{FRONTEND, WORKER};
use rustix::process::Signal;

/// The shortest lease, so that an outage's grace is short.
const TTL: &[&str] = &["--etcd-lease-ttl", "5s"];

const FLEET: &[&str] = &["mocker", "--num-workers", "2"];

fn words(command: &[&str], server: &EtcdServer) -> Vec<String> {
    let backend = ["--discovery-backend", "etcd"];
    let words = [command, &backend, TTL].concat();
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    words.extend(["--etcd-endpoints".to_owned(), server.endpoint()]);
    words
}

fn start(place: &Place, name: &str, command: &[&str], server: &EtcdServer) -> Dynamo {
    let words = words(command, server);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    place.start(name, &words)
}

fn completes(frontend: &Dynamo) {
    let body = serde_json::json!({"model": "mock", "prompt": "hello", "max_tokens": 3});
    let answer = frontend.post("/v1/completions", &body.to_string());
    assert_eq!(answer.status, 200, "{}", frontend.log());
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);
}

fn shows(frontend: &Dynamo, metric: &str) -> bool {
    let metrics = frontend.get("/metrics").text();
    metrics.lines().any(|line| line == metric)
}

#[test]
fn requests_go_on_while_etcd_is_away_and_new_workers_are_seen_when_it_is_back() {
    let mut server = EtcdServer::start();
    let place = Place::new();
    let frontend = start(&place, "frontend", FRONTEND, &server);
    let mut fleet = start(&place, "fleet", FLEET, &server);
    frontend.await_models(&["mock"]);
    completes(&frontend);
    assert!(shows(&frontend, "dynamo_discovery_stale 0"));

    server.kill();
    until("the view is stale", || {
        shows(&frontend, "dynamo_discovery_stale 1")
    });
    frontend.await_log("etcd is out of reach");
    for _ in 0..20 {
        completes(&frontend);
    }
    // One who comes now waits.
    let late = words(WORKER, &server);
    let late: Vec<&str> = late.iter().map(String::as_str).collect();
    let mut late = place.spawn("late", place.command(&late));
    late.await_log("waiting for discovery");
    late.await_log("--etcd-endpoints");

    // It comes back with nothing.
    server.forget();
    server.restart();
    until("the newcomer is seen", || {
        completes(&frontend);
        frontend.models() == ["echo", "mock"]
    });
    until("the view is fresh", || {
        completes(&frontend);
        assert_eq!(frontend.models(), ["echo", "mock"]);
        shows(&frontend, "dynamo_discovery_stale 0")
    });
    for process in [&mut fleet, &mut late] {
        process.signal(Signal::TERM);
        assert_eq!(process.wait().code, Some(0));
    }
    frontend.await_models(&[]);
}

#[test]
fn a_frontend_may_be_there_before_etcd_is() {
    let mut server = EtcdServer::start();
    server.kill();
    let place = Place::new();
    let frontend = start(&place, "frontend", FRONTEND, &server);
    frontend.await_log("--etcd-endpoints");
    assert_eq!(frontend.get("/live").status, 200);
    server.restart();
    let _fleet = start(&place, "fleet", FLEET, &server);
    frontend.await_models(&["mock"]);
    completes(&frontend);
}

#[test]
fn who_is_not_let_in_says_why_and_shows_no_password() {
    let server = EtcdServer::start();
    for words in [
        "user add root:secret",
        "user grant-role root root",
        "auth enable",
    ] {
        server.ctl(&words.split(' ').collect::<Vec<_>>());
    }
    let place = Place::new();
    let words = words(WORKER, &server);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut command = place.command(&words);
    command.env("ETCD_AUTH_USERNAME", "root");
    command.env("ETCD_AUTH_PASSWORD", "not-the-secret");
    let ended = place.spawn("stranger", command).wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("--etcd-password"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("not-the-secret"), "{}", ended.stderr);

    let mut command = place.command(&words);
    command.env("ETCD_AUTH_USERNAME", "root");
    command.env("ETCD_AUTH_PASSWORD", "secret");
    let worker = place.serve("worker", command);
    assert_eq!(worker.address, "dyn://dynamo.backend.generate");
}

#[test]
fn options_that_cannot_be_meant_are_refused_at_once() {
    let place = Place::new();
    let refused: &[(&[&str], &str)] = &[
        (&["--etcd-endpoints", "ftp://host"], "--etcd-endpoints"),
        (&["--etcd-username", "me"], "--etcd-password"),
        (&["--etcd-client-cert", "/no/cert.pem"], "--etcd-client-key"),
        (&["--etcd-ca", "/no/ca.pem"], "https"),
    ];
    for (words, said) in refused {
        let ended = place.run(&[WORKER, &["--discovery-backend", "etcd"], *words].concat());
        assert_eq!(ended.code, Some(1), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
}
