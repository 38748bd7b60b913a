//! Clients that leave, and a process that stops.

use crate::harness::{MODEL, Server, patiently, read_until, request};
use dynamo_protocols::engine::Engine;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

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

async fn until_closed(server: &Server) {
    patiently(async { while TcpStream::connect(server.address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn a_drain_closes_the_socket_first_and_finishes_what_runs() {
    let server = Server::start().await;
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    connection.write_all(&stream("abc")).await.unwrap();
    read_until(&mut connection, "\"text\":\"a\"").await;
    assert_eq!(server.get("/health").await.status, 200);
    server.drain.cancel();
    // Whoever comes now goes elsewhere.
    until_closed(&server).await;
    server.engine.open();
    read_until(&mut connection, "[DONE]").await;
    assert_eq!(server.drained().await.dropped_requests, 0);
}

#[tokio::test]
async fn who_is_connected_when_a_drain_begins_is_served() {
    let server = Server::start().await;
    let whole = stream("abc");
    let (head, rest) = whole.split_at(20);
    let [mut silent, mut begun] = [server.connect().await, server.connect().await];
    begun.write_all(head).await.unwrap();
    // One that waits to be let in, for all that the server knows.
    let mut latest = server.connect().await;
    server.drain.cancel();
    latest.write_all(&whole).await.unwrap();
    read_until(&mut latest, "[DONE]").await;
    silent.write_all(&whole).await.unwrap();
    read_until(&mut silent, "[DONE]").await;
    begun.write_all(rest).await.unwrap();
    read_until(&mut begun, "[DONE]").await;
    until_closed(&server).await;
    assert_eq!(server.drained().await.dropped_requests, 0);
}

#[tokio::test]
async fn a_drain_does_not_wait_for_connections_that_ask_nothing() {
    let server = Server::start().await;
    let idle = server.connect().await;
    let mut kept = server.connect().await;
    let asked = b"GET /live HTTP/1.1\r\nhost: x\r\n\r\n";
    kept.write_all(asked).await.unwrap();
    read_until(&mut kept, "live").await;
    server.drain.cancel();
    assert_eq!(server.drained().await.dropped_requests, 0);
    drop((idle, kept));
}

#[tokio::test]
async fn a_process_that_has_not_heard_of_its_models_is_not_ready_and_requests_wait() {
    let server = Server::start().await;
    let model = server.models.remove(MODEL).unwrap();
    server.models.expect_anything(Duration::from_secs(60));
    let health = server.get("/health").await;
    assert_eq!(
        (health.status, &health.json()["stage"]),
        (503, &json!("starting"))
    );
    let body = json!({"model": MODEL, "prompt": "abc"}).to_string();
    let impatient = server
        .post_with(
            "/v1/completions",
            "x-dynamo-queue-timeout-ms: 50\r\n",
            &body,
        )
        .await;
    let not_ready = (503, "model_not_ready".to_owned(), Some("model".to_owned()));
    assert_eq!(impatient.error(), not_ready);
    let comes = async {
        server.models.add(MODEL, model);
        server.models.settle(BTreeSet::new());
    };
    let (reply, ()) = tokio::join!(server.post("/v1/completions", &body), comes);
    assert_eq!(reply.status, 200);
    assert_eq!(server.get("/health").await.status, 200);
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
