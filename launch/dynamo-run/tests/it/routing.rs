//! KV-aware routing between real processes: a frontend, and fleets of simulated workers.

use crate::http::{Answer, ask};
use crate::process::{Dynamo, Place, until};
use crate::workers::{FRONTEND, WORKER};
use rustix::process::Signal;
use serde_json::{Value, json};

const FLEET: &[&str] = &["mocker", "--num-workers", "3", "--block-size", "16"];

/// A chat whose prompt fills several blocks and begins with `subject`.
fn chat(subject: &str, more: &Value) -> String {
    let text = format!("{subject}: {}", "what is there to know of it? ".repeat(10));
    let mut body = json!({
        "model": "mock",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 3,
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body.to_string()
}

fn served_by(answer: &Answer) -> u64 {
    let header = answer.header("x-dynamo-worker-instance-id");
    header.unwrap().parse().unwrap()
}

fn cached(answer: Answer) -> u64 {
    let tokens = &answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"];
    tokens.as_u64().unwrap()
}

/// The one router of a frontend.
fn router(frontend: &Dynamo) -> Value {
    frontend.get("/v1/router/status").json()["routers"][0].clone()
}

fn await_telling(frontend: &Dynamo, workers: u64) {
    until(&format!("{workers} workers tell of their caches"), || {
        let status = router(frontend);
        let there = status["workers"].as_array().map_or(0, Vec::len);
        status["telling"] == workers && there as u64 == workers
    });
}

fn explain(frontend: &Dynamo, subject: &str) -> Value {
    let answer = frontend.post("/v1/router/explain", &chat(subject, &json!({})));
    assert_eq!(answer.status, 200);
    answer.json()
}

/// Waits until some worker is known to have this prompt; says which.
fn await_holder(frontend: &Dynamo, subject: &str) -> u64 {
    let mut holder = 0;
    until("a worker is known to have the prompt", || {
        let explained = explain(frontend, subject);
        let best = &explained["candidates"][0];
        holder = best["worker"]["instance"].as_u64().unwrap();
        best["overlap"]["device"].as_u64().unwrap() > 0
    });
    holder
}

#[test]
fn a_prompt_goes_where_its_beginning_is_cached() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    await_telling(&frontend, 3);
    let mut holders = std::collections::BTreeSet::new();
    for subject in ["rust", "tides", "bread", "moss", "silk", "iron"] {
        let first = frontend.post("/v1/chat/completions", &chat(subject, &json!({})));
        assert_eq!(first.header("x-dynamo-router-mode"), Some("kv"));
        let holder = served_by(&first);
        assert_eq!(await_holder(&frontend, subject), holder);
        let again = frontend.post("/v1/chat/completions", &chat(subject, &json!({})));
        assert_eq!(served_by(&again), holder);
        assert!(cached(again) >= 16, "{subject}");
        holders.insert(holder);
    }
    assert!(holders.len() > 1, "idle workers share the load");
    let status = router(&frontend);
    assert_eq!(status["totals"]["requests"], 12);
    assert!(status["totals"]["cached_tokens"].as_u64().unwrap() >= 6 * 16);
    let metrics = frontend.get("/metrics").text();
    assert!(metrics.contains("dynamo_router_requests_total{mode=\"kv\",model=\"mock\"} 12"));
}

#[test]
fn an_explanation_has_every_candidate_and_books_nothing() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    await_telling(&frontend, 3);
    let explained = explain(&frontend, "rust");
    assert_eq!(explained["candidates"].as_array().unwrap().len(), 3);
    assert_eq!(explained["mode"], "kv");
    assert_eq!(router(&frontend)["totals"]["requests"], 0);
    let asked = json!({"nvext": {"extra_fields": ["routing", "worker_id"]}});
    let answer = frontend.post("/v1/chat/completions", &chat("rust", &asked));
    let instance = served_by(&answer);
    let nvext = answer.json()["nvext"].clone();
    assert_eq!(nvext["worker_id"]["decode_worker_id"], instance);
    assert_eq!(nvext["routing"]["winner"]["instance"], instance);
    assert_eq!(nvext["routing"]["candidates"].as_array().unwrap().len(), 3);
    let decisions = frontend.get("/v1/router/decisions").json();
    let decision = &decisions["decisions"]["mock"][0];
    assert_eq!(decision["worker"]["instance"], instance);
    assert_eq!(decision["outcome"]["end"], "finished");
    let malformed = frontend.post("/v1/router/explain", "{\"model\": \"mock\"}");
    assert_eq!(malformed.status, 400);
    let unknown = frontend.post(
        "/v1/router/explain",
        "{\"model\": \"x\", \"prompt\": \"y\"}",
    );
    assert_eq!(unknown.status, 404);
}

