//! Every way in which a server fails has its own line in the table of errors, and none makes the
//! benchmark hang.

use crate::server::{Reply, Server, events, good, run, text, whole};
use dynamo_bench::{BenchError, BenchServeOptions, ServeResult, serve};
use dynamo_runtime::{Environment, Tasks};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The one error of a run with one request.
fn only_error(result: &ServeResult) -> (String, String) {
    assert_eq!(
        (result.statistics.completed, result.statistics.failed),
        (0, 1)
    );
    let (code, error) = result.statistics.errors.iter().next().unwrap();
    (code.clone(), error.example.clone())
}

async fn error_of(reply: Reply) -> (String, String) {
    let server = Server::start(move |_, _| reply.clone()).await;
    only_error(&run(&server.options()).await.unwrap())
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = BenchServeOptions {
        url: format!("http://{}", listener.local_addr().unwrap()),
        model: Some("m".to_owned()),
        requests: Some(1),
        ..BenchServeOptions::default()
    };
    drop(listener);
    let (code, example) = only_error(&run(&options).await.unwrap());
    assert_eq!(code, "connect");
    assert!(example.contains("refused"), "{example}");
    // What would tell the model, and what is sent first, says it at once.
    let unnamed = BenchServeOptions {
        model: None,
        ..options.clone()
    };
    let error = run(&unnamed).await.unwrap_err();
    assert!(matches!(error, BenchError::Models { .. }), "{error}");
    let warm = BenchServeOptions {
        warmup: 1,
        ..options
    };
    let error = run(&warm).await.unwrap_err();
    assert!(matches!(error, BenchError::Warmup(_)), "{error}");
}

#[tokio::test]
async fn refusals_are_counted_by_status_and_code() {
    let body = r#"{"error":{"message":"no model m","code":"model_not_found"}}"#;
    let (code, example) = error_of(Reply::Bytes(whole(404, "application/json", body))).await;
    assert_eq!(code, "http 404 model_not_found");
    assert_eq!(example, "HTTP 404: no model m");

    let server = Server::start(|number, _| {
        Reply::Bytes(match number % 3 {
            0 => good(&["a", "b"], 5),
            _ => whole(429, "text/plain", "slow down"),
        })
    })
    .await;
    let options = BenchServeOptions {
        requests: Some(9),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert_eq!(result.statistics.completed, 3);
    assert_eq!(result.statistics.errors["http 429"].count, 6);
    assert_eq!(
        *server.connections.lock(),
        1,
        "refusals keep the connection"
    );
}

#[tokio::test]
async fn a_stream_that_is_cut_off_is_no_answer() {
    let start = events(&[&text("a"), &text("b")]);
    // The connection ends within the body, and the body ends without a last event.
    for reply in [
        Reply::Last(start.clone()),
        Reply::Bytes(start.clone() + "0\r\n\r\n"),
        Reply::Last("HTTP/1.1 200 OK\r\ncontent-".to_owned()),
        Reply::Last(String::new()),
    ] {
        let (code, example) = error_of(reply.clone()).await;
        assert_eq!(code, "cut off", "{reply:?}: {example}");
    }
}

#[tokio::test]
async fn what_is_no_openai_stream_is_malformed() {
    for answer in [
        events(&[&text("a"), "<oops>"]) + "0\r\n\r\n",
        events(&["{\"usage\":{\"prompt_tokens\":\"many\"}}"]) + "0\r\n\r\n",
        whole(200, "application/json", "{}"),
        whole(200, "text/html", "<html>"),
    ] {
        let (code, example) = error_of(Reply::Bytes(answer.clone())).await;
        assert_eq!(code, "malformed", "{answer}: {example}");
    }
}

#[tokio::test]
async fn an_error_within_a_stream_keeps_its_code() {
    let failed = r#"{"error":{"message":"the worker is gone","code":"worker_lost"}}"#;
    let answer = events(&[&text("a"), failed, "[DONE]"]) + "0\r\n\r\n";
    let (code, example) = error_of(Reply::Bytes(answer)).await;
    assert_eq!(code, "stream worker_lost");
    assert!(example.ends_with("the worker is gone"), "{example}");
}

#[tokio::test]
async fn silence_ends_at_the_request_timeout() {
    for reply in [Reply::Silence, Reply::Bytes(events(&[&text("a")]))] {
        let server = Server::start(move |_, _| reply.clone()).await;
        let options = BenchServeOptions {
            request_timeout: Some(Duration::from_millis(50)),
            max_failures: Some(0),
            ..server.options()
        };
        let result = run(&options).await.unwrap();
        assert_eq!(only_error(&result).0, "timeout");
        let hung = result.statistics.hung;
        assert!(hung > 0 && hung == result.statistics.failed, "{hung}");
        let said = result.summary_json()["verdict"].to_string();
        assert!(said.contains("--max-failures allows 0"), "{said}");
    }
}

#[tokio::test]
async fn an_interruption_leaves_what_was_measured() {
    let server = Server::start(|number, _| match number {
        0..5 => Reply::Bytes(good(&["a", "b", "c"], 9)),
        _ => Reply::Silence,
    })
    .await;
    let options = BenchServeOptions {
        requests: Some(1_000),
        concurrency: Some(2),
        ..server.options()
    };
    let (tasks, interrupt) = (Tasks::root(), CancellationToken::new());
    let environment = Environment::system();
    let running = serve(&options, &environment, &tasks, &interrupt, |progress| {
        if progress.completed == 5 && progress.in_flight == 2 {
            interrupt.cancel();
        }
    });
    let result = running.await.unwrap();
    assert!(result.is_interrupted);
    assert_eq!(result.statistics.completed, 5);
    assert_eq!(result.statistics.interrupted, 2);
    assert_eq!(result.statistics.tokens.output, 15);
    assert!(result.notes()[0].contains("interrupted"));
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_costs_no_request() {
    // The second connection's first request, and so on: each is answered once.
    let server = Server::start(|_, _| Reply::Last(good(&["a"], 2))).await;
    let options = BenchServeOptions {
        requests: Some(20),
        ..server.options()
    };
    let result = run(&options).await.unwrap();
    assert_eq!(
        result.statistics.completed, 20,
        "{:?}",
        result.statistics.errors
    );
    assert_eq!(server.bodies.lock().len(), 20);
}

#[tokio::test]
async fn a_server_with_several_models_wants_one_named() {
    let models = r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#;
    let server = Server::start(|_, _| Reply::Bytes(whole(200, "application/json", models))).await;
    let options = BenchServeOptions {
        model: None,
        ..server.options()
    };
    let error = run(&options).await.unwrap_err().to_string();
    assert!(
        error.contains("2 models (a, b): name one with --model"),
        "{error}"
    );
}
