//! What `/metrics` shows after real requests, and whether the page about it says the same.

use crate::harness::{MODEL, Reply, Server, environment, patiently, read_until, request};
use dynamo_llm::card::RuntimeInfo;
use dynamo_llm::config::DeliveryOptions;
use dynamo_llm::migration::{Migrating, MigrationSetup};
use dynamo_llm::model::ServedModel;
use dynamo_protocols::engine::{Engine, EngineRequest, EngineStream, RequestContext};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

const PAGE: &str = include_str!("../../../../docs/reference/metrics.md");

/// A family of metrics as Prometheus's text form shows it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeSet<String>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            current = name.to_owned();
            families.entry(current.clone()).or_default().help = help.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let kind = rest.split_once(' ').unwrap().1.to_owned();
            families.get_mut(&current).unwrap().kind = kind;
        } else if let Some((_, labels)) = line.split_once('{') {
            let labels = labels.rsplit_once('}').unwrap().0;
            let names = labels.split("\",").map(|it| it.split_once('=').unwrap().0);
            let family = families.get_mut(&current).unwrap();
            // The bound of a bucket is the form's own.
            family
                .labels
                .extend(names.filter(|it| *it != "le").map(str::to_owned));
        }
    }
    families
}

/// A family's row on the page, but for the unit, which Prometheus does not know.
fn row(name: &str, family: &Family) -> [String; 4] {
    let labels: Vec<&str> = family.labels.iter().map(String::as_str).collect();
    [
        format!("`{name}`"),
        family.kind.clone(),
        labels.join(", "),
        family.help.clone(),
    ]
}

/// The rows of the page's tables without their units, each of which must be there.
fn rows_of_the_page() -> BTreeSet<[String; 4]> {
    let rows = PAGE
        .lines()
        .filter(|line| line.starts_with("| `dynamo_frontend_"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, unit, help] = cells[..] else {
            panic!("five columns: {line}");
        };
        assert!(!unit.is_empty(), "a unit: {line}");
        [name, kind, labels, help].map(str::to_owned)
    })
    .collect()
}

fn completion(more: &str) -> String {
    format!(
        r#"{{"model": "{MODEL}", "prompt": "abc", "max_tokens": 2, "add_special_tokens": false{more}}}"#
    )
}

/// Serves the model under another name with all that a worker can say about itself.
fn serve_with_runtime(server: &Server, name: &str, runtime: RuntimeInfo) {
    let mut model = ServedModel::clone(&server.models.find(MODEL).unwrap());
    model.card.runtime = runtime;
    server.models.add(name, Arc::new(model));
}

async fn metrics(server: &Server) -> String {
    server.get("/metrics").await.text().to_owned()
}

fn assert_lines(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|it| it == *line),
            "{line} is not in\n{text}"
        );
    }
}

/// The sum or count of a histogram, or another single value.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.unwrap_or_else(|| panic!("{series} is not in\n{text}"))
        .trim()
        .parse()
        .unwrap()
}

/// A worker that is lost with its first request, and another one in its place.
#[derive(Debug)]
struct LostOnce {
    lost: AtomicBool,
    next: Arc<dyn Engine>,
}

impl Engine for LostOnce {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        if !self.lost.swap(true, Ordering::Relaxed) {
            let lost = RequestError::new(ErrorCode::WorkerLost, "lost");
            return Box::pin(std::future::ready(Err(lost)));
        }
        self.next.generate(request, context)
    }

    fn load(&self) -> LoadReport {
        self.next.load()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.next.drain()
    }
}

/// Serves a model whose first request moves.
fn serve_moving(server: &Server) {
    let model = ServedModel::clone(&server.models.find(MODEL).unwrap());
    let engine = Arc::new(LostOnce {
        lost: AtomicBool::new(false),
        next: Arc::clone(&model.engine),
    });
    let setup = MigrationSetup {
        options: DeliveryOptions::default(),
        has_workers: true,
        can_continue: true,
        model: "moving".into(),
        gone: CancellationToken::new(),
        metrics: server.migrations.clone(),
        environment: environment(),
    };
    let engine = Arc::new(Migrating::new(engine, setup));
    server
        .models
        .add("moving", Arc::new(ServedModel { engine, ..model }));
}

