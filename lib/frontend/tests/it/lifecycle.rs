//! Clients that leave, and a process that stops.

use crate::harness::{MODEL, Server, patiently, read_until, request};
use dynamo_protocols::engine::Engine;
use serde_json::json;
use tokio::io::AsyncWriteExt;

fn stream(prompt: &str) -> Vec<u8> {
    let body =
        json!({"model": MODEL, "prompt": prompt, "stream": true, "add_special_tokens": false});
    request("/v1/completions", "", body.to_string().as_bytes())
}

#[tokio::test]
async fn a_client_that_vanishes_in_mid_stream_frees_the_engine() {
    let server = Server::start().await;
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    connection.write_all(&stream("abc")).await.unwrap();
    read_until(&mut connection, "\"text\":\"a\"").await;
    assert_eq!(server.engine.load().scheduled.num_decode_requests, 1);
    drop(connection);
    patiently(server.engine.drain()).await;
    let metrics = server.get("/metrics").await;
    let line = r#"dynamo_frontend_model_cancellation_total{endpoint="completions",model="test/echo",request_type="stream"} 1"#;
    assert!(metrics.text().contains(line), "{}", metrics.text());
}

#[tokio::test]
async fn a_client_that_vanishes_while_it_waits_frees_the_engine() {
    let server = Server::start().await;
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    let body = json!({"model": MODEL, "prompt": "abc"}).to_string();
    connection
        .write_all(&request("/v1/completions", "", body.as_bytes()))
        .await
        .unwrap();
    // The gate's only permit is gone when the engine has begun.
    patiently(async {
        while server.engine.gate.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    drop(connection);
    patiently(server.engine.drain()).await;
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_refuses_what_comes() {
    let server = Server::start().await;
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    connection.write_all(&stream("abc")).await.unwrap();
    read_until(&mut connection, "\"text\":\"a\"").await;
    assert_eq!(server.get("/health").await.status, 200);
    server.drain.cancel();
    patiently(async { while server.get("/health").await.status != 503 {} }).await;
    assert_eq!(server.get("/live").await.status, 200);
    let body = json!({"model": MODEL, "prompt": "a"}).to_string();
    let reply = server.post("/v1/completions", &body).await;
    assert_eq!(reply.error(), (503, "draining".to_owned(), None));
    assert!(reply.header("retry-after").is_some());
    server.engine.open();
    read_until(&mut connection, "[DONE]").await;
    assert_eq!(server.drained().await.dropped_requests, 0);
    assert!(
        tokio::net::TcpStream::connect(server.address)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn cancelling_the_tasks_drops_everything_at_once() {
    let server = Server::start().await;
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    connection.write_all(&stream("abc")).await.unwrap();
    read_until(&mut connection, "\"text\":\"a\"").await;
    server.tasks.cancel();
    assert_eq!(server.drained().await.dropped_requests, 1);
    patiently(server.engine.drain()).await;
}

#[tokio::test]
async fn requests_are_counted_under_the_published_names() {
    let server = Server::start().await;
    let body = json!({"model": MODEL, "prompt": "abc", "max_tokens": 2}).to_string();
    assert_eq!(server.post("/v1/completions", &body).await.status, 200);
    let bad = json!({"model": MODEL, "prompt": "abc", "temperature": 9}).to_string();
    server.post("/v1/completions", &bad).await;
    server.post("/v1/completions", "{").await;
    let metrics = server.get("/metrics").await;
    for line in [
        r#"dynamo_frontend_requests_started_total{endpoint="completions",model="test/echo",request_type="unary"} 2"#,
        r#"dynamo_frontend_requests_total{endpoint="completions",error_type="",model="test/echo",request_type="unary",status="success"} 1"#,
        r#"dynamo_frontend_requests_total{endpoint="completions",error_type="validation",model="test/echo",request_type="unary",status="error"} 1"#,
        r#"dynamo_frontend_requests_total{endpoint="completions",error_type="validation",model="unknown",request_type="unary",status="error"} 1"#,
        r#"dynamo_frontend_inflight_requests{model="test/echo"} 0"#,
        r#"dynamo_frontend_queued_requests{model="test/echo"} 0"#,
        r#"dynamo_frontend_active_requests{model="test/echo"} 0"#,
        r#"dynamo_frontend_output_tokens_total{model="test/echo"} 2"#,
        r#"dynamo_frontend_input_sequence_tokens_sum{model="test/echo"} 4"#,
        r#"dynamo_frontend_time_to_first_token_seconds_count{model="test/echo"} 1"#,
        r#"dynamo_frontend_inter_token_latency_seconds_count{model="test/echo"} 1"#,
        r#"dynamo_frontend_failures_total{class="client",reason="invalid_json"} 1"#,
        "dynamo_frontend_disconnected_clients 0",
    ] {
        assert!(metrics.text().contains(line), "{line}\n{}", metrics.text());
    }
}
