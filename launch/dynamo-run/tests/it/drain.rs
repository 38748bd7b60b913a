//! How processes end: signals, drains, exit codes.

use crate::http::ask;
use crate::process::{Place, until};
use crate::serving::SINGLE;
use crate::workers::{FRONTEND, SLOW, WORKER, stream};
use rustix::process::Signal;

#[test]
fn an_idle_process_ends_at_once_with_0() {
    let place = Place::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = place.start("server", SINGLE);
        server.signal(signal);
        assert_eq!(server.wait().code, Some(0));
    }
}

#[test]
fn a_stream_is_finished_before_the_process_ends() {
    let place = Place::new();
    let mut command = place.command(&[SINGLE, SLOW].concat());
    command.env("DYN_SYSTEM_PORT", "0");
    let mut server = place.serve("server", command);
    let status = server.status_address();
    let mut answer = server.post("/v1/completions", &stream(100));
    answer.event().unwrap().unwrap();
    server.signal(Signal::TERM);
    // While it drains it is alive and not ready.
    until("it is not ready", || {
        ask(&status, ("GET", "/health"), &[], "").unwrap().status == 503
    });
    let live = ask(&status, ("GET", "/live"), &[], "").unwrap();
    assert_eq!(live.status, 200);
    let streamed = answer.streamed();
    assert!(streamed.complete, "{streamed:?} {}", server.log());
    assert_eq!(streamed.error, None);
    assert!(streamed.finish.is_some());
    assert_eq!(server.wait().code, Some(0));
}

#[test]
fn a_second_signal_ends_a_process_at_once() {
    let place = Place::new();
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut server = place.start("server", &[SINGLE, SLOW].concat());
        let mut answer = server.post("/v1/completions", &stream(5_000));
        answer.event().unwrap().unwrap();
        server.signal(signal);
        server.await_log("asked to end");
        server.signal(signal);
        assert_eq!(server.wait().code, Some(code));
        assert!(!answer.streamed().complete);
    }
}

#[test]
fn what_outlasts_the_drain_timeout_is_cut_off_with_3() {
    let place = Place::new();
    let words = [SINGLE, SLOW, &["--drain-timeout", "200ms"]].concat();
    let mut server = place.start("server", &words);
    let mut answer = server.post("/v1/completions", &stream(5_000));
    answer.event().unwrap().unwrap();
    server.signal(Signal::TERM);
    let ended = server.wait();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    assert!(ended.stderr.contains("drain time"), "{}", ended.stderr);
    assert_eq!(answer.streamed().finish, None);
}

#[test]
fn a_worker_finishes_its_streams_and_its_model_goes_at_once() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let mut command = place.command(&[WORKER, SLOW].concat());
    command.env("DYN_SYSTEM_PORT", "0");
    let mut worker = place.serve("worker", command);
    let status = worker.status_address();
    let health = || ask(&status, ("GET", "/health"), &[], "").unwrap();
    frontend.await_models(&["echo"]);
    assert_eq!(health().status, 200);
    let mut answer = frontend.post("/v1/completions", &stream(100));
    answer.event().unwrap().unwrap();
    worker.signal(Signal::TERM);
    frontend.await_models(&[]);
    let draining = health();
    assert_eq!(draining.status, 503);
    let endpoints = &draining.json()["endpoints"];
    assert_eq!(endpoints["dyn://dynamo.backend.generate"], "notready");
    let streamed = answer.streamed();
    assert!(streamed.complete, "{streamed:?} {}", worker.log());
    // One token has no text, and one was read above.
    assert_eq!((streamed.text.len(), streamed.error), (98, None));
    assert_eq!(worker.wait().code, Some(0));
}

#[test]
fn a_frontend_finishes_its_streams() {
    let place = Place::new();
    let mut frontend = place.start("frontend", FRONTEND);
    let _worker = place.start("worker", &[WORKER, SLOW].concat());
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &stream(60));
    answer.event().unwrap().unwrap();
    frontend.signal(Signal::TERM);
    let streamed = answer.streamed();
    assert!(streamed.complete, "{streamed:?} {}", frontend.log());
    assert_eq!(streamed.text.len(), 58);
    assert_eq!(frontend.wait().code, Some(0));
}
