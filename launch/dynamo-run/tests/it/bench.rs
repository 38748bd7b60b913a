//! `dynamo bench serve` against the binary's own servers: what it prints, writes and ends with.

use crate::process::{Ended, Place, until};
use crate::serving::SINGLE;
use crate::workers::FRONTEND;
use rustix::process::Signal;
use serde_json::Value;

fn bench(place: &Place, words: &[&str]) -> Ended {
    place.run(&[&["bench", "serve"], words].concat())
}

/// The one line of JSON that it printed.
fn figures(ended: &Ended) -> Value {
    assert_eq!(ended.code, Some(0), "{}{}", ended.stdout, ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn an_echo_server_is_measured_and_the_result_is_written() {
    let place = Place::new();
    let server = place.start("server", SINGLE);
    let (json, page) = (place.path("result.json"), place.path("report.html"));
    let words = [
        "--url",
        &server.address,
        "--concurrency",
        "4",
        "--requests",
        "40",
        "--input-tokens",
        "50",
        "--output-tokens",
        "uniform:5,20",
        "--goodput",
        "ttft:1h",
        "--output",
        json.to_str().unwrap(),
        "--report",
        page.to_str().unwrap(),
    ];
    let ended = bench(&place, &words);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for part in [
        "40 sent, 40 completed",
        "40 of 40 requests (100.0 percent",
        "TTFT",
        "ITL",
    ] {
        assert!(
            ended.stdout.contains(part),
            "{part} is not in\n{}",
            ended.stdout
        );
    }
    let written: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(written["model"], "echo");
    assert_eq!(written["tokens"]["with_usage"], 40);
    assert_eq!(
        written["tokens"]["output"],
        written["tokens"]["output_planned"]
    );
    assert_eq!(written["single_requests"].as_array().unwrap().len(), 40);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg ") && !page.contains("<script"));
}

#[test]
fn a_simulated_fleet_is_measured_with_its_caches() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let fleet = ["mocker", "--speedup-ratio", "0", "--block-size", "16"];
    let _fleet = place.start("fleet", &fleet);
    frontend.await_models(&["mock"]);
    // Two conversations of three turns over one prefix: each turn finds the one before. As plain
    // texts: the chat template of a fleet without a model knows the last message alone.
    let words = [
        "--url",
        &frontend.address,
        "--requests",
        "6",
        "--api",
        "completions",
        "--turns",
        "3",
        "--prefix-tokens",
        "40",
        "--input-tokens",
        "20",
        "--output-tokens",
        "7",
        "--format",
        "json",
    ];
    let result = figures(&bench(&place, &words));
    assert_eq!(result["requests"]["completed"], 6);
    assert_eq!(result["tokens"]["output"], 42);
    assert!(result["tokens"]["cached_reported"].as_u64().unwrap() > 0);
    let trace = place.write(
        "trace.jsonl",
        &"{\"timestamp\": 3, \"input_length\": 600, \"output_length\": 2, \"hash_ids\": [1, 2]}\n"
            .repeat(3),
    );
    let words = [
        "--url",
        &frontend.address,
        "--api",
        "completions",
        "--trace",
        &trace,
        "--format",
        "json",
    ];
    let result = figures(&bench(&place, &words));
    assert_eq!(result["requests"]["completed"], 3);
    assert_eq!(result["client"]["schedule_lag_ms"]["count"], 3);
}

#[test]
fn an_interrupted_run_prints_what_it_has_and_has_not_succeeded() {
    let place = Place::new();
    let slow = [SINGLE, &["--token-echo-delay", "5ms"]].concat();
    let server = place.start("server", &slow);
    let words = [
        "bench",
        "serve",
        "--url",
        &server.address,
        "--requests",
        "1000000",
        "--input-tokens",
        "1",
        "--output-tokens",
        "2",
        "--format",
        "json",
    ];
    let mut running = place.spawn("bench", place.command(&words));
    let metric = "dynamo_frontend_requests_total{";
    until("some requests were answered", || {
        let metrics = server.get("/metrics").text();
        let mut counts = metrics.lines().filter(|line| line.starts_with(metric));
        counts.any(|line| !line.ends_with(" 0"))
    });
    running.signal(Signal::INT);
    let ended = running.wait();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(result["interrupted"], true);
    assert!(result["requests"]["completed"].as_u64().unwrap() > 0);
    assert_eq!(result["requests"]["failed"], 0);
}

#[test]
fn a_run_beyond_its_limits_is_printed_and_has_not_passed() {
    let place = Place::new();
    let slow = [SINGLE, &["--token-echo-delay", "1h"]].concat();
    let server = place.start("server", &slow);
    let url = ["--url", server.address.as_str()];
    let hung = ["--requests", "3", "--request-timeout", "100ms"];
    let json = ["--max-failures", "2", "--format", "json"];
    let ended = bench(&place, &[&url[..], &hung, &json].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(result["requests"]["hung"], 3);
    assert_eq!(result["verdict"]["passed"], false);
    // A recipe's process is named, or it is refused.
    let ended = bench(&place, &[&url[..], &["--recipe", "soak"]].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("--watch-pid"), "{}", ended.stderr);
}

#[test]
fn a_fleet_takes_a_burst_and_its_frontend_is_watched() {
    let place = Place::new();
    let frontend = place.start("frontend", FRONTEND);
    let fleet = ["mocker", "--num-workers", "8", "--speedup-ratio", "0"];
    let _fleet = place.start("fleet", &fleet);
    frontend.await_models(&["mock"]);
    let url = ["--url", frontend.address.as_str(), "--format", "json"];
    let burst = ["--recipe", "fleet-burst", "--requests", "256"];
    let result = figures(&bench(&place, &[&url[..], &burst].concat()));
    assert_eq!(result["requests"]["completed"], 256);
    assert_eq!(result["verdict"]["passed"], true);
    let pid = frontend.pid().to_string();
    let soak = ["--recipe", "soak", "--requests", "20", "--watch-pid", &pid];
    let calm = ["--max-rss-growth", "1000"];
    let result = figures(&bench(&place, &[&url[..], &soak, &calm].concat()));
    assert!(result["memory"]["rss_bytes_at_end"].as_u64().unwrap() > 1 << 20);
    let tight = ["--max-rss-growth", "0.01"];
    let ended = bench(&place, &[&url[..], &soak, &tight].concat());
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let result: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(result["requests"]["completed"], 20);
    assert_eq!(result["verdict"]["passed"], false);
    let nobody = ["--watch-pid", "4294967295", "--requests", "1"];
    let ended = bench(&place, &[&url[..], &nobody].concat());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("--watch-pid"), "{}", ended.stderr);
}

#[test]
fn what_cannot_be_measured_says_why() {
    let place = Place::new();
    let server = place.start("server", SINGLE);
    let address = server.address.as_str();
    let refused: &[(&[&str], i32, &str)] = &[
        (&["--url", "nowhere"], 1, "--url nowhere"),
        (
            &["--url", "http://127.0.0.1:1"],
            1,
            "is a server running there?",
        ),
        (&["--url", address, "--trace", "/no/such"], 1, "/no/such"),
        (
            &["--url", address, "--report", "/no/such/page"],
            1,
            "/no/such/page",
        ),
        (
            &["--url", address, "--input-tokens", "many"],
            2,
            "--input-tokens",
        ),
        (&["--url", address, "--goodput", "ttft"], 2, "--goodput"),
    ];
    for (words, code, said) in refused {
        let ended = bench(&place, words);
        assert_eq!(ended.code, Some(*code), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
    let ended = bench(&place, &["--url", address, "--model", "nobody", "-n", "3"]);
    assert_eq!(ended.code, Some(1));
    assert!(
        ended.stdout.contains("3  http 404 model_not_found"),
        "{}",
        ended.stdout
    );
}
