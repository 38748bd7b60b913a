//! The router as a component of its own, between real processes: asked over HTTP, and as an
//! endpoint between frontend and workers.

use crate::http::{Answer, ask};
use crate::process::{Dynamo, Place, until};
use crate::workers::FRONTEND;
use rustix::process::Signal;
use serde_json::{Value, json};

const FLEET: &[&str] = &["mocker", "--num-workers", "3", "--block-size", "16"];
const ROUTER: &[&str] = &["router", "--http-port", "0"];
const FULL: &[&str] = &[
    "router",
    "--http-port",
    "0",
    "--endpoint",
    "dyn://dynamo.backend.generate",
    "--serve-endpoint",
    "dyn://routed.router.generate",
];

fn start(place: &Place, name: &str, words: &[&str], more: &[&str]) -> Dynamo {
    place.start(name, &[words, more].concat())
}

/// Waits until a router knows so many workers, and all of them have told of themselves.
fn await_workers(router: &Dynamo, count: usize) {
    until(&format!("{count} workers are known"), || {
        let workers = router.get("/workers").json();
        let workers = workers["workers"].as_array().unwrap().clone();
        let told = workers.iter().filter(|it| it["total_blocks"] != 0);
        workers.len() == count && told.count() == count
    });
}

fn delete(router: &Dynamo, path: &str, body: &str) -> Answer {
    ask(&router.address, ("DELETE", path), &[], body).unwrap()
}

fn reserve(router: &Dynamo, question: &Value) -> Value {
    let answer = router.post("/select_and_reserve", &question.to_string());
    assert_eq!(answer.status, 200);
    answer.json()
}

/// Requests, prompt tokens and blocks that a router has booked with a worker.
fn load(router: &Dynamo, worker: &Value) -> (u64, u64, u64) {
    let loads = router.get("/loads").json();
    let loads = loads["loads"].as_array().unwrap();
    let load = loads.iter().find(|it| it["worker_id"] == *worker).unwrap();
    let of = |name: &str| load[name].as_u64().unwrap();
    (
        of("active_requests"),
        of("active_prefill_tokens"),
        of("active_blocks"),
    )
}

fn tokens(first: u32) -> Vec<u32> {
    (0..100).map(|nth| (first + nth * 7) % 250).collect()
}

#[test]
fn outside_users_ask_for_a_worker_and_hold_its_place() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let router = start(&place, "router", ROUTER, &["--router-track-output-blocks"]);
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    await_workers(&router, 3);
    let completion = json!({"model": "mock", "prompt": tokens(1), "max_tokens": 2});
    let answer = frontend.post("/v1/completions", &completion.to_string());
    let holder = answer.header("x-dynamo-worker-instance-id").unwrap();
    let holder: u64 = holder.parse().unwrap();
    let question = json!({"model": "mock", "token_ids": tokens(1), "session": "s", "tenant": "t"});
    let mut selected = Value::Null;
    until("its cache is known", || {
        selected = router.post("/select", &question.to_string()).json();
        selected["cached_tokens"] == 96
    });
    assert_eq!(selected["worker_id"], holder);
    assert_eq!(selected["overlap_blocks"], 6);
    assert_eq!(selected["mode"], "kv");
    assert_eq!(selected["prompt_tokens"], 100);
    assert_eq!(selected["reservation_id"], Value::Null);
    assert_eq!(
        load(&router, &selected["worker_id"]),
        (0, 0, 0),
        "nothing is booked"
    );

    let reserved = reserve(&router, &question);
    assert_eq!(reserved["worker_id"], holder);
    let path = format!(
        "/reservations/{}",
        reserved["reservation_id"].as_str().unwrap()
    );
    let worker = &reserved["worker_id"];
    assert_eq!(load(&router, worker), (1, 4, 6));
    let post = |what: &str| router.post(&format!("{path}/{what}"), "").status;
    assert_eq!(post("prefill_complete"), 200);
    assert_eq!(load(&router, worker), (1, 0, 6));
    assert_eq!(post("output_block"), 200);
    assert_eq!(load(&router, worker), (1, 0, 7));
    assert_eq!(router.get("/health").json()["reservations"], 1);
    assert_eq!(
        delete(&router, &path, r#"{"cached_tokens": 96}"#).status,
        200
    );
    assert_eq!(load(&router, worker), (0, 0, 0));
    assert_eq!(delete(&router, &path, "").status, 404);
    let metrics = router.get("/metrics").text();
    assert!(metrics.contains(
        "dynamo_router_service_requests_total{route=\"/reservations/{id}\",status=\"404\"} 1"
    ));
    assert!(metrics.contains("dynamo_router_cached_tokens_total{mode=\"kv\",model=\"mock\"} 96"));
}

