//! Each run of the suite, as long as CI bears.

use dynamo_fault_tolerance::config::{FaultOptions, Scenario};
use dynamo_fault_tolerance::scenario;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn models(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.models")
        .join(name)
}

fn options() -> FaultOptions {
    FaultOptions {
        requests: 80,
        every: Duration::from_secs(2),
        concurrency: 10,
        outage: Duration::from_secs(12),
        model: models("gemma-3-270m-q4_k_m.gguf"),
        tokenizer: models("tokenizers/qwen3"),
        ..FaultOptions::default()
    }
}

fn assert_clean(scenario: Scenario, options: &FaultOptions) {
    let report = scenario::run(scenario, options);
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn simulated_workers_killed_and_frozen() {
    assert_clean(Scenario::Workers, &options());
}

#[test]
fn workers_with_a_real_model_killed_and_frozen() {
    let options = FaultOptions {
        requests: 30,
        workers: 3,
        concurrency: 4,
        every: Duration::from_secs(4),
        ..options()
    };
    assert_clean(Scenario::Model, &options);
}

#[test]
fn one_of_two_frontends_killed() {
    assert_clean(Scenario::Frontends, &options());
}

#[test]
fn routers_killed_and_frozen() {
    assert_clean(Scenario::Routers, &options());
}

#[test]
fn etcd_and_nats_server_killed_away_and_frozen() {
    assert_clean(Scenario::Planes, &options());
}

#[test]
fn rolling_restart() {
    assert_clean(Scenario::Rolling, &options());
}

#[test]
fn namespaces_cut_off_with_requests_over_tcp() {
    assert_clean(Scenario::Network, &options());
}

#[test]
fn namespaces_cut_off_with_requests_over_nats() {
    assert_clean(Scenario::NetworkNats, &options());
}

#[test]
fn what_does_not_survive_gives_its_errors() {
    assert_clean(Scenario::Limits, &options());
}
