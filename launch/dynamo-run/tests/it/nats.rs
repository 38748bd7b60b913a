//! Processes that speak through a `nats-server`, which is killed and started again under load.

use crate::http::ask;
use crate::process::{Dynamo, Place, until};
use crate::workers::{FRONTEND, SLOW, WORKER, stream};
use dynamo_testkit::nats_server::NatsServer;
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

const FLEET: &[&str] = &["mocker", "--block-size", "16", "--speedup-ratio", "4"];

/// Streams at once, and tokens of each.
const STREAMS: usize = 16;
const TOKENS: u64 = 120;

/// A process whose planes go through the server.
fn start(place: &Place, nats: &NatsServer, name: &str, words: &[&str]) -> Dynamo {
    let url = nats.url();
    let planes = ["--request-plane", "nats", "--event-plane", "nats"];
    let words = [words, &planes, &["--nats-server", &url]].concat();
    place.start(name, &words)
}

#[test]
fn a_fleet_over_nats_routes_by_its_caches_and_survives_the_server() {
    let place = Place::new();
    let mut nats = NatsServer::start();
    let _one = start(&place, &nats, "one", FLEET);
    let _two = start(&place, &nats, "two", FLEET);
    let frontend = start(&place, &nats, "frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    until("both workers tell of their caches", || {
        let status = frontend.get("/v1/router/status").json();
        status["routers"][0]["telling"] == 2
    });
    let (done, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let address = frontend.address.as_str();
    let serve = |number: usize| {
        let body = json!({
            "model": "mock",
            "prompt": format!("{number}: {}", "what is there to know of it? ".repeat(8)),
            "max_tokens": TOKENS,
            "ignore_eos": true,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        while !over.load(Ordering::Relaxed) {
            let answer = ask(address, ("POST", "/v1/completions"), &[], &body.to_string());
            let answer = answer.unwrap();
            assert_eq!(answer.status, 200, "{}", frontend.log());
            assert_eq!(answer.header("x-dynamo-router-mode"), Some("kv"));
            let streamed = answer.streamed();
            assert!(
                streamed.complete && streamed.error.is_none(),
                "{streamed:?} {}",
                frontend.log()
            );
            assert_eq!(streamed.finish.as_deref(), Some("length"));
            done.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        let streams: Vec<_> = (0..STREAMS)
            .map(|number| scope.spawn(move || serve(number)))
            .collect();
        let all_go_on = || {
            let before = done.load(Ordering::Relaxed);
            until("all streams go on", || {
                done.load(Ordering::Relaxed) >= before + 2 * STREAMS
                    || streams.iter().any(|stream| stream.is_finished())
            });
        };
        for _ in 0..3 {
            all_go_on();
            nats.kill();
            nats.restart();
        }
        all_go_on();
        nats.freeze();
        // Not a wait for something to happen: this is for how long the server stands still.
        std::thread::sleep(Duration::from_secs(4));
        nats.thaw();
        all_go_on();
        over.store(true, Ordering::Relaxed);
    });
    let log = frontend.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn every_token_of_a_stream_comes_once_though_the_server_is_killed() {
    const LENGTH: usize = 400;
    let place = Place::new();
    let mut nats = NatsServer::start();
    let _worker = start(&place, &nats, "worker", &[WORKER, SLOW].concat());
    let frontend = start(&place, &nats, "frontend", FRONTEND);
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &stream(LENGTH));
    answer.event().unwrap().unwrap();
    nats.kill();
    nats.restart();
    let streamed = answer.streamed();
    assert!(streamed.complete, "{streamed:?} {}", frontend.log());
    // The first event was read above.
    let missing = LENGTH - 1 - streamed.text.len();
    assert!(missing <= 1, "{} {}", streamed.text.len(), frontend.log());
}

#[test]
fn a_server_that_is_not_there_is_waited_for_and_named() {
    let place = Place::new();
    let mut nats = NatsServer::start();
    nats.kill();
    let words = [WORKER, &["--system-port", "0"]].concat();
    let worker = start(&place, &nats, "worker", &words);
    worker.await_log("check --nats-server");
    let status = worker.status_address();
    let health = || ask(&status, ("GET", "/health"), &[], "").unwrap().status;
    assert_eq!(health(), 503);
    nats.restart();
    until("the worker is ready", || health() == 200);
    let frontend = start(&place, &nats, "frontend", FRONTEND);
    frontend.await_models(&["echo"]);
    assert_eq!(frontend.post("/v1/completions", &stream(5)).status, 200);
}

#[test]
fn planes_may_differ_where_only_events_do() {
    let place = Place::new();
    let zmq = ["--event-plane", "zmq"];
    let fleet = place.start("fleet", &[FLEET, &zmq].concat());
    let frontend = place.start("frontend", &[FRONTEND, &zmq].concat());
    let other = place.start("other", FRONTEND);
    for frontend in [&frontend, &other] {
        frontend.await_models(&["mock"]);
        until("the worker tells of its cache", || {
            let status = frontend.get("/v1/router/status").json();
            status["routers"][0]["telling"] == 1
        });
    }
    drop(fleet);
}
