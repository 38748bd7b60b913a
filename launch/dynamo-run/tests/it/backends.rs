//! A frontend in front of servers that are not its own: `out=http://...`. The good servers are
//! processes of the binary with the echo engine; the bad ones are [`crate::fakes`].

use crate::fakes::{EVENTS, Fake, hold, json, say};
use crate::http::ask;
use crate::process::{Dynamo, Place, until};
use rustix::process::Signal;
use serde_json::Value;
use std::thread;

const ECHO: &[&str] = &["run", "in=http", "out=echo", "--http-port", "0"];

/// A server that takes its time, so that a test can meet it in a stream.
const SLOW: &[&str] = &[
    "run",
    "in=http",
    "out=echo",
    "--http-port",
    "0",
    "--token-echo-delay",
    "20ms",
];

const CHAT: &str = r#"{"model":"echo","messages":[{"role":"user","content":"hello there"}]}"#;

/// A chat whose answer is a stream of a hundred tokens.
fn long() -> String {
    CHAT.replace("hello there", &"a".repeat(100))
        .replace("{\"model\"", "{\"stream\":true,\"model\"")
}

/// A frontend in front of these servers.
fn frontend(place: &Place, servers: &[&str], more: &[&str]) -> Dynamo {
    let outs: Vec<String> = servers.iter().map(|it| format!("out={it}")).collect();
    let mut words = vec!["run", "in=http", "--http-port", "0"];
    words.extend(outs.iter().map(String::as_str));
    words.extend([
        "--backend-poll-interval",
        "100ms",
        "--backend-poll-timeout",
        "500ms",
    ]);
    words.extend(more);
    place.start("frontend", &words)
}

/// One figure of `/metrics`; 0 where it is not there.
fn metric(frontend: &Dynamo, line: &str) -> f64 {
    let metrics = frontend.get("/metrics").text();
    let found = metrics.lines().find_map(|it| it.strip_prefix(line));
    found.map_or(0.0, |value| value.trim().parse().unwrap())
}

#[test]
fn every_api_goes_through_as_it_is() {
    let place = Place::new();
    let (one, two) = (place.start("one", ECHO), place.start("two", ECHO));
    let front = frontend(&place, &[&one.address, &two.address], &[]);
    front.await_models(&["echo"]);
    let direct = one.post("/v1/chat/completions", CHAT).json();
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..8 {
        let answer = front.post("/v1/chat/completions", CHAT);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("x-dynamo-router-mode"), Some("least-loaded"));
        servers.insert(
            answer
                .header("x-dynamo-worker-instance-id")
                .unwrap()
                .to_owned(),
        );
        assert_eq!(answer.json()["choices"], direct["choices"]);
    }
    assert_eq!(servers.len(), 2, "equal servers share the work");
    let streamed = front.post("/v1/chat/completions", &long()).streamed();
    assert!(
        streamed.complete && streamed.text.contains("aaaa"),
        "{streamed:?}"
    );
    let completion = front.post("/v1/completions", r#"{"model":"echo","prompt":"hi"}"#);
    assert_eq!(completion.json()["choices"][0]["text"], "hi");
    let body = r#"{"model":"echo","input":"hi"}"#;
    let (ours, theirs) = (
        front.post("/v1/embeddings", body),
        one.post("/v1/embeddings", body),
    );
    assert_eq!(ours.status, theirs.status);
    assert_eq!(ours.json()["error"]["code"], theirs.json()["error"]["code"]);
    let pinned = [("x-dynamo-worker-instance-id", "2")];
    for _ in 0..4 {
        let answer = ask(
            &front.address,
            ("POST", "/v1/chat/completions"),
            &pinned,
            CHAT,
        )
        .unwrap();
        assert_eq!(answer.header("x-dynamo-worker-instance-id"), Some("2"));
    }
    let status = front.get("/v1/router/status").json();
    assert_eq!(status["routers"][0]["workers"].as_array().unwrap().len(), 2);
}

