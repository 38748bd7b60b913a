//! A frontend and its workers: coming, going, dying, taking turns.

use crate::http::{Answer, ask};
use crate::process::{Dynamo, Place};
use crate::serving::chat;
use rustix::process::Signal;

pub(crate) const WORKER: &[&str] = &["run", "in=dyn://dynamo.backend.generate", "out=echo"];
/// A frontend that forgets a model with its last worker: most tests want to see it go.
pub(crate) const FRONTEND: &[&str] = &["frontend", "--http-port", "0", "--model-linger", "0s"];
/// Makes a stream last.
pub(crate) const SLOW: &[&str] = &["--token-echo-delay", "10ms"];
/// Logs by machine, and counts.
const TALKATIVE: &[&str] = &["--log-format", "jsonl", "--log-level", "debug"];

/// A streaming completion of `length` tokens; the first one begins the sequence and has no text.
pub(crate) fn stream(length: usize) -> String {
    serde_json::json!({
        "model": "echo",
        "prompt": "x".repeat(length),
        "max_tokens": length,
        "stream": true,
    })
    .to_string()
}

/// A worker whose requests can be counted.
pub(crate) fn counted(place: &Place, name: &str, words: &[&str]) -> Dynamo {
    place.start(name, &[words, &["--system-port", "0"]].concat())
}

fn assert_echoes(frontend: &Dynamo, turn: usize) {
    let streamed = frontend.post("/v1/completions", &stream(5)).streamed();
    assert!(
        streamed.complete && streamed.text == "xxxx",
        "turn {turn}: {streamed:?} {}",
        frontend.log()
    );
}

#[test]
fn a_model_comes_and_goes_with_its_worker() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&[]);
    let mut worker = place.start("worker", WORKER);
    frontend.await_models(&["echo"]);
    let answer = frontend.post("/v1/chat/completions", &chat("echo", "through", true));
    let streamed = answer.streamed();
    assert!(
        streamed.complete && streamed.text == "through",
        "{streamed:?}"
    );
    let embedded = frontend.post(
        "/v1/embeddings",
        "{\"model\": \"echo\", \"input\": \"some text\"}",
    );
    assert_eq!(embedded.status, 200);
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code, Some(0));
    frontend.await_models(&[]);
    let late = frontend.post("/v1/completions", &stream(4));
    assert_eq!(late.status, 404);
    let _next = place.start("next", WORKER);
    frontend.await_models(&["echo"]);
    assert_echoes(&frontend, 0);
}

#[test]
fn a_stream_that_nobody_goes_on_with_ends_with_a_typed_error() {
    let place = Place::new();
    let impatient = [FRONTEND, &["--queue-timeout", "500ms"]].concat();
    let frontend = place.start("frontend", &impatient);
    let mut worker = place.start("worker", &[WORKER, SLOW].concat());
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &stream(5_000));
    answer.event().unwrap().unwrap();
    worker.signal(Signal::KILL);
    worker.wait();
    let streamed = answer.streamed();
    assert_eq!(streamed.error.as_deref(), Some("worker_lost"));
    assert_eq!(streamed.finish, None);
    frontend.await_models(&[]);
    let _next = place.start("next", WORKER);
    frontend.await_models(&["echo"]);
    assert_echoes(&frontend, 0);
}

/// Text no part of which is there twice: what is lost or doubled shows.
fn numbers() -> String {
    (100..175).map(|number| format!("{number} ")).collect()
}

/// A streaming completion that gives [`numbers`] back.
fn count() -> String {
    serde_json::json!({"model": "echo", "prompt": numbers(), "max_tokens": 300, "stream": true})
        .to_string()
}

/// The rest of an answer that counts, `read` events of which were read already.
fn assert_whole(answer: Answer, read: usize, frontend: &Dynamo) {
    let streamed = answer.streamed();
    assert!(streamed.complete, "{streamed:?} {}", frontend.log());
    assert_eq!(streamed.finish.as_deref(), Some("length"));
    // An event is one character. The first token begins the sequence, and is none.
    let text = numbers();
    assert_eq!(streamed.text, text[read..text.len() - 1]);
}

#[test]
fn an_answer_goes_on_with_another_worker_when_its_own_is_killed() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let slow = [WORKER, SLOW].concat();
    let mut workers = ["one", "two"].map(|name| counted(&place, name, &slow));
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &count());
    for _ in 0..5 {
        answer.event().unwrap().unwrap();
    }
    let busy = workers.iter().position(|it| it.requests_taken() > 0);
    let busy = &mut workers[busy.unwrap()];
    busy.signal(Signal::KILL);
    busy.wait();
    assert_whole(answer, 5, &frontend);
    let moved = "dynamo_frontend_model_migration_total{migration_type=\"ongoing_request\",model=\"echo\"} 1";
    let metrics = frontend.get("/metrics").text();
    assert!(metrics.contains(moved), "{metrics}");
}

#[test]
fn an_answer_waits_for_a_worker_that_takes_the_place_of_the_only_one() {
    let place = Place::new();
    let frontend = place.start("frontend", &["frontend", "--http-port", "0"]);
    let mut worker = place.start("worker", &[WORKER, SLOW].concat());
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &count());
    answer.event().unwrap().unwrap();
    worker.signal(Signal::KILL);
    worker.wait();
    // So does a request that comes meanwhile: the model is still there.
    let (address, body) = (frontend.address.clone(), count());
    let asked =
        std::thread::spawn(move || ask(&address, ("POST", "/v1/completions"), &[], &body).unwrap());
    assert_eq!(frontend.models(), ["echo"]);
    let _next = place.start("next", WORKER);
    assert_whole(answer, 1, &frontend);
    assert_whole(asked.join().unwrap(), 0, &frontend);
}