#[test]
fn a_request_may_name_its_worker() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    await_telling(&frontend, 3);
    let ask_for = |instance: &str| {
        let headers = [("x-worker-instance-id", instance)];
        let asked = ("POST", "/v1/chat/completions");
        ask(
            &frontend.address,
            asked,
            &headers,
            &chat("rust", &json!({})),
        )
        .unwrap()
    };
    for worker in router(&frontend)["workers"].as_array().unwrap() {
        let instance = worker["instance"].as_u64().unwrap();
        assert_eq!(served_by(&ask_for(&instance.to_string())), instance);
    }
    let unknown = ask_for("5");
    assert_eq!(unknown.status, 503);
    let malformed = ask_for("first");
    assert_eq!(malformed.status, 400);
    assert!(malformed.text().contains("x-worker-instance-id"));
}

#[test]
fn a_router_that_starts_late_knows_what_workers_hold_and_forgets_those_that_die() {
    let place = Place::new();
    let fleet = ["mocker", "--block-size", "16"];
    let mut workers: Vec<Dynamo> = ["one", "two"].map(|name| place.start(name, &fleet)).into();
    let first = place.start("first", FRONTEND);
    first.await_models(&["mock"]);
    await_telling(&first, 2);
    let holder = served_by(&first.post("/v1/chat/completions", &chat("rust", &json!({}))));
    let second = place.start("second", FRONTEND);
    second.await_models(&["mock"]);
    await_telling(&second, 2);
    assert_eq!(await_holder(&second, "rust"), holder);
    for worker in &mut workers {
        worker.signal(Signal::KILL);
        worker.wait();
    }
    let _third = place.start("three", &fleet);
    for frontend in [&first, &second] {
        // Of the two that died, one may be the last that tells for a moment.
        until("only what the third holds is known", || {
            router(frontend)["index"]["blocks"] == 0
        });
        await_telling(frontend, 1);
        let explained = explain(frontend, "rust");
        assert_eq!(explained["candidates"][0]["overlap"]["device"], 0);
    }
}

#[test]
fn the_mode_is_what_was_asked_for_or_what_workers_allow() {
    let place = Place::new();
    let _fleet = place.start("fleet", FLEET);
    let _silent = place.start("silent", WORKER);
    let in_turn = place.start(
        "in_turn",
        &[FRONTEND, &["--router-mode", "round-robin"]].concat(),
    );
    in_turn.await_models(&["echo", "mock"]);
    let mode = |frontend: &Dynamo, body: &str| {
        let answer = frontend.post("/v1/chat/completions", body);
        answer.header("x-dynamo-router-mode").unwrap().to_owned()
    };
    assert_eq!(mode(&in_turn, &chat("rust", &json!({}))), "round-robin");
    let auto = place.start("auto", FRONTEND);
    auto.await_models(&["echo", "mock"]);
    let echo = chat("rust", &json!({"model": "echo"}));
    assert_eq!(mode(&auto, &echo), "least-loaded");
    until("events make it kv", || {
        mode(&auto, &chat("rust", &json!({}))) == "kv"
    });
}

