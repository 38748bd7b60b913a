//! The status server over real sockets.

use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::status::{self, EndpointStatus, HealthState, StatusError, StatusOptions};
use dynamo_runtime::telemetry::MetricsRegistry;
use dynamo_runtime::telemetry::process_metrics::ProcessMetrics;
use dynamo_runtime::{Environment, Tasks};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Server {
    address: SocketAddr,
    health: HealthState,
    tasks: Tasks,
}

async fn start() -> Server {
    let (health, tasks) = (HealthState::new(), Tasks::root());
    let metrics = MetricsRegistry::new();
    metrics.register(ProcessMetrics::new().unwrap()).unwrap();
    let address = status::serve(
        &local(0),
        health.clone(),
        metrics,
        &Environment::system(),
        &tasks,
    )
    .await
    .unwrap();
    Server {
        address,
        health,
        tasks,
    }
}

fn local(port: u16) -> StatusOptions {
    StatusOptions {
        host: "127.0.0.1".to_owned(),
        port,
    }
}

/// Sends bytes and reads until the server closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A refused request is answered and cut; what was read before the reset counts.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: status\r\nconnection: close\r\n\r\n");
    let answer = exchange(address, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

async fn health(server: &Server) -> (u16, String) {
    let (status, body) = get(server.address, "/health").await;
    let report: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert!(report["uptime"].as_f64().unwrap() >= 0.0);
    (
        status,
        format!("{} {}", report["status"], report["endpoints"]),
    )
}

#[tokio::test]
async fn health_follows_the_endpoints_and_draining() {
    let server = start().await;
    assert_eq!(health(&server).await, (503, r#""notready" {}"#.to_owned()));
    server
        .health
        .set_endpoint("ns.backend.generate", EndpointStatus::Ready);
    let ready = r#""ready" {"ns.backend.generate":"ready"}"#;
    assert_eq!(health(&server).await, (200, ready.to_owned()));
    server.health.set_draining();
    let draining = r#""notready" {"ns.backend.generate":"ready"}"#;
    assert_eq!(health(&server).await, (503, draining.to_owned()));
    assert_eq!(get(server.address, "/live").await.0, 200);
    server.tasks.stop().await;
}

#[tokio::test]
async fn metrics_are_served_and_other_paths_are_not() {
    let server = start().await;
    let (status, text) = get(server.address, "/metrics").await;
    assert_eq!(status, 200);
    #[cfg(target_os = "linux")]
    assert!(text.contains("\nprocess_resident_memory_bytes "), "{text}");
    assert_eq!(get(server.address, "/other").await.0, 404);
    let post =
        b"POST /health HTTP/1.1\r\nhost: s\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    let answer = exchange(server.address, post).await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    server.tasks.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_named_with_the_option_that_changes_it() {
    let server = start().await;
    let error = status::serve(
        &local(server.address.port()),
        HealthState::new(),
        MetricsRegistry::new(),
        &Environment::system(),
        &server.tasks,
    )
    .await
    .unwrap_err();
    assert!(matches!(error, StatusError::InUse { .. }));
    let message = error.to_string();
    assert!(message.contains(&server.address.to_string()), "{message}");
    assert!(message.contains("--system-port"), "{message}");
    server.tasks.stop().await;
}

#[tokio::test]
async fn an_address_of_another_machine_is_refused() {
    let options = StatusOptions {
        host: "192.0.2.1".to_owned(),
        port: 0,
    };
    let error = status::serve(
        &options,
        HealthState::new(),
        MetricsRegistry::new(),
        &Environment::system(),
        &Tasks::root(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, StatusError::Listen { .. }));
    assert!(error.to_string().contains("192.0.2.1:0"), "{error}");
}

#[tokio::test]
async fn headers_beyond_the_bound_are_refused() {
    let server = start().await;
    let long = format!(
        "GET /health HTTP/1.1\r\nhost: s\r\nx-long: {}\r\n\r\n",
        "a".repeat(1 << 20)
    );
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    // The server may stop reading before all is written.
    drop(stream.write_all(long.as_bytes()).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert_eq!(get(server.address, "/live").await.0, 200);
    server.tasks.stop().await;
}

#[tokio::test]
async fn garbage_is_refused_and_the_server_goes_on() {
    let server = start().await;
    let answer = exchange(server.address, b"\x00\xffwhat\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert_eq!(get(server.address, "/live").await.0, 200);
    server.tasks.stop().await;
}

#[tokio::test]
async fn a_client_that_never_finishes_its_request_is_cut_off() {
    let server = start().await;
    let mut slow = TcpStream::connect(server.address).await.unwrap();
    slow.write_all(b"GET /health HT").await.unwrap();
    // The clock stands still but for timers: the header timeout passes at once.
    tokio::time::pause();
    let mut answer = Vec::new();
    drop(slow.read_to_end(&mut answer).await);
    let answer = String::from_utf8(answer).unwrap();
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");
    server.tasks.stop().await;
}

#[tokio::test]
async fn an_idle_connection_gives_its_place_back() {
    let server = start().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: s\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    tokio::time::pause();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    server.tasks.stop().await;
}

#[tokio::test]
async fn more_clients_than_places_wait_for_one() {
    let server = start().await;
    // As many as are served at a time; each holds its place by saying nothing.
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /live HTTP/1.1\r\nhost: s\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        idle.push(stream);
    }
    let waiting = get(server.address, "/live");
    let mut waiting = std::pin::pin!(waiting);
    tokio::select! {
        biased;
        answer = waiting.as_mut() => panic!("served beyond the bound: {answer:?}"),
        () = yield_often() => {}
    }
    idle.pop();
    assert_eq!(waiting.await.0, 200);
    server.tasks.stop().await;
}

/// Lets everything else run that can.
async fn yield_often() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn the_server_ends_with_its_tasks() {
    let server = start().await;
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(b"GET /live HTTP/1.1\r\nhost: s\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).await.unwrap();
    server.tasks.stop().await;
    let mut rest = Vec::new();
    drop(idle.read_to_end(&mut rest).await);
    assert!(TcpStream::connect(server.address).await.is_err());
}

#[test]
fn without_a_port_there_is_no_server_and_the_default_is_loopback() {
    let mut options = RuntimeOptions::default();
    assert_eq!(StatusOptions::new(&options), None);
    options.system_port = 0;
    assert_eq!(StatusOptions::new(&options), Some(local(0)));
}
