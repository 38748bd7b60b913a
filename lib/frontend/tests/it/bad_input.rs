//! What clients get wrong, each with the answer that says so.

use crate::harness::{CONTEXT, MODEL, Server, bind, options, request};
use dynamo_frontend::BindError;
use dynamo_llm::registry::ModelRegistry;

const CHAT: &str = "/v1/chat/completions";

/// A chat request with these fields added.
fn chat(fields: &str) -> String {
    format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"hi"}}]{}{fields}}}"#,
        if fields.is_empty() { "" } else { "," }
    )
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn each_mistake_in_a_chat_request_has_its_code_and_field() {
    let server = Server::start().await;
    let nested = "[".repeat(100_000);
    let long = format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(CONTEXT as usize)
    );
    let rows = [
        ("{\"model\":".to_owned(), 400, "invalid_json", None),
        (String::new(), 400, "invalid_json", None),
        (nested.clone(), 400, "invalid_json", None),
        (
            chat(&format!("\"metadata\":{nested}")),
            400,
            "invalid_json",
            None,
        ),
        (
            chat("\"temperature\":99"),
            400,
            "invalid_request",
            Some("temperature"),
        ),
        (
            chat("\"temperature\":\"hot\""),
            400,
            "invalid_request",
            Some("temperature"),
        ),
        (
            chat("\"max_tokens\":-5"),
            400,
            "invalid_request",
            Some("max_tokens"),
        ),
        (
            chat("\"max_completion_tokens\":0"),
            400,
            "invalid_request",
            Some("max_tokens"),
        ),
        (
            chat("\"temprature\":1"),
            400,
            "unknown_parameter",
            Some("temprature"),
        ),
        (
            chat("\"guided_json\":{}"),
            400,
            "unsupported_parameter",
            Some("guided_json"),
        ),
        (
            chat("\"functions\":[]"),
            400,
            "unsupported_parameter",
            Some("functions"),
        ),
        (
            chat("\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}]"),
            400,
            "unsupported_parameter",
            Some("tools"),
        ),
        (
            chat("\"response_format\":{\"type\":\"json_object\"}"),
            400,
            "unsupported_parameter",
            Some("response_format"),
        ),
        (
            chat("\"tool_choice\":\"required\""),
            400,
            "unsupported_parameter",
            Some("tool_choice"),
        ),
        (
            chat("\"stream_options\":{}"),
            400,
            "invalid_request",
            Some("stream_options"),
        ),
        (
            chat("\"top_logprobs\":3"),
            400,
            "invalid_request",
            Some("top_logprobs"),
        ),
        (chat("\"n\":129"), 400, "invalid_request", Some("n")),
        (
            chat("\"stop\":[\"\"]"),
            400,
            "invalid_request",
            Some("stop[0]"),
        ),
        (
            chat("\"stop_token_ids\":[258]"),
            400,
            "invalid_request",
            Some("stop_token_ids"),
        ),
        (
            chat("\"logit_bias\":{\"x\":1}"),
            400,
            "invalid_request",
            Some("logit_bias"),
        ),
        (
            chat("\"max_tokens\":600"),
            400,
            "context_length_exceeded",
            Some("prompt"),
        ),
        (long, 400, "context_length_exceeded", Some("prompt")),
        (
            format!(r#"{{"model":"{MODEL}","messages":[]}}"#),
            400,
            "invalid_request",
            Some("messages"),
        ),
        (
            format!(r#"{{"model":"{MODEL}","messages":[{{"role":"robot","content":"a"}}]}}"#),
            400,
            "invalid_request",
            Some("messages[0].role"),
        ),
        (
            format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"raise"}}]}}"#),
            400,
            "template_error",
            Some("messages"),
        ),
        (
            r#"{"model":"nope","messages":[{"role":"user","content":"a"}]}"#.to_owned(),
            404,
            "model_not_found",
            Some("model"),
        ),
    ];
    for (body, status, code, param) in rows {
        let shown: String = body.chars().take(120).collect();
        let reply = server.post(CHAT, &body).await;
        assert_eq!(
            reply.error(),
            (status, code.to_owned(), param.map(str::to_owned)),
            "{shown}: {}",
            reply.text()
        );
    }
    // None of it disturbed anybody.
    assert_eq!(server.post(CHAT, chat("")).await.status, 200);
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn each_mistake_in_the_other_endpoints_has_its_code_and_field() {
    let server = Server::start().await;
    let many = format!("[{}]", vec!["\"a\""; 129].join(","));
    let rows = [
        ("/v1/completions", "", "invalid_request", Some("prompt")),
        (
            "/v1/completions",
            "\"prompt\":\"\",\"add_special_tokens\":false",
            "invalid_request",
            Some("prompt"),
        ),
        (
            "/v1/completions",
            "\"prompt\":[]",
            "invalid_request",
            Some("prompt"),
        ),
        (
            "/v1/completions",
            "\"prompt\":[999]",
            "invalid_request",
            Some("prompt"),
        ),
        (
            "/v1/completions",
            &format!("\"prompt\":{many}"),
            "invalid_request",
            Some("prompt"),
        ),
        (
            "/v1/completions",
            "\"prompt\":\"a\",\"logprobs\":6",
            "invalid_request",
            Some("logprobs"),
        ),
        (
            "/v1/completions",
            "\"prompt\":\"a\",\"best_of\":2",
            "unsupported_parameter",
            Some("best_of"),
        ),
        (
            "/v1/completions",
            "\"prompt\":\"a\",\"suffix\":\"b\"",
            "unsupported_parameter",
            Some("suffix"),
        ),
        (
            "/v1/completions",
            "\"prompt\":\"a\",\"echo\":true,\"logprobs\":1",
            "unsupported_parameter",
            Some("echo"),
        ),
        (
            "/v1/completions",
            "\"prompt\":\"a\",\"messages\":[]",
            "unknown_parameter",
            Some("messages"),
        ),
        (
            "/v1/embeddings",
            "\"input\":[]",
            "invalid_request",
            Some("input"),
        ),
        (
            "/v1/embeddings",
            "\"input\":\"a\",\"dimensions\":3",
            "unsupported_parameter",
            Some("dimensions"),
        ),
        (
            "/v1/embeddings",
            "\"input\":\"a\",\"encoding_format\":\"hex\"",
            "invalid_request",
            Some("encoding_format"),
        ),
    ];
    for (path, fields, code, param) in rows {
        let comma = if fields.is_empty() { "" } else { "," };
        let body = format!(r#"{{"model":"{MODEL}"{comma}{fields}}}"#);
        let reply = server.post(path, &body).await;
        assert_eq!(
            reply.error(),
            (400, code.to_owned(), param.map(str::to_owned)),
            "{path} {fields}: {}",
            reply.text()
        );
    }
}

#[tokio::test]
async fn messages_say_what_is_wrong_and_how_to_mend_it() {
    let server = Server::start().await;
    let mut messages = Vec::new();
    for body in [
        chat("\"temperature\":99"),
        chat("\"temprature\":1"),
        chat("\"max_tokens\":600"),
        r#"{"model":"nope","messages":[]}"#.to_owned(),
        format!(r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"raise"}}]}}"#),
    ] {
        messages.push(server.post(CHAT, body).await.message());
    }
    insta::assert_snapshot!(messages.join("\n"), @r"
    `temperature` must be between 0 and 2, got 99
    unknown field `temprature`; did you mean `temperature`?
    the prompt has 19 tokens and the answer may have 600, 619 together; the model's context is 512 tokens: shorten the prompt or ask for at most 493
    model `nope` is not served; served models: test/echo
    the chat template refuses these messages: no such talk
    ");
}

