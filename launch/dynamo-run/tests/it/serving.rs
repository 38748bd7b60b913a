//! One process that serves HTTP with an engine of its own: the API, keys, the status server.

use crate::http::ask;
use crate::process::Place;

pub(crate) const SINGLE: &[&str] = &["run", "in=http", "out=echo", "--http-port", "0"];

/// A chat of one message.
pub(crate) fn chat(model: &str, text: &str, stream: bool) -> String {
    serde_json::json!({
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "stream": stream,
    })
    .to_string()
}

#[test]
fn a_single_process_serves_the_api() {
    let place = Place::new();
    let server = place.start("server", SINGLE);
    assert!(
        server.address.starts_with("http://127.0.0.1:"),
        "{}",
        server.address
    );
    assert_eq!(server.models(), ["echo"]);

    let whole = server.post("/v1/chat/completions", &chat("echo", "hello there", false));
    assert_eq!(whole.status, 200);
    assert!(whole.header("x-request-id").is_some());
    let whole = whole.json();
    assert_eq!(whole["choices"][0]["message"]["content"], "hello there");
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");

    let streamed = server.post("/v1/chat/completions", &chat("echo", "hello there", true));
    assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
    let streamed = streamed.streamed();
    assert!(streamed.complete);
    assert_eq!(streamed.text, "hello there");
    assert_eq!(streamed.finish.as_deref(), Some("stop"));

    let unknown = server.post("/v1/chat/completions", &chat("nobody", "hello", false));
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");

    let health = server.get("/health");
    assert_eq!(health.status, 200);
    assert_eq!(health.json()["models"], serde_json::json!(["echo"]));
    assert_eq!(server.get("/live").status, 200);
    let metrics = server.get("/metrics").text();
    let counted = "dynamo_frontend_requests_total{";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn a_key_is_asked_for_where_one_is_given() {
    let place = Place::new();
    let by_flag = place.start("flag", &[SINGLE, &["--api-key", "open-sesame"]].concat());
    let mut command = place.command(SINGLE);
    command.env("DYN_API_KEY", "open-sesame");
    let by_variable = place.serve("variable", command);
    let file = place.write("keys", "# for the tests\nopen-sesame\nanother\n");
    let by_file = place.start("file", &[SINGLE, &["--api-key-file", &file]].concat());
    for server in [by_flag, by_variable, by_file] {
        let models = |headers: &[(&str, &str)]| {
            ask(&server.address, ("GET", "/v1/models"), headers, "").unwrap()
        };
        let refused = models(&[]);
        assert_eq!(refused.status, 401);
        assert_eq!(refused.json()["error"]["code"], "invalid_api_key");
        assert_eq!(models(&[("authorization", "Bearer wrong")]).status, 401);
        let let_in = models(&[("authorization", "Bearer open-sesame")]);
        assert_eq!(let_in.status, 200);
        // Probes have no key.
        assert_eq!(server.get("/health").status, 200);
        assert!(!server.log().contains("open-sesame"), "a key is in the log");
    }
}

#[test]
fn the_status_server_tells_life_readiness_and_figures() {
    let place = Place::new();
    let mut command = place.command(&["run", "in=dyn://dynamo.backend.generate", "out=echo"]);
    command.env("DYN_SYSTEM_PORT", "0");
    let worker = place.serve("worker", command);
    assert_eq!(worker.address, "dyn://dynamo.backend.generate");
    let status = worker.status_address();
    let get = |path| ask(&status, ("GET", path), &[], "").unwrap();
    assert_eq!(get("/live").status, 200);
    let health = get("/health");
    assert_eq!(health.status, 200);
    let health = health.json();
    assert_eq!(health["status"], "ready");
    assert_eq!(
        health["endpoints"]["dyn://dynamo.backend.generate"],
        "ready"
    );
    let metrics = get("/metrics").text();
    assert!(metrics.contains("process_resident_memory"), "{metrics}");
    assert_eq!(worker.requests_taken(), 0);
    assert_eq!(get("/nothing").status, 404);
}