#[test]
fn ranks_of_one_worker_are_chosen_apart() {
    let place = Place::new();
    let words = ["mocker", "--block-size", "16", "--data-parallel-size", "2"];
    let _fleet = place.start("fleet", &words);
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    until("both ranks are known", || {
        router(&frontend)["workers"]
            .as_array()
            .is_some_and(|it| it.len() == 2)
    });
    let rank_of = |body: &str| {
        let answer = frontend.post("/v1/chat/completions", body).json();
        let id = &answer["nvext"]["worker_id"]["decode_dp_rank"];
        (id.as_u64().unwrap(), answer)
    };
    let told = json!({"nvext": {"extra_fields": ["worker_id"]}});
    for rank in [0, 1] {
        let pinned = json!({"nvext": {"extra_fields": ["worker_id"], "dp_rank": rank}});
        let subject = format!("subject {rank}");
        assert_eq!(rank_of(&chat(&subject, &pinned)).0, rank);
        await_holder(&frontend, &subject);
        let (again, answer) = rank_of(&chat(&subject, &told));
        assert_eq!(again, rank, "where its beginning is cached");
        let tokens = &answer["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert!(tokens.as_u64().unwrap() >= 16);
    }
}

#[test]
fn a_tenant_that_floods_is_refused_and_counted_and_others_still_get_in() {
    let place = Place::new();
    // A hundred times slower than a real one: what is asked for in this test is not answered in it.
    let slow = ["mocker", "--block-size", "16", "--speedup-ratio", "0.01"];
    let _worker = place.start("worker", &slow);
    let limits = [
        "--router-queue-threshold",
        "0",
        "--router-queue-tenant-limit",
        "2",
    ];
    let frontend = place.start("frontend", &[FRONTEND, &limits].concat());
    frontend.await_models(&["mock"]);
    await_telling(&frontend, 1);
    let metric = |name: &str| {
        let metrics = frontend.get("/metrics").text();
        let found = metrics.lines().find_map(|line| line.strip_prefix(name));
        let value = found.and_then(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok());
        value.unwrap_or_default()
    };
    let ask_as = |tenant: &'static str, subject: String| {
        let address = frontend.address.clone();
        std::thread::spawn(move || {
            let asked = ("POST", "/v1/chat/completions");
            let headers = [("x-tenant-id", tenant)];
            let answer = ask(&address, asked, &headers, &chat(&subject, &json!({})));
            // Those that wait are cut off when the test is over.
            answer.map(|it| (it.status, it.text()))
        })
    };
    let waiting = |count: f64| {
        until(&format!("{count} requests wait"), || {
            metric("dynamo_router_queue_pending_requests{") == count
        });
    };
    let _running = ask_as("flood", "first".to_owned());
    until("the worker is busy", || {
        metric("dynamo_router_worker_active_prefill_tokens{") > 0.0
    });
    for nth in 1..=2_u32 {
        drop(ask_as("flood", format!("number {nth}")));
        waiting(f64::from(nth));
    }
    let (status, text) = ask_as("flood", "too many".to_owned())
        .join()
        .unwrap()
        .unwrap();
    assert_eq!(status, 429, "{text}");
    assert!(
        text.contains("requests of this tenant wait already"),
        "{text}"
    );
    let refused = "dynamo_frontend_failures_total{class=\"capacity\",reason=\"rate_limited\"}";
    assert_eq!(metric(refused), 1.0);
    assert_eq!(metric("dynamo_frontend_model_rejection_total{"), 1.0);
    // Another one still gets a place in the queue.
    drop(ask_as("late", "other".to_owned()));
    waiting(3.0);
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_mends_it() {
    let place = Place::new();
    let alone = place.start("alone", &["mocker", "--block-size", "16"]);
    let frontend = place.start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    await_telling(&frontend, 1);
    let look = || place.run(&["doctor", "routing", "--url", &frontend.address]);
    let found = look();
    assert_eq!(found.code, Some(1), "{}", found.stderr);
    assert!(
        found.stdout.contains("start more workers"),
        "{}",
        found.stdout
    );
    let _other = place.start("other", &["mocker", "--block-size", "16"]);
    await_telling(&frontend, 2);
    let found = look();
    assert_eq!(found.code, Some(0), "{}{}", found.stdout, found.stderr);
    assert!(
        found.stdout.contains("nothing is wrong"),
        "{}",
        found.stdout
    );
    drop(alone);
    let nobody = place.run(&["doctor", "routing", "--url", "http://127.0.0.1:9"]);
    assert_eq!(nobody.code, Some(1));
    assert!(nobody.stderr.contains("--url"), "{}", nobody.stderr);
}

#[test]
fn a_trace_is_replayed_under_the_modes_asked_for() {
    let place = Place::new();
    let line = |at: u64, first: u64, second: u64| {
        let ids = [first, second];
        json!({"timestamp": at, "input_length": 1024, "output_length": 4, "hash_ids": ids})
    };
    let lines = (0..40).map(|number| line(number * 200, number % 4, 100 + number).to_string());
    let trace = place.write("trace.jsonl", &lines.collect::<Vec<_>>().join("\n"));
    let figures = place.path("figures.json");
    let words = [
        "bench",
        "router",
        "--trace",
        &trace,
        "--workers",
        "3",
        "--load",
        "1",
    ];
    let output = ["--replay-output", figures.to_str().unwrap()];
    let modes = ["--mode", "kv", "--mode", "round-robin"];
    let ended = place.run(&[&words[..], &output, &modes].concat());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let figures: Value = serde_json::from_slice(&std::fs::read(figures).unwrap()).unwrap();
    let rate = |nth: usize| figures[nth]["outcome"]["hit_rate"].as_f64().unwrap();
    assert_eq!(figures[1]["outcome"]["mode"], "round-robin");
    assert!(rate(0) > rate(1), "{figures}");
    let missing = place.run(&["bench", "router"]);
    assert!(missing.stderr.contains("--trace"), "{}", missing.stderr);
    let nonsense = place.write("nonsense.jsonl", "nonsense");
    let malformed = place.run(&["bench", "router", "--trace", &nonsense]);
    assert!(malformed.stderr.contains("line 1"), "{}", malformed.stderr);
}