#[test]
fn hashes_do_in_place_of_tokens_and_explanations_come_when_asked_for() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let router = place.start("router", ROUTER);
    await_workers(&router, 3);
    let question = json!({"model": "mock", "block_hashes": [1, -2, 18_446_744_073_709_551_615_u64],
        "prompt_tokens": 50, "explain": true, "priority": 3, "expected_output_tokens": 10});
    let reserved = reserve(&router, &question);
    assert_eq!(load(&router, &reserved["worker_id"]), (1, 50, 3));
    let candidates = &reserved["explanation"]["candidates"];
    assert_eq!(candidates.as_array().unwrap().len(), 3);
    // Named workers are the only ones.
    for worker in router.get("/workers").json()["workers"].as_array().unwrap() {
        let question =
            json!({"model": "mock", "token_ids": [], "allowed_worker_ids": [worker["worker_id"]]});
        let selected = router.post("/select", &question.to_string()).json();
        assert_eq!(selected["worker_id"], worker["worker_id"]);
    }
}

/// A question, and the status, the code and words of its refusal. Without a code the answer need
/// not be the same for both routes.
type Refused<'a> = (&'a str, u16, &'a str, &'a str);

const REFUSED: &[Refused<'_>] = &[
    ("{\"model\"", 400, "invalid_json", "not valid JSON"),
    ("", 400, "invalid_json", "empty"),
    ("[]", 400, "invalid_json", "the body"),
    (
        "{\"token_ids\": [1]}",
        400,
        "invalid_request",
        "`model` is required",
    ),
    (
        "{\"model\": \"mock\"}",
        400,
        "invalid_request",
        "`token_ids` or `block_hashes`",
    ),
    (
        "{\"model\": \"mock\", \"token_ids\": [1], \"block_hashes\": [1]}",
        400,
        "invalid_request",
        "either",
    ),
    (
        "{\"model\": \"mock\", \"token_ids\": [-1]}",
        400,
        "invalid_request",
        "token_ids[0]",
    ),
    (
        "{\"model\": \"mock\", \"block_hashes\": [\"7\"]}",
        400,
        "invalid_request",
        "block_hashes[0]",
    ),
    (
        "{\"model\": \"mock\", \"block_hashes\": [1.5]}",
        400,
        "invalid_request",
        "block_hashes[0]",
    ),
    (
        "{\"model\": \"mock\", \"block_hashes\": [1], \"prompt_tokens\": 40}",
        400,
        "invalid_request",
        "16 to 31",
    ),
    (
        "{\"model\": \"mock\", \"tokens\": [1]}",
        400,
        "unknown_parameter",
        "tokens",
    ),
    (
        "{\"model\": \"x\", \"token_ids\": [1]}",
        404,
        "model_not_found",
        "`x`",
    ),
    (
        "{\"model\": \"mock\", \"token_ids\": [1], \"allowed_worker_ids\": [5]}",
        503,
        "",
        "",
    ),
];

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let router = place.start("router", ROUTER);
    await_workers(&router, 3);
    let refused = |body: &str, status: u16, code: &str, said: &str| {
        for path in ["/select", "/select_and_reserve"] {
            let answer = router.post(path, body);
            assert_eq!(answer.status, status, "{body:.80}");
            let error = answer.json()["error"].clone();
            assert_eq!(error["code"], code, "{body:.80}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(said), "{message}");
        }
    };
    let long = json!({"model": "mock", "token_ids": vec![7; 2_000_000]}).to_string();
    let many = json!({"model": "mock", "block_hashes": vec![7; 200_000]}).to_string();
    let huge = format!("[{}", "1,".repeat(9 << 20));
    let cases: &[Refused<'_>] = &[
        (&long, 400, "context_length_exceeded", "2000000 tokens"),
        (&many, 400, "context_length_exceeded", "3200000 tokens"),
        (&huge, 413, "payload_too_large", "16777216 bytes"),
    ];
    for (body, status, code, said) in cases.iter().chain(REFUSED) {
        if code.is_empty() {
            assert_eq!(router.post("/select", body).status, *status);
            assert_eq!(router.post("/select_and_reserve", body).status, *status);
        } else {
            refused(body, *status, code, said);
        }
    }
}

#[test]
fn reservations_that_are_not_held_are_not_found_and_there_are_so_many() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let router = start(&place, "router", ROUTER, &["--max-reservations", "1"]);
    await_workers(&router, 3);
    for path in [
        "/reservations/0123456789abcdef",
        "/reservations/nothing",
        "/reservations/%2e%2e",
    ] {
        for step in ["/prefill_complete", "/output_block"] {
            let answer = router.post(&format!("{path}{step}"), "");
            assert_eq!(answer.status, 404);
            assert_eq!(answer.json()["error"]["code"], "reservation_not_found");
        }
        assert_eq!(delete(&router, path, "").status, 404);
    }
    assert_eq!(router.get("/select").status, 405);
    assert_eq!(router.get("/nothing").status, 404);
    let question = json!({"model": "mock", "token_ids": tokens(1)});
    let reserved = reserve(&router, &question);
    let answer = router.post("/select_and_reserve", &question.to_string());
    assert_eq!(answer.status, 429, "one is all it holds");
    let path = format!(
        "/reservations/{}",
        reserved["reservation_id"].as_str().unwrap()
    );
    assert_eq!(delete(&router, &path, "{\"cached\": 1}").status, 400);
    assert_eq!(delete(&router, &path, "").status, 200);
    reserve(&router, &question);
}