#[test]
fn an_answer_goes_on_when_its_worker_freezes_and_when_it_wakes() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let worker = place.start("worker", &[WORKER, SLOW].concat());
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &count());
    answer.event().unwrap().unwrap();
    worker.signal(Signal::STOP);
    // The frontend notices by itself, and looks for another worker.
    frontend.await_log("an answer moves to another worker");
    worker.signal(Signal::CONT);
    assert_whole(answer, 1, &frontend);
}

#[test]
fn a_worker_that_is_told_to_end_hands_over_what_it_cannot_finish() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let hasty = [WORKER, SLOW, &["--drain-timeout", "200ms"]].concat();
    let mut first = place.start("first", &hasty);
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &count());
    answer.event().unwrap().unwrap();
    let _second = place.start("second", WORKER);
    first.signal(Signal::TERM);
    assert_eq!(first.wait().code, Some(0));
    assert_whole(answer, 1, &frontend);
}

#[test]
fn answers_move_between_workers_of_two_versions_while_a_deployment_is_updated() {
    // The frontend first, and the workers first.
    for [frontend, before, after] in [["2", "1", "2"], ["1", "1", "2"], ["1", "2", "1"]] {
        let place = Place::new();
        let of = |version| ["--request-plane-version", version];
        let frontend = place.start("frontend", &[FRONTEND, &of(frontend)].concat());
        let hasty = [WORKER, SLOW, &["--drain-timeout", "200ms"], &of(before)].concat();
        let mut old = place.start("before", &hasty);
        frontend.await_models(&["echo"]);
        let mut answer = frontend.post("/v1/completions", &count());
        answer.event().unwrap().unwrap();
        let _new = place.start("after", &[WORKER, &of(after)].concat());
        old.signal(Signal::TERM);
        assert_eq!(old.wait().code, Some(0));
        assert_whole(answer, 1, &frontend);
        assert_echoes(&frontend, 0);
    }
}

#[test]
fn workers_of_a_model_take_turns_and_one_that_dies_costs_no_request() {
    let place = Place::new();
    let in_turn = [FRONTEND, &["--router-mode", "round-robin"]].concat();
    let frontend = place.start("frontend", &in_turn);
    let one = counted(&place, "one", WORKER);
    frontend.await_models(&["echo"]);
    let mut other = counted(&place, "other", WORKER);
    // The frontend hears of the second one in its own time.
    let mut turn = 0;
    crate::process::until("both take requests", || {
        assert_echoes(&frontend, turn);
        turn += 1;
        other.requests_taken() > 0
    });
    let before = (one.requests_taken(), other.requests_taken());
    for turn in 0..10 {
        assert_echoes(&frontend, turn);
    }
    let after = (one.requests_taken(), other.requests_taken());
    assert_eq!((after.0 - before.0, after.1 - before.1), (5, 5));
    other.signal(Signal::KILL);
    other.wait();
    for turn in 0..20 {
        assert_echoes(&frontend, turn);
    }
    assert_eq!(one.requests_taken(), after.0 + 20);
    assert_eq!(frontend.models(), ["echo"]);
}

#[test]
fn a_frontend_that_was_killed_is_replaced_by_any_other() {
    let place = Place::new();
    let _worker = place.start("worker", WORKER);
    let mut first = place.start("first", FRONTEND);
    first.await_models(&["echo"]);
    let second = place.start("second", FRONTEND);
    second.await_models(&["echo"]);
    first.signal(Signal::KILL);
    first.wait();
    assert_echoes(&second, 0);
    let third = place.start("third", FRONTEND);
    third.await_models(&["echo"]);
    assert_echoes(&third, 0);
}

#[test]
fn a_client_that_leaves_frees_the_worker() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let worker = counted(&place, "worker", &[WORKER, SLOW].concat());
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &stream(50_000));
    answer.event().unwrap().unwrap();
    drop(answer);
    let status = worker.status_address();
    crate::process::until("the worker has nothing left to do", || {
        let metrics = ask(&status, ("GET", "/metrics"), &[], "").unwrap().text();
        let figure = |name: &str| {
            let of_generate = "dynamo_endpoint=\"generate\"";
            let mut lines = metrics.lines();
            let line = lines.find(|line| line.starts_with(name) && line.contains(of_generate));
            line.unwrap().ends_with(" 1")
        };
        !figure("dynamo_component_inflight_requests") && figure("dynamo_component_cancellation")
    });
}

#[test]
fn a_request_keeps_its_trace_and_its_id_on_the_way_to_the_worker() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let place = Place::new();
    let frontend = place.start("frontend", &[FRONTEND, TALKATIVE].concat());
    let worker = place.start("worker", &[WORKER, TALKATIVE].concat());
    frontend.await_models(&["echo"]);
    let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
    let headers = [("traceparent", &*parent), ("x-request-id", "request-7")];
    let body = chat("echo", "traced", false);
    let asked = ("POST", "/v1/chat/completions");
    let answer = ask(&frontend.address, asked, &headers, &body).unwrap();
    assert_eq!(answer.header("x-request-id"), Some("request-7"));
    assert_eq!(answer.status, 200);
    worker.await_log("request served");
    let lines: Vec<serde_json::Value> = worker
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let of_request = |line: &&serde_json::Value| line["request_id"] == "request-7";
    let told: Vec<_> = lines.iter().filter(of_request).collect();
    assert!(told.len() >= 2, "{}", worker.log());
    for line in told {
        assert_eq!(line["trace_id"], TRACE, "{line}");
        assert_eq!(line["span_name"], "request_plane", "{line}");
        assert_eq!(line["endpoint"], "dyn://dynamo.backend.generate");
        // Its parent is the frontend's span and not the client's.
        assert!(line["parent_id"].is_string() && line["parent_id"] != "b7ad6b7169203331");
    }
}