#[test]
fn mistakes_are_answered_where_they_are_seen() {
    let place = Place::new();
    let one = place.start("one", ECHO);
    let front = frontend(&place, &[&one.address], &[]);
    let unknown = front.post(
        "/v1/chat/completions",
        r#"{"model":"nobody","messages":[]}"#,
    );
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["error"]["code"], "model_not_found");
    assert_eq!(front.post("/v1/completions", "no json").status, 400);
    // The server's own words about its own business.
    let body = r#"{"model":"echo","messages":[]}"#;
    let (ours, theirs) = (
        front.post("/v1/chat/completions", body),
        one.post("/v1/chat/completions", body),
    );
    assert_eq!(ours.status, theirs.status);
    assert_eq!(ours.json(), theirs.json());
    assert_eq!(front.post("/v1/unheard/of", CHAT).status, 404);
}

#[test]
fn what_is_sent_is_what_came_and_headers_pass_as_documented() {
    let place = Place::new();
    let fake = Fake::start(|stream| say(stream, &json(200, r#"{"usage":{"prompt_tokens":7}}"#)));
    let front = frontend(&place, &[&fake.address], &[]);
    front.await_models(&["echo"]);
    let body = "{ \"model\":\"echo\",  \"zebra\": [1.50, {\"a\":\"\\u00e9\"}]\t}";
    let headers = [
        ("authorization", "Bearer client"),
        ("x-request-id", "id-7"),
        ("x-mine", "yes"),
        ("accept-encoding", "gzip"),
    ];
    let answer = ask(
        &front.address,
        ("POST", "/v1/completions?a=b"),
        &headers,
        body,
    )
    .unwrap();
    assert_eq!(answer.header("x-request-id"), Some("id-7"));
    assert_eq!(answer.text(), r#"{"usage":{"prompt_tokens":7}}"#);
    let (head, sent) = fake.seen.try_recv().unwrap();
    assert_eq!(sent, body.as_bytes());
    let head = head.to_ascii_lowercase();
    assert!(
        head.starts_with("post /v1/completions?a=b http/1.1"),
        "{head}"
    );
    for line in [
        "authorization: bearer client",
        "x-request-id: id-7",
        "x-mine: yes",
        "traceparent: 00-",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(
        !head.contains("gzip") && !head.contains("connection: close"),
        "{head}"
    );
}

#[test]
fn a_server_that_dies_in_a_stream_leaves_one_error_and_no_half_event() {
    let place = Place::new();
    let (one, two) = (place.start("one", SLOW), place.start("two", SLOW));
    let front = frontend(&place, &[&one.address, &two.address], &[]);
    front.await_models(&["echo"]);
    let mut answer = front.post("/v1/chat/completions", &long());
    let by = answer
        .header("x-dynamo-worker-instance-id")
        .unwrap()
        .to_owned();
    for _ in 0..3 {
        answer.event().unwrap().unwrap();
    }
    let (dead, alive) = if by == "1" { (one, two) } else { (two, one) };
    dead.signal(Signal::KILL);
    let streamed = answer.streamed();
    assert_eq!(
        streamed.error.as_deref(),
        Some("worker_lost"),
        "{streamed:?}"
    );
    assert!(!streamed.complete);
    for _ in 0..6 {
        assert_eq!(front.post("/v1/chat/completions", CHAT).status, 200);
    }
    front.await_log("server is out");
    assert_eq!(front.models(), ["echo"]);
    alive.signal(Signal::KILL);
    until("nobody answers", || {
        let answer = front.post("/v1/chat/completions", CHAT);
        answer.status == 503
    });
    assert_eq!(
        front.models(),
        ["echo"],
        "a model whose servers are gone is not unknown"
    );
}

#[test]
fn a_server_that_freezes_holds_nobody_up() {
    let place = Place::new();
    let (one, two) = (place.start("one", SLOW), place.start("two", SLOW));
    let front = frontend(&place, &[&one.address, &two.address], &[]);
    front.await_models(&["echo"]);
    let mut answer = front.post("/v1/chat/completions", &long());
    let by = answer
        .header("x-dynamo-worker-instance-id")
        .unwrap()
        .to_owned();
    answer.event().unwrap().unwrap();
    let frozen = if by == "1" { &one } else { &two };
    frozen.signal(Signal::STOP);
    // Some of these are sent to the frozen one, and come back from the other.
    let asking: Vec<_> = (0..6)
        .map(|_| {
            let address = front.address.clone();
            thread::spawn(move || {
                let answer = ask(&address, ("POST", "/v1/chat/completions"), &[], CHAT).unwrap();
                assert_eq!(answer.status, 200);
                answer.json()
            })
        })
        .collect();
    for asked in asking {
        asked.join().unwrap();
    }
    let streamed = answer.streamed();
    assert_eq!(
        streamed.error.as_deref(),
        Some("worker_lost"),
        "{streamed:?}"
    );
    frozen.signal(Signal::CONT);
    until("it is back", || {
        let status = front.get("/v1/router/status").json();
        status["routers"][0]["workers"].as_array().unwrap().len() == 2
    });
}

#[test]
fn nonsense_is_followed_by_the_next_server() {
    let place = Place::new();
    let good = place.start("good", ECHO);
    let bad = [
        Fake::start(|stream| say(stream, "\u{1}\u{2}garbage\r\n\r\n")),
        Fake::start(|stream| {
            say(stream, "HTTP/1.1 200 OK\r\nx: ");
            say(stream, &"y".repeat(200_000));
        }),
        Fake::start(|stream| {
            let html =
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<html>";
            say(stream, html);
        }),
        Fake::start(|stream| say(stream, &json(200, "<html>not json</html>"))),
        Fake::start(|_| {}),
        Fake::start(|stream| {
            say(
                stream,
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
            );
        }),
        Fake::start(|stream| {
            say(
                stream,
                "HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n",
            );
        }),
    ];
    for fake in &bad {
        let servers = [fake.address.as_str(), good.address.as_str()];
        let front = frontend(&place, &servers, &["--router-mode", "round-robin"]);
        front.await_models(&["echo"]);
        until("the bad server is asked", || {
            let answer = front.post("/v1/chat/completions", CHAT);
            assert_eq!(answer.status, 200);
            fake.asked() > 0
        });
        assert!(metric(&front, "dynamo_backends_retries_total") > 0.0);
        let counted = ["nonsense", "closed"].map(|result| {
            let labels = format!("backend=\"{}\",result=\"{result}\"", fake.address);
            metric(
                &front,
                &format!("dynamo_backends_requests_total{{{labels}}}"),
            )
        });
        assert!(
            counted.iter().sum::<f64>() > 0.0,
            "it is counted by its name"
        );
        // Alone, it is a typed error and never a hang.
        let front = frontend(&place, &[&fake.address], &[]);
        front.await_models(&["echo"]);
        let answer = front.post("/v1/chat/completions", CHAT);
        assert_eq!(answer.status, 502);
        let code = answer.json()["error"]["code"].clone();
        assert!(
            ["worker_protocol", "worker_lost"].contains(&code.as_str().unwrap()),
            "{code}"
        );
    }
}

#[test]
fn answers_that_never_come_end_by_their_limits() {
    let place = Place::new();
    let headless = Fake::start(|stream| {
        say(stream, "HTTP/1.1 200 OK\r\n");
        hold(stream);
    });
    let limits = [
        "--backend-head-timeout",
        "300ms",
        "--backend-idle-timeout",
        "300ms",
        "--http-request-timeout",
        "5s",
    ];
    let front = frontend(&place, &[&headless.address], &limits);
    front.await_models(&["echo"]);
    let answer = front.post("/v1/chat/completions", &long());
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["error"]["code"], "first_token_timeout");
    let answer = front.post("/v1/chat/completions", CHAT);
    assert_eq!(answer.json()["error"]["code"], "request_timeout");
    let stuck = Fake::start(|stream| {
        say(stream, EVENTS);
        hold(stream);
    });
    let front = frontend(&place, &[&stuck.address], &limits);
    front.await_models(&["echo"]);
    let streamed = front.post("/v1/chat/completions", &long()).streamed();
    assert_eq!(streamed.text, "a");
    assert_eq!(
        streamed.error.as_deref(),
        Some("inter_token_timeout"),
        "{streamed:?}"
    );
}

#[test]
fn a_stream_that_breaks_off_shows_whole_events_and_one_error() {
    let place = Place::new();
    let broken = Fake::start(|stream| say(stream, EVENTS));
    let front = frontend(&place, &[&broken.address], &[]);
    front.await_models(&["echo"]);
    let streamed = front.post("/v1/chat/completions", &long()).streamed();
    assert_eq!(streamed.text, "a");
    assert_eq!(
        streamed.error.as_deref(),
        Some("worker_lost"),
        "{streamed:?}"
    );
}

#[test]
fn errors_of_servers_pass_with_their_status() {
    let place = Place::new();
    let busy = Fake::start(|stream| say(stream, &json(429, r#"{"error":{"message":"busy"}}"#)));
    let front = frontend(&place, &[&busy.address], &[]);
    front.await_models(&["echo"]);
    let answer = front.post("/v1/chat/completions", CHAT);
    assert_eq!(answer.status, 429);
    assert_eq!(answer.json()["error"]["message"], "busy");
    assert_eq!(busy.asked(), 1);
}

#[test]
fn a_server_is_out_while_its_list_is_nonsense() {
    let place = Place::new();
    let fake = Fake::start(|stream| say(stream, &json(200, "{}")));
    let front = frontend(&place, &[&fake.address], &[]);
    front.await_models(&["echo"]);
    assert_eq!(front.post("/v1/chat/completions", CHAT).status, 200);
    fake.lists
        .store(false, std::sync::atomic::Ordering::Relaxed);
    until("it is out", || {
        front.post("/v1/chat/completions", CHAT).status == 503
    });
    fake.lists.store(true, std::sync::atomic::Ordering::Relaxed);
    until("it is in", || {
        front.post("/v1/chat/completions", CHAT).status == 200
    });
    let labels = format!("backend=\"{}\",reason=\"nonsense\"", fake.address);
    let polls = format!("dynamo_backends_poll_failures_total{{{labels}}}");
    assert!(metric(&front, &polls) >= 2.0);
    let out = front.log().matches("server is out").count();
    assert_eq!(out, 1, "told once for each change");
}

#[test]
fn in_shadow_the_balancer_gets_everything_and_is_compared() {
    let place = Place::new();
    let (one, two) = (place.start("one", ECHO), place.start("two", ECHO));
    let balancer = frontend(&place, &[&one.address, &two.address], &[]);
    let workers = [format!("1={}", one.address), format!("2={}", two.address)];
    let shadow = [
        "--shadow",
        "--shadow-worker",
        &workers[0],
        "--shadow-worker",
        &workers[1],
        "--shadow-log-every",
        "5",
    ];
    let front = frontend(&place, &[&balancer.address], &shadow);
    front.await_models(&["echo"]);
    for _ in 0..10 {
        assert_eq!(front.post("/v1/chat/completions", CHAT).status, 200);
    }
    let of = |result: &str| {
        metric(
            &front,
            &format!("dynamo_backends_shadow_decisions_total{{result=\"{result}\"}}"),
        )
    };
    assert_eq!(of("same") + of("other"), 10.0);
    front.await_log("choices beside the balancer's");
    let decisions = front.get("/v1/router/decisions").json();
    let decisions = decisions["decisions"]["echo"]
        .as_array()
        .map_or(0, Vec::len);
    assert_eq!(decisions, 10);
}

#[test]
fn prompts_follow_their_prefix_where_a_tokenizer_is_known() {
    let place = Place::new();
    let tokenizer = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../.models/tokenizers/qwen3"
    );
    let (one, two) = (place.start("one", ECHO), place.start("two", ECHO));
    let more = ["--model-path", tokenizer];
    let front = frontend(&place, &[&one.address, &two.address], &more);
    front.await_models(&["echo"]);
    let prompt = |subject: &str| {
        let text = format!("{subject}: {}", "what is there to know of it? ".repeat(20));
        serde_json::json!({
            "model": "echo", "max_tokens": 2, "engine_extension": {"a": 1},
            "messages": [{"role": "user", "content": text}],
        })
    };
    let mut served: std::collections::BTreeMap<&str, Value> = std::collections::BTreeMap::new();
    for subject in [
        "rust", "tides", "bread", "moss", "rust", "moss", "tides", "bread",
    ] {
        let body = prompt(subject).to_string();
        let answer = front.post("/v1/chat/completions", &body);
        assert_eq!(
            answer.header("x-dynamo-router-mode"),
            Some("kv-approximate")
        );
        let by = Value::from(answer.header("x-dynamo-worker-instance-id").unwrap());
        assert_eq!(
            served.entry(subject).or_insert_with(|| by.clone()),
            &by,
            "{subject}"
        );
    }
    assert!(
        metric(
            &front,
            "dynamo_backends_prompts_total{result=\"tokenised\"}"
        ) >= 8.0
    );
}