#[tokio::test]
async fn the_page_lists_what_is_gathered_and_nothing_else() {
    let server = Server::with(|options| options.http_max_requests = 1).await;
    let runtime = RuntimeInfo {
        total_kv_blocks: Some(1),
        max_num_seqs: Some(1),
        max_num_batched_tokens: Some(1),
        ..RuntimeInfo::default()
    };
    serve_with_runtime(&server, "other", runtime);
    let ok = |reply: Reply| assert_eq!(reply.status, 200, "{}", reply.text());
    ok(server.post("/v1/completions", completion("")).await);
    serve_moving(&server);
    let moves = completion("").replace(MODEL, "moving");
    ok(server.post("/v1/completions", moves).await);
    let embedding = json!({"model": MODEL, "input": "abc"}).to_string();
    ok(server.post("/v1/embeddings", embedding).await);
    // One client has the only place and goes away; another is refused meanwhile.
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    let stream = request(
        "/v1/completions",
        "",
        completion(r#", "stream": true"#).as_bytes(),
    );
    connection.write_all(&stream).await.unwrap();
    read_until(&mut connection, "data: ").await;
    let refused = server.post("/v1/completions", completion("")).await;
    assert_eq!(refused.status, 429);
    drop(connection);
    patiently(server.engine.drain()).await;

    let gathered: BTreeSet<_> = families(&metrics(&server).await)
        .iter()
        .map(|(name, family)| row(name, family))
        .collect();
    let written = rows_of_the_page();
    let missing: Vec<_> = gathered.difference(&written).collect();
    let stale: Vec<_> = written.difference(&gathered).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "docs/reference/metrics.md\nlacks {missing:#?}\nand has in vain {stale:#?}"
    );
}

