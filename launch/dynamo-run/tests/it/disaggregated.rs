//! Prefill and decode in processes of their own: simulated workers behind a frontend, killed and
//! started again.

use crate::http::Answer;
use crate::process::{Dynamo, Place, until};
use rustix::process::Signal;
use serde_json::{Value, json};

const PREFILL: &[&str] = &[
    "mocker",
    "--disaggregation-mode",
    "prefill",
    "--block-size",
    "16",
];
const DECODE: &[&str] = &[
    "mocker",
    "--disaggregation-mode",
    "decode",
    "--block-size",
    "16",
];
/// A frontend that says soon that nobody computes prompts.
const FRONTEND: &[&str] = &["frontend", "--http-port", "0", "--queue-timeout", "1s"];

fn complete(frontend: &Dynamo, max_tokens: u32, stream: bool) -> Answer {
    let body = json!({
        "model": "mock",
        "prompt": "a word or two ".repeat(20),
        "max_tokens": max_tokens,
        "stream": stream,
        "seed": 7,
        "nvext": {"extra_fields": ["worker_id"]},
    });
    frontend.post("/v1/completions", &body.to_string())
}

fn await_answers(frontend: &Dynamo) {
    until("prompts are computed", || {
        complete(frontend, 2, false).status == 200
    });
}

/// Who computed the prompt and who answered, by the headers.
fn served_by(answer: &Answer) -> (u64, u64) {
    let id = |name: &str| {
        let header = answer.header(name);
        header.unwrap_or_default().parse().unwrap()
    };
    (
        id("x-dynamo-prefill-instance-id"),
        id("x-dynamo-worker-instance-id"),
    )
}

#[test]
fn prompts_are_computed_by_prefill_workers_and_answers_by_decode_workers() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let decode = place.start("decode", DECODE);
    let mut prefill = place.start("prefill", PREFILL);
    assert_eq!(prefill.address, "dyn://dynamo.prefill.generate");
    assert_eq!(decode.address, "dyn://dynamo.backend.generate");
    frontend.await_models(&["mock"]);
    await_answers(&frontend);
    let answer = complete(&frontend, 6, false);
    let (prefilled, answered) = served_by(&answer);
    assert_ne!(prefilled, answered);
    let routers = frontend.get("/v1/router/status").json();
    let types = ["decode", "prefill"].map(|it| json!(it));
    let shown = routers["routers"].as_array().unwrap().iter();
    let shown: Vec<_> = shown.map(|it| it["worker_type"].clone()).collect();
    assert_eq!(shown, types);
    let answer = answer.json();
    let ids = &answer["choices"][0]["nvext"]["worker_id"];
    let ids = match ids {
        Value::Null => &answer["nvext"]["worker_id"],
        there => there,
    };
    assert_eq!(ids["prefill_worker_id"], prefilled);
    assert_eq!(ids["decode_worker_id"], answered);
    assert_eq!(answer["usage"]["completion_tokens"], 6);
    // Blocks of the prompt that the prefill worker had, and not all that the decode worker got.
    let cached = &answer["usage"]["prompt_tokens_details"]["cached_tokens"];
    let prompt = answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let cached = cached.as_u64().unwrap();
    assert!(
        cached > 0 && cached.is_multiple_of(16) && cached < prompt,
        "{answer}"
    );

    // Without prefill workers there is no answer, with an error that says what is missing.
    prefill.signal(Signal::TERM);
    assert_eq!(prefill.wait().code, Some(0));
    let refused = complete(&frontend, 2, false);
    assert_eq!(refused.status, 503);
    let message = refused.json()["error"]["message"].to_string();
    assert!(
        message.contains("--disaggregation-mode prefill"),
        "{message}"
    );
    let _next = place.start("next", PREFILL);
    await_answers(&frontend);
}

#[test]
fn an_answer_whose_workers_die_goes_on_with_others() {
    let place = Place::new();
    let frontend = place.start("frontend", &["frontend", "--http-port", "0"]);
    let mut prefill = ["prefill-1", "prefill-2"].map(|name| place.start(name, PREFILL));
    let mut decode = ["decode-1", "decode-2"].map(|name| place.start(name, DECODE));
    frontend.await_models(&["mock"]);
    await_answers(&frontend);
    let expected = complete(&frontend, 120, true).streamed();
    assert!(expected.complete, "{expected:?} {}", frontend.log());
    let mut answer = complete(&frontend, 120, true);
    let first = answer.event().unwrap().unwrap();
    let first: Value = serde_json::from_str(first.trim_start_matches("data: ")).unwrap();
    // The prompt is handed over: its worker is not needed any more, and the next prompt finds
    // another one.
    prefill[0].signal(Signal::KILL);
    prefill[0].wait();
    decode[0].signal(Signal::KILL);
    decode[0].wait();
    let mut text = first["choices"][0]["text"].as_str().unwrap().to_owned();
    let rest = answer.streamed();
    assert!(rest.complete, "{rest:?} {}", frontend.log());
    text.push_str(&rest.text);
    assert_eq!(text, expected.text);
    assert_eq!(complete(&frontend, 2, false).status, 200);
}