#[tokio::test]
async fn bytes_that_are_not_utf8_are_a_client_error() {
    let server = Server::start().await;
    let reply = server.post(CHAT, b"{\"model\":\"\xff\xfe\"}").await;
    assert_eq!(reply.error(), (400, "invalid_json".to_owned(), None));
}

#[tokio::test]
async fn wrong_paths_methods_and_types_have_openai_bodies() {
    let server = Server::start().await;
    let reply = server.get("/v1/nope").await;
    assert_eq!(reply.error(), (404, "route_not_found".to_owned(), None));
    let reply = server.get(CHAT).await;
    assert_eq!(reply.error(), (405, "method_not_allowed".to_owned(), None));
    assert_eq!(reply.header("allow"), Some("POST"));
    let reply = server.get("/v1/models/nope").await;
    assert_eq!(reply.error().0, 404);
    let body = chat("");
    for kind in ["", "content-type: text/plain\r\n"] {
        let bytes = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{kind}content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let reply = server.send(bytes).await;
        assert_eq!(
            reply.error(),
            (415, "unsupported_media_type".to_owned(), None)
        );
    }
    let reply = server.send("nonsense\r\n\r\n").await;
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn a_chunked_body_is_read_like_any_other() {
    let server = Server::start().await;
    let body = chat("");
    let bytes = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    );
    assert_eq!(server.send(bytes).await.status, 200);
}

#[tokio::test]
async fn a_port_in_use_names_the_port_and_the_flag() {
    let server = Server::start().await;
    let mut taken = options();
    taken.http_port = server.address.port();
    let error = bind(taken, &ModelRegistry::new()).await.unwrap_err();
    assert!(matches!(&error, BindError::PortInUse { port, .. } if *port == server.address.port()));
    let text = error.to_string();
    assert!(
        text.contains("--http-port") && text.contains(&server.address.port().to_string()),
        "{text}"
    );
    let mut nowhere = options();
    nowhere.http_host = "not a host".to_owned();
    let error = bind(nowhere, &ModelRegistry::new()).await.unwrap_err();
    assert!(matches!(error, BindError::Refused { .. }));
}

#[tokio::test]
async fn keys_are_asked_for_everywhere_but_where_the_process_is_watched() {
    let server = Server::with(|options| {
        options.api_key = vec![
            dynamo_config::Secret::new("one"),
            dynamo_config::Secret::new("two"),
        ];
    })
    .await;
    let body = chat("");
    for headers in ["", "authorization: Bearer three\r\n"] {
        let reply = server.post_with(CHAT, headers, &body).await;
        assert_eq!(reply.error(), (401, "invalid_api_key".to_owned(), None));
        assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        assert!(!reply.text().contains("three"));
    }
    for key in ["one", "two"] {
        let headers = format!("authorization: Bearer {key}\r\n");
        assert_eq!(server.post_with(CHAT, &headers, &body).await.status, 200);
    }
    assert_eq!(server.get("/v1/models").await.status, 401);
    assert_eq!(server.get("/nowhere").await.status, 401);
    for open in ["/health", "/live", "/metrics"] {
        assert_eq!(server.get(open).await.status, 200, "{open}");
    }
}

#[tokio::test]
async fn two_requests_on_one_connection_are_both_answered() {
    let server = Server::start().await;
    let first =
        String::from_utf8(request(CHAT, "", chat("\"temperature\":99").as_bytes())).unwrap();
    let first = first.replace("connection: close\r\n", "");
    let both = [first.into_bytes(), request(CHAT, "", chat("").as_bytes())].concat();
    let reply = server.send(both).await;
    assert_eq!(reply.status, 400);
    let rest = String::from_utf8_lossy(&reply.body);
    assert!(rest.contains("HTTP/1.1 200 OK"), "{rest}");
}
