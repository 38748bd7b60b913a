//! Serving processes: one alone, frontend and workers, and what happens when one of them ends.

use crate::harness::{Answer, Place};
use rustix::process::Signal;

const WORKER: &[&str] = &["run", "in=dyn://dynamo.backend.generate", "out=echo"];
const FRONTEND: &[&str] = &["frontend", "--http-port", "0"];
const SLOW: &[&str] = &["--token-echo-delay", "20ms"];

/// A streaming completion of as many tokens as the prompt has bytes.
fn stream(length: usize) -> String {
    let prompt = "x".repeat(length);
    format!(
        "{{\"model\":\"echo\",\"prompt\":\"{prompt}\",\"max_tokens\":{length},\"stream\":true}}"
    )
}

fn text(event: &str) -> String {
    let event: serde_json::Value = serde_json::from_str(event).unwrap();
    event["choices"][0]["text"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Reads to the end; gives back the text and whether it ended as it should.
fn finish(mut answer: Answer) -> (String, bool) {
    let mut whole = String::new();
    while let Some(event) = answer.event() {
        if event == "[DONE]" {
            return (whole, true);
        }
        whole.push_str(&text(&event));
    }
    (whole, false)
}

fn words<'a>(parts: &[&[&'a str]]) -> Vec<&'a str> {
    parts.concat()
}

#[test]
fn a_single_process_finishes_its_streams_on_sigterm_and_exits_with_0() {
    let place = Place::new();
    let single = words(&[&["run", "in=http", "out=echo", "--http-port", "0"], SLOW]);
    let mut server = place.start("single", &single);
    assert_eq!(server.get("/health").0, 200);
    let mut answer = server.post("/v1/completions", &stream(40));
    assert_eq!(answer.status, 200);
    let first = answer.event().unwrap();
    server.signal(Signal::TERM);
    let (rest, complete) = finish(answer);
    assert!(complete, "{}", server.log());
    // The first echoed token is the special one that begins a sequence; it has no text.
    assert_eq!(text(&first) + &rest, "x".repeat(39));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_second_signal_ends_a_process_at_once() {
    let place = Place::new();
    let single = words(&[&["run", "in=http", "out=echo", "--http-port", "0"], SLOW]);
    let mut server = place.start("single", &single);
    let mut answer = server.post("/v1/completions", &stream(2_000));
    answer.event().unwrap();
    server.signal(Signal::TERM);
    crate::harness::until("it drains", || server.log().contains("asked to end"));
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(143));
}

#[test]
fn a_model_comes_and_goes_with_its_workers() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&[]);
    let mut worker = place.start("worker", WORKER);
    frontend.await_models(&["echo"]);
    let (whole, complete) = finish(frontend.post("/v1/completions", &stream(10)));
    assert!(complete && whole == "x".repeat(9), "{whole}");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().code(), Some(0));
    frontend.await_models(&[]);
    let _worker = place.start("another worker", WORKER);
    frontend.await_models(&["echo"]);
}

#[test]
fn a_worker_that_is_asked_to_end_finishes_its_streams() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let mut worker = place.start("worker", &words(&[WORKER, SLOW]));
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &stream(60));
    let first = answer.event().unwrap();
    worker.signal(Signal::TERM);
    let (rest, complete) = finish(answer);
    assert!(complete, "{}\n{}", frontend.log(), worker.log());
    assert_eq!(text(&first) + &rest, "x".repeat(59));
    assert_eq!(worker.wait().code(), Some(0));
}

#[test]
fn a_worker_killed_while_it_streams_ends_the_stream_with_a_typed_error() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let mut worker = place.start("worker", &words(&[WORKER, SLOW]));
    frontend.await_models(&["echo"]);
    let mut answer = frontend.post("/v1/completions", &stream(5_000));
    answer.event().unwrap();
    worker.signal(Signal::KILL);
    worker.wait();
    let rest = answer.rest();
    assert!(rest.contains("\"code\":\"worker_lost\""), "{rest}");
    frontend.await_models(&[]);
    // Requests for a model without workers say so.
    let late = frontend.post("/v1/completions", &stream(4));
    assert_eq!(late.status, 404);
}

#[test]
fn a_killed_worker_costs_no_request_while_another_one_lives() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let _one = place.start("one", WORKER);
    let mut other = place.start("other", WORKER);
    frontend.await_models(&["echo"]);
    for turn in 0..20 {
        if turn == 5 {
            other.signal(Signal::KILL);
            other.wait();
        }
        let (whole, complete) = finish(frontend.post("/v1/completions", &stream(5)));
        assert!(
            complete && whole == "xxxx",
            "turn {turn}: {whole} {}",
            frontend.log()
        );
    }
}

#[test]
fn two_models_are_served_side_by_side_and_a_contradiction_is_refused() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let _echo = place.start("echo", WORKER);
    frontend.await_models(&["echo"]);
    let other = words(&[&[
        "run",
        "in=dyn://dynamo.other.generate",
        "out=echo",
        "--model-name",
        "parrot",
    ]]);
    let _parrot = place.start("parrot", &other);
    frontend.await_models(&["echo", "parrot"]);
    // The same name on another endpoint is another model.
    let _rival = place.start(
        "rival",
        &["run", "in=dyn://dynamo.rival.generate", "out=echo"],
    );
    crate::harness::until("the contradiction is reported", || {
        frontend
            .log()
            .contains("announces another model under the name echo")
    });
    let (_, complete) = finish(frontend.post("/v1/completions", &stream(5)));
    assert!(complete);
}
