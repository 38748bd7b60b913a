//! Streamed answers, byte for byte.

use crate::harness::{MODEL, Server, read_until, request};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

fn body(fields: &Value) -> String {
    let mut body = json!({"model": MODEL, "stream": true});
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    body.to_string()
}

#[tokio::test]
async fn a_chat_stream_has_role_text_finish_usage_and_end() {
    let server = Server::start().await;
    let fields = json!({
        "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2,
        "stream_options": {"include_usage": true},
    });
    let reply = server.post("/v1/chat/completions", body(&fields)).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    insta::assert_snapshot!(reply.text(), @r#"
    data: {"id":"chatcmpl-00000000-0000-4005-8000-000000000006","object":"chat.completion.chunk","created":1700000000,"model":"test/echo","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-00000000-0000-4005-8000-000000000006","object":"chat.completion.chunk","created":1700000000,"model":"test/echo","choices":[{"index":0,"delta":{"content":"u"},"logprobs":null,"finish_reason":null}],"usage":null}

    data: {"id":"chatcmpl-00000000-0000-4005-8000-000000000006","object":"chat.completion.chunk","created":1700000000,"model":"test/echo","choices":[{"index":0,"delta":{"content":"s"},"logprobs":null,"finish_reason":"length"}],"usage":null}

    data: {"id":"chatcmpl-00000000-0000-4005-8000-000000000006","object":"chat.completion.chunk","created":1700000000,"model":"test/echo","choices":[],"usage":{"prompt_tokens":19,"completion_tokens":2,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":0}}}

    data: [DONE]
    "#);
}

#[tokio::test]
async fn a_completion_stream_has_text_finish_and_end() {
    let server = Server::start().await;
    let fields = json!({"prompt": "hé", "logprobs": 0, "add_special_tokens": false});
    let reply = server.post("/v1/completions", body(&fields)).await;
    insta::assert_snapshot!(reply.text(), @r#"
    data: {"id":"cmpl-00000000-0000-4005-8000-000000000006","object":"text_completion","created":1700000000,"model":"test/echo","choices":[{"index":0,"text":"h","logprobs":{"tokens":["h"],"token_logprobs":[0.0],"top_logprobs":null,"text_offset":[0]},"finish_reason":null}]}

    data: {"id":"cmpl-00000000-0000-4005-8000-000000000006","object":"text_completion","created":1700000000,"model":"test/echo","choices":[{"index":0,"text":"","logprobs":{"tokens":["�"],"token_logprobs":[0.0],"top_logprobs":null,"text_offset":[1]},"finish_reason":null}]}

    data: {"id":"cmpl-00000000-0000-4005-8000-000000000006","object":"text_completion","created":1700000000,"model":"test/echo","choices":[{"index":0,"text":"é","logprobs":{"tokens":["�"],"token_logprobs":[0.0],"top_logprobs":null,"text_offset":[2]},"finish_reason":"stop"}]}

    data: [DONE]
    "#);
}

#[tokio::test]
async fn a_stream_and_a_whole_answer_say_the_same() {
    let server = Server::start().await;
    let rows = [
        json!({"prompt": "hello wörld", "n": 3}),
        json!({"prompt": ["a", "bc"], "stop": "c", "echo": true}),
        json!({"prompt": "hello", "stop": ["llx", "lo"], "logprobs": 2}),
    ];
    for fields in rows {
        let events = server.post("/v1/completions", body(&fields)).await.events();
        let mut whole = fields.clone();
        whole["stream"] = false.into();
        let whole = server.post("/v1/completions", body(&whole)).await.json();
        for choice in whole["choices"].as_array().unwrap() {
            let mine: Vec<&Value> = events
                .iter()
                .flat_map(|event| event["choices"].as_array().unwrap())
                .filter(|delta| delta["index"] == choice["index"])
                .collect();
            let text: String = mine
                .iter()
                .map(|delta| delta["text"].as_str().unwrap())
                .collect();
            assert_eq!(choice["text"], text.as_str(), "{fields}");
            let tokens: Vec<&Value> = mine
                .iter()
                .filter_map(|delta| delta["logprobs"]["tokens"].as_array())
                .flatten()
                .collect();
            let expected = choice["logprobs"]["tokens"].as_array();
            assert_eq!(tokens.len(), expected.map_or(0, Vec::len), "{fields}");
            let (last, before) = mine.split_last().unwrap();
            assert_eq!(last["finish_reason"], choice["finish_reason"]);
            assert!(before.iter().all(|delta| delta["finish_reason"].is_null()));
        }
    }
}

#[tokio::test]
async fn tokens_are_sent_when_they_come_and_not_later() {
    let server = Server::start().await;
    server.engine.shut_after(2);
    let mut connection = server.connect().await;
    let fields = json!({"prompt": "abc", "add_special_tokens": false});
    let bytes = request("/v1/completions", "", body(&fields).as_bytes());
    connection.write_all(&bytes).await.unwrap();
    let seen = read_until(&mut connection, "\"text\":\"b\"").await;
    assert!(!seen.contains("\"text\":\"c\""));
    server.engine.open();
    read_until(&mut connection, "[DONE]").await;
}

#[tokio::test]
async fn a_failure_before_the_first_token_is_a_status() {
    let server = Server::start().await;
    server.engine.gate.close();
    let fields = json!({"prompt": "abc"});
    let reply = server.post("/v1/completions", body(&fields)).await;
    assert_eq!(reply.error(), (502, "worker_lost".to_owned(), None));
}

#[tokio::test]
async fn a_failure_after_the_first_token_is_an_event_and_no_good_end() {
    let server = Server::start().await;
    server.engine.shut_after(1);
    let mut connection = server.connect().await;
    let fields = json!({"prompt": "abc", "add_special_tokens": false});
    let bytes = request("/v1/completions", "", body(&fields).as_bytes());
    connection.write_all(&bytes).await.unwrap();
    read_until(&mut connection, "\"text\":\"a\"").await;
    server.engine.gate.close();
    let rest = read_until(&mut connection, "0\r\n\r\n").await;
    assert!(rest.contains(r#"data: {"error":{"message":"#), "{rest}");
    assert!(rest.contains(r#""code":"worker_lost""#), "{rest}");
    assert!(!rest.contains("[DONE]"), "{rest}");
}

#[tokio::test]
async fn a_head_that_waits_too_long_is_sent_without_output() {
    let server = Server::with(|options| {
        options.http_error_peek = std::time::Duration::ZERO;
    })
    .await;
    server.engine.shut_after(0);
    let mut connection = server.connect().await;
    let fields = json!({"messages": [{"role": "user", "content": "hi"}]});
    let bytes = request("/v1/chat/completions", "", body(&fields).as_bytes());
    connection.write_all(&bytes).await.unwrap();
    let head = read_until(&mut connection, "\"role\":\"assistant\"").await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    server.engine.open();
    read_until(&mut connection, "[DONE]").await;
}