#[test]
fn a_reservation_that_nothing_is_heard_of_ends() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let router = start(
        &place,
        "router",
        ROUTER,
        &["--reservation-timeout", "500ms"],
    );
    await_workers(&router, 3);
    let question = json!({"model": "mock", "token_ids": tokens(1)});
    let reserved = reserve(&router, &question);
    until("it has ended", || {
        router.get("/health").json()["reservations"] == 0
    });
    assert_eq!(load(&router, &reserved["worker_id"]), (0, 0, 0));
    let expired = "dynamo_router_service_expired_reservations_total 1";
    assert!(router.get("/metrics").text().contains(expired));
}

#[test]
fn routers_that_keep_one_view_see_each_other_s_reservations() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let sync = &["--router-replica-sync"];
    let first = start(&place, "first", ROUTER, sync);
    await_workers(&first, 3);
    let question = json!({"model": "mock", "token_ids": tokens(1)});
    let reserved = reserve(&first, &question);
    // Who starts late hears of what is held already.
    let mut second = start(&place, "second", ROUTER, sync);
    await_workers(&second, 3);
    let worker = &reserved["worker_id"];
    until("the late one knows", || {
        load(&second, worker) == (1, 100, 6)
    });
    let elsewhere = reserve(&second, &json!({"model": "mock", "token_ids": tokens(9)}));
    assert_ne!(elsewhere["worker_id"], *worker);
    until("both know both", || {
        load(&first, &elsewhere["worker_id"]) == (1, 100, 6)
    });
    second.signal(Signal::KILL);
    second.wait();
    until("who died is forgotten", || {
        load(&first, &elsewhere["worker_id"]) == (0, 0, 0)
    });
    assert_eq!(load(&first, worker), (1, 100, 6));
}

#[test]
fn a_frontend_asks_a_router_in_place_of_the_workers() {
    let place = Place::new();
    let mut fleet = place.start("fleet", FLEET);
    let mut router = place.start("router", FULL);
    let frontend = start(&place, "frontend", FRONTEND, &["--namespace", "routed"]);
    frontend.await_models(&["mock"]);
    await_workers(&router, 3);
    let chat = json!({
        "model": "mock",
        "messages": [{"role": "user", "content": "a word or two ".repeat(20)}],
        "max_tokens": 6,
    })
    .to_string();
    let mut cached = 0;
    until("a prefix was reused", || {
        let answer = frontend.post("/v1/chat/completions", &chat);
        assert_eq!(answer.status, 200);
        let usage = &answer.json()["usage"];
        assert_eq!(usage["completion_tokens"], 6);
        let details = &usage["prompt_tokens_details"]["cached_tokens"];
        cached = details.as_u64().unwrap();
        cached > 0
    });
    assert_eq!(cached % 16, 0);
    // What a request asks of a choice is about the workers behind the router.
    let ask_for = |instance: &str| {
        let headers = [("x-worker-instance-id", instance)];
        let asked = ("POST", "/v1/chat/completions");
        ask(&frontend.address, asked, &headers, &chat).unwrap()
    };
    for worker in router.get("/workers").json()["workers"].as_array().unwrap() {
        assert_eq!(ask_for(&worker["worker_id"].to_string()).status, 200);
    }
    assert_eq!(ask_for("5").status, 503);
    // The router's model comes and goes with its workers.
    fleet.signal(Signal::TERM);
    assert_eq!(fleet.wait().code, Some(0));
    frontend.await_models(&[]);
    let _fleet = place.start("another", FLEET);
    frontend.await_models(&["mock"]);
    until("it routes again", || {
        frontend.post("/v1/chat/completions", &chat).status == 200
    });
    router.signal(Signal::TERM);
    assert_eq!(router.wait().code, Some(0));
    frontend.await_models(&[]);
}

#[test]
fn a_router_that_cannot_be_says_why() {
    let place = Place::new();
    let first = place.start("first", ROUTER);
    let port = first.address.rsplit(':').next().unwrap();
    let refused: &[(&[&str], &str)] = &[
        (&["--endpoint", "dyn://a.b.c.d"], "--endpoint"),
        (
            &["--endpoint", "dyn://", "--serve-endpoint", "dyn://a b"],
            "--serve-endpoint",
        ),
        (
            &["--endpoint", "dyn://", "--serve-endpoint", "dyn://"],
            "the workers' own endpoint",
        ),
        (&["--http-port", port], "--http-port"),
    ];
    for (words, said) in refused {
        let ended = place.run(&[&["router"], *words].concat());
        assert_eq!(ended.code, Some(1), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
}
