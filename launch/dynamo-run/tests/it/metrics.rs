//! The metrics component between real processes: over every event plane, with workers that come,
//! freeze, thaw, end and are killed.

use crate::http::ask;
use crate::process::{Dynamo, Place, until};
use crate::workers::FRONTEND;
use dynamo_testkit::nats_server::NatsServer;
use rustix::process::Signal;
use serde_json::json;

pub(crate) const METRICS: &[&str] = &["metrics", "--port", "0", "--stale-after", "1s"];
const WORKER: &[&str] = &["mocker", "--block-size", "16", "--speedup-ratio", "0"];

/// The sum of the values of a family's series on a page.
pub(crate) fn value(page: &str, name: &str) -> Option<f64> {
    let series = page.lines().filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
    });
    let values = series.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    values.reduce(|a, b| a + b)
}

fn shown(metrics: &Dynamo, name: &str) -> Option<f64> {
    value(&metrics.get("/metrics").text(), name)
}

/// Waits until so many workers are known, report, and are stale.
fn await_workers(metrics: &Dynamo, known: usize, reporting: usize, stale: usize) {
    let what = format!("{known} workers are known, {reporting} report, {stale} are stale");
    until(&what, || {
        let page = metrics.get("/metrics").text();
        let is = |name, wanted: usize| value(&page, name) == Some(wanted as f64);
        is("dynamo_workers_known", known)
            && is("dynamo_workers_reporting", reporting)
            && is("dynamo_workers_stale", stale)
    });
}

fn complete(frontend: &Dynamo, tokens: u32) {
    let body = json!({
        "model": "mock", "prompt": "the same every time ".repeat(20), "max_tokens": tokens,
    });
    let answer = frontend.post("/v1/completions", &body.to_string());
    assert_eq!(answer.status, 200, "{}", frontend.log());
}

/// The life of two workers, as the component shows it.
fn follows_workers(planes: &[&str]) {
    let place = Place::new();
    let start = |name: &str, words: &[&str]| place.start(name, &[words, planes].concat());
    let mut metrics = start("metrics", METRICS);
    let one = start("one", WORKER);
    let mut two = start("two", WORKER);
    await_workers(&metrics, 2, 2, 0);
    assert_eq!(metrics.get("/health").status, 200);
    assert_eq!(metrics.get("/live").status, 200);

    let frontend = start("frontend", FRONTEND);
    frontend.await_models(&["mock"]);
    until("prompts and what was found of them are counted", || {
        complete(&frontend, 3);
        let page = metrics.get("/metrics").text();
        let counts = |name: &str| value(&page, name).unwrap_or(0.0);
        counts("dynamo_workers_prompt_tokens_total") > 0.0
            && counts("dynamo_workers_cached_prompt_tokens_total") > 0.0
            && counts("dynamo_workers_kv_stored_blocks_total") > 0.0
            && counts("dynamo_workers_kv_cached_blocks") > 0.0
            && counts("llm_kv_hit_rate_percent") > 0.0
    });
    assert_eq!(shown(&metrics, "dynamo_workers_slots"), Some(512.0));
    assert_eq!(shown(&metrics, "llm_requests_total_slots"), Some(512.0));

    one.signal(Signal::STOP);
    await_workers(&metrics, 2, 1, 1);
    assert_eq!(shown(&metrics, "dynamo_workers_slots"), Some(256.0));
    one.signal(Signal::CONT);
    await_workers(&metrics, 2, 2, 0);
    two.signal(Signal::TERM);
    assert_eq!(two.wait().code, Some(0));
    await_workers(&metrics, 1, 1, 0);
    drop(one);
    await_workers(&metrics, 0, 0, 0);
    let page = metrics.get("/metrics").text();
    assert!(!page.contains("worker_id="), "{page}");
    metrics.signal(Signal::TERM);
    assert_eq!(metrics.wait().code, Some(0));
}

#[test]
fn workers_are_followed_without_a_broker() {
    follows_workers(&[]);
}

#[test]
fn workers_are_followed_over_zmq() {
    follows_workers(&["--event-plane", "zmq"]);
}

#[test]
fn workers_are_followed_over_nats() {
    let nats = NatsServer::start();
    let planes = ["--request-plane", "nats", "--event-plane", "nats"];
    follows_workers(&[&planes[..], &["--nats-server", &nats.url()]].concat());
}

#[test]
fn what_is_asked_for_is_shown_and_what_is_too_much_is_counted() {
    let place = Place::new();
    let fleet = [WORKER, &["--num-workers", "3"]].concat();
    let _here = place.start("here", &fleet);
    let there = [&fleet[..], &["--endpoint", "dyn://other.pool.answer"]].concat();
    let _there = place.start("there", &there);
    let all = place.start("all", &[METRICS, &["--max-workers", "4"]].concat());
    await_workers(&all, 6, 6, 0);
    assert_eq!(shown(&all, "dynamo_metrics_left_out_workers"), Some(2.0));
    assert_eq!(shown(&all, "dynamo_worker_reporting"), Some(4.0));
    let one = place.start("one", &[METRICS, &["--max-endpoints", "1"]].concat());
    await_workers(&one, 3, 3, 0);
    assert_eq!(shown(&one, "dynamo_metrics_left_out_workers"), Some(3.0));
    let named = ["--component", "pool", "--endpoint", "answer"];
    let named = place.start("named", &[METRICS, &named].concat());
    await_workers(&named, 3, 3, 0);
    let page = named.get("/metrics").text();
    assert!(page.contains("dynamo_namespace=\"other\""), "{page}");
    assert!(!page.contains("dynamo_namespace=\"dynamo\""), "{page}");
}

#[test]
fn a_component_that_cannot_be_says_why() {
    let place = Place::new();
    let first = place.start("first", METRICS);
    let port = first.address.rsplit(':').next().unwrap();
    let refused: &[(&[&str], i32, &str)] = &[
        (&["--port", port], 1, "check --host and --port"),
        (&["--component", "no name"], 1, "--component"),
        (&["--endpoint", "dyn://a.b.c.d"], 1, "--endpoint"),
        (&["--stale-after", "0s"], 2, "--stale-after"),
    ];
    for (words, code, said) in refused {
        let ended = place.run(&[&["metrics"], *words].concat());
        assert_eq!(ended.code, Some(*code), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
    assert!(
        ask(&first.address, ("GET", "/nothing"), &[], "")
            .unwrap()
            .status
            == 404
    );
}
