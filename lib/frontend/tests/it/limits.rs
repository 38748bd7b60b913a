//! Every limit, one step beyond it.

use crate::harness::{MODEL, Server, read_reply, read_until, request};
use dynamo_config::ByteSize;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const PATH: &str = "/v1/completions";
const SHORT: Duration = Duration::from_millis(200);

fn body() -> String {
    json!({"model": MODEL, "prompt": "abc", "add_special_tokens": false}).to_string()
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let server = Server::with(|options| options.http_body_limit = ByteSize::kib(64)).await;
    for size in [70_000, 1_000_000] {
        let reply = server.post(PATH, "x".repeat(size)).await;
        assert_eq!(reply.error(), (413, "payload_too_large".to_owned(), None));
    }
    assert_eq!(server.post(PATH, body()).await.status, 200);
}

#[tokio::test]
async fn headers_over_the_limits_are_refused() {
    let server = Server::start().await;
    let large = format!("x-large: {}\r\n", "x".repeat(40_000));
    let reply = server.post_with(PATH, &large, &body()).await;
    assert_eq!(reply.error(), (431, "headers_too_large".to_owned(), None));
    let many: String = (0..120).map(|i| format!("x-{i}: x\r\n")).collect();
    let reply = server.post_with(PATH, &many, &body()).await;
    assert_eq!(reply.error(), (431, "headers_too_large".to_owned(), None));
    // Beyond what is worth a body, the library's bare answer.
    let huge = format!("x-huge: {}\r\n", "x".repeat(1_000_000));
    let mut connection = server.connect().await;
    let sent = connection.write_all(&request(PATH, &huge, b"")).await;
    let mut answer = Vec::new();
    let read = connection.read_to_end(&mut answer).await;
    assert!(
        sent.is_err() || read.is_err() || answer.starts_with(b"HTTP/1.1 431"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_head_is_cut_off() {
    let server = Server::with(|options| options.http_header_timeout = SHORT).await;
    for said in [
        "",
        "P",
        "POST /v1/completions HTTP/1.1\r\nhost: x\r\nx-slow: ",
    ] {
        let mut connection = server.connect().await;
        connection.write_all(said.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(30), connection.read_to_end(&mut answer));
        drop(ended.await.expect("the connection must end"));
        assert!(!answer.starts_with(b"HTTP/1.1 200"));
    }
}

#[tokio::test]
async fn a_client_that_is_slow_with_its_body_is_told_so() {
    let server = Server::with(|options| options.http_body_timeout = SHORT).await;
    let whole = request(PATH, "", body().as_bytes());
    let mut connection = server.connect().await;
    connection
        .write_all(&whole[..whole.len() - 1])
        .await
        .unwrap();
    let reply = read_reply(&mut connection).await;
    assert_eq!(reply.error(), (408, "client_timeout".to_owned(), None));
}

#[tokio::test]
async fn requests_beyond_the_bound_come_back_later() {
    let server = Server::with(|options| options.http_max_requests = 1).await;
    server.engine.shut_after(1);
    let mut first = server.connect().await;
    let streaming = body().replace("\"prompt\"", "\"stream\":true,\"prompt\"");
    first
        .write_all(&request(PATH, "", streaming.as_bytes()))
        .await
        .unwrap();
    read_until(&mut first, "\"text\":\"a\"").await;
    let reply = server.post(PATH, body()).await;
    assert_eq!(reply.error(), (429, "rate_limited".to_owned(), None));
    assert_eq!(reply.header("retry-after"), Some("1"));
    assert_eq!(server.get("/health").await.status, 200);
    server.engine.open();
    read_until(&mut first, "[DONE]").await;
    assert_eq!(server.post(PATH, body()).await.status, 200);
}

#[tokio::test]
async fn a_request_past_its_deadline_is_an_error_and_frees_the_engine() {
    use dynamo_protocols::engine::Engine as _;
    let server = Server::with(|options| options.http_request_timeout = SHORT).await;
    server.engine.shut_after(1);
    let reply = server.post(PATH, body()).await;
    assert_eq!(reply.error(), (504, "request_timeout".to_owned(), None));
    server.engine.gate.add_permits(1);
    let mut connection = server.connect().await;
    let streaming = body().replace("\"prompt\"", "\"stream\":true,\"prompt\"");
    connection
        .write_all(&request(PATH, "", streaming.as_bytes()))
        .await
        .unwrap();
    let seen = read_until(&mut connection, "0\r\n\r\n").await;
    assert!(seen.contains("\"code\":\"request_timeout\""), "{seen}");
    server.engine.drain().await;
}

#[tokio::test]
async fn a_prompt_over_the_services_limit_is_refused() {
    let server = Server::with(|options| options.max_prompt_tokens = Some(2)).await;
    let reply = server.post(PATH, body()).await;
    assert_eq!(
        reply.error(),
        (
            400,
            "context_length_exceeded".to_owned(),
            Some("prompt".to_owned())
        )
    );
}

#[tokio::test]
async fn connections_beyond_the_bound_wait_for_a_place() {
    let server = Server::with(|options| options.http_max_connections = 1).await;
    let first = server.connect().await;
    let mut second = server.connect().await;
    second
        .write_all(&request(PATH, "", body().as_bytes()))
        .await
        .unwrap();
    drop(first);
    assert_eq!(read_reply(&mut second).await.status, 200);
}