#[tokio::test]
async fn stages_and_tokenizer_are_timed_once_per_request() {
    let server = Server::start().await;
    for more in ["", r#", "stream": true"#] {
        let reply = server.post("/v1/completions", completion(more)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    // Refused while it is prepared: it leaves the stage and says nothing of its length.
    let bad = server
        .post("/v1/completions", completion(r#", "temperature": 9"#))
        .await;
    assert_eq!(bad.status, 400);
    let text = metrics(&server).await;
    assert_lines(
        &text,
        &[
            r#"dynamo_frontend_stage_duration_seconds_count{stage="preprocess"} 2"#,
            r#"dynamo_frontend_stage_duration_seconds_count{stage="dispatch"} 2"#,
            r#"dynamo_frontend_stage_requests{phase="",stage="preprocess"} 0"#,
            r#"dynamo_frontend_stage_requests{phase="aggregated",stage="dispatch"} 0"#,
            "dynamo_frontend_tokenize_seconds_count 2",
            r#"dynamo_frontend_tokenizer_latency_ms_count{operation="tokenize"} 2"#,
            r#"dynamo_frontend_tokenizer_latency_ms_count{operation="detokenize"} 2"#,
            "dynamo_frontend_detokenize_token_count 4",
        ],
    );
    let seconds = value(&text, "dynamo_frontend_tokenize_seconds_sum");
    let milliseconds = value(
        &text,
        r#"dynamo_frontend_tokenizer_latency_ms_sum{operation="tokenize"}"#,
    );
    assert!(seconds > 0.0);
    assert!((milliseconds - seconds * 1_000.0).abs() < 1e-9);
    assert!(value(&text, "dynamo_frontend_detokenize_total_us") > 0.0);
    // The whole of a request contains its stages.
    let duration = value(
        &text,
        r#"dynamo_frontend_request_duration_seconds_sum{model="test/echo"}"#,
    );
    let stages = ["preprocess", "dispatch"].map(|stage| {
        let series = format!("dynamo_frontend_stage_duration_seconds_sum{{stage=\"{stage}\"}}");
        value(&text, &series)
    });
    assert!(stages.iter().sum::<f64>() <= duration, "{text}");
}

#[tokio::test]
async fn a_prompt_of_tokens_takes_no_time_to_tokenise() {
    let server = Server::start().await;
    let body = json!({"model": MODEL, "prompt": [97, 98], "max_tokens": 1}).to_string();
    assert_eq!(server.post("/v1/completions", body).await.status, 200);
    let text = metrics(&server).await;
    assert_lines(&text, &["dynamo_frontend_tokenize_seconds_count 0"]);
}

#[tokio::test]
async fn a_request_is_dispatched_until_the_engine_gives_something() {
    let server = Server::start().await;
    server.engine.shut_after(0);
    let mut connection = server.connect().await;
    let stream = request(
        "/v1/completions",
        "",
        completion(r#", "stream": true"#).as_bytes(),
    );
    connection.write_all(&stream).await.unwrap();
    let waiting = r#"dynamo_frontend_stage_requests{phase="aggregated",stage="dispatch"} 1"#;
    patiently(async { while !metrics(&server).await.contains(waiting) {} }).await;
    server.engine.gate.add_permits(1);
    read_until(&mut connection, "\"text\":\"a\"").await;
    let text = metrics(&server).await;
    assert_lines(
        &text,
        &[
            r#"dynamo_frontend_stage_requests{phase="aggregated",stage="dispatch"} 0"#,
            r#"dynamo_frontend_active_requests{model="test/echo"} 1"#,
        ],
    );
    server.engine.open();
    read_until(&mut connection, "[DONE]").await;
}

#[tokio::test]
async fn models_show_what_their_cards_know_for_as_long_as_they_are_served() {
    let server = Server::start().await;
    let runtime = RuntimeInfo {
        total_kv_blocks: Some(1_000),
        max_num_seqs: None,
        max_num_batched_tokens: Some(2_048),
        ..RuntimeInfo::default()
    };
    serve_with_runtime(&server, "other", runtime);
    let text = metrics(&server).await;
    assert_lines(
        &text,
        &[
            r#"dynamo_frontend_model_ready{model="test/echo"} 1"#,
            r#"dynamo_frontend_model_ready{model="other"} 1"#,
            r#"dynamo_frontend_model_context_length{model="other"} 512"#,
            r#"dynamo_frontend_model_kv_cache_block_size{model="other"} 16"#,
            r#"dynamo_frontend_model_total_kv_blocks{model="other"} 1000"#,
            r#"dynamo_frontend_model_max_num_batched_tokens{model="other"} 2048"#,
        ],
    );
    assert!(!text.contains("model_max_num_seqs"), "nobody knows it");
    server.models.remove("other");
    let text = metrics(&server).await;
    assert!(!text.contains(r#"model="other""#), "{text}");
    assert!(text.contains("dynamo_frontend_model_ready"));
}

#[tokio::test]
async fn the_event_loop_is_looked_at() {
    let server = Server::start().await;
    patiently(async {
        while value(
            &metrics(&server).await,
            "dynamo_frontend_event_loop_delay_seconds_count",
        ) < 1.0
        {}
    })
    .await;
}

#[tokio::test]
async fn tokens_of_a_long_answer_are_shown_before_it_ends() {
    let server = Server::start().await;
    server.engine.shut_after(40);
    let body = json!({
        "model": MODEL, "prompt": "a".repeat(50), "stream": true, "add_special_tokens": false
    });
    let mut connection = server.connect().await;
    let stream = request("/v1/completions", "", body.to_string().as_bytes());
    connection.write_all(&stream).await.unwrap();
    let series = r#"dynamo_frontend_output_tokens_total{model="test/echo"}"#;
    patiently(async { while value(&metrics(&server).await, series) < 32.0 {} }).await;
    server.engine.open();
    read_until(&mut connection, "[DONE]").await;
    let text = metrics(&server).await;
    assert_lines(
        &text,
        &[
            r#"dynamo_frontend_output_tokens_total{model="test/echo"} 50"#,
            r#"dynamo_frontend_inter_token_latency_seconds_count{model="test/echo"} 49"#,
        ],
    );
}
