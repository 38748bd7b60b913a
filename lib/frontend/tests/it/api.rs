//! Whole answers: their form, and that each option does what it says.

use crate::harness::{MODEL, Server};
use serde_json::{Value, json};

async fn chat(server: &Server, fields: Value) -> Value {
    post(
        server,
        "/v1/chat/completions",
        json!({"messages": [{"role": "user", "content": "hi"}]}),
        fields,
    )
    .await
}

async fn complete(server: &Server, fields: Value) -> Value {
    post(server, "/v1/completions", json!({}), fields).await
}

async fn post(server: &Server, path: &str, mut body: Value, fields: Value) -> Value {
    body["model"] = MODEL.into();
    for (key, value) in fields.as_object().unwrap() {
        body[key] = value.clone();
    }
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[tokio::test]
async fn a_chat_answer_has_the_documented_form() {
    let server = Server::start().await;
    insta::assert_json_snapshot!(chat(&server, json!({})).await, @r#"
    {
      "id": "chatcmpl-00000000-0000-4006-8000-000000000007",
      "object": "chat.completion",
      "created": 1700000000,
      "model": "test/echo",
      "choices": [
        {
          "index": 0,
          "message": {
            "role": "assistant",
            "content": "user: hi\nassistant:",
            "refusal": null
          },
          "logprobs": null,
          "finish_reason": "stop"
        }
      ],
      "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 19,
        "total_tokens": 38,
        "prompt_tokens_details": {
          "cached_tokens": 0
        }
      }
    }
    "#);
}

#[tokio::test]
async fn a_completion_has_the_documented_form() {
    let server = Server::start().await;
    let answer = complete(
        &server,
        json!({"prompt": "héllo", "logprobs": 1, "max_tokens": 4, "add_special_tokens": false}),
    )
    .await;
    insta::assert_json_snapshot!(answer, @r#"
    {
      "id": "cmpl-00000000-0000-4006-8000-000000000007",
      "object": "text_completion",
      "created": 1700000000,
      "model": "test/echo",
      "choices": [
        {
          "index": 0,
          "text": "hél",
          "logprobs": {
            "tokens": [
              "h",
              "�",
              "�",
              "l"
            ],
            "token_logprobs": [
              0.0,
              0.0,
              0.0,
              0.0
            ],
            "top_logprobs": [
              {
                "h": 0.0
              },
              {
                "�": 0.0
              },
              {
                "�": 0.0
              },
              {
                "l": 0.0
              }
            ],
            "text_offset": [
              0,
              1,
              2,
              3
            ]
          },
          "finish_reason": "length"
        }
      ],
      "usage": {
        "prompt_tokens": 6,
        "completion_tokens": 4,
        "total_tokens": 10,
        "prompt_tokens_details": {
          "cached_tokens": 0
        }
      }
    }
    "#);
}

#[tokio::test]
async fn log_probabilities_have_tokens_bytes_and_alternatives() {
    let server = Server::start().await;
    let answer = chat(
        &server,
        json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 2}),
    )
    .await;
    insta::assert_json_snapshot!(answer["choices"][0]["logprobs"], @r#"
    {
      "content": [
        {
          "token": "u",
          "logprob": 0.0,
          "bytes": [
            117
          ],
          "top_logprobs": [
            {
              "token": "u",
              "logprob": 0.0,
              "bytes": [
                117
              ]
            }
          ]
        },
        {
          "token": "s",
          "logprob": 0.0,
          "bytes": [
            115
          ],
          "top_logprobs": [
            {
              "token": "s",
              "logprob": 0.0,
              "bytes": [
                115
              ]
            }
          ]
        }
      ],
      "refusal": null
    }
    "#);
    let answer = chat(
        &server,
        json!({"logprobs": true, "max_tokens": 1, "return_tokens_as_token_ids": true}),
    )
    .await;
    assert_eq!(
        answer["choices"][0]["logprobs"]["content"][0]["token"],
        "token_id:117"
    );
}

#[tokio::test]
async fn several_choices_of_several_prompts_come_in_order() {
    let server = Server::start().await;
    let answer = complete(
        &server,
        json!({"prompt": ["ab", "cd"], "n": 2, "add_special_tokens": false}),
    )
    .await;
    let choices: Vec<(u64, &str)> = answer["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| {
            (
                choice["index"].as_u64().unwrap(),
                choice["text"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(choices, [(0, "ab"), (1, "ab"), (2, "cd"), (3, "cd")]);
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    assert_eq!(answer["usage"]["completion_tokens"], 8);
}

#[tokio::test]
async fn prompts_of_token_ids_and_echo_give_the_same_text() {
    let server = Server::start().await;
    for prompt in [json!("hi"), json!([104, 105]), json!([[104, 105]])] {
        let fields = json!({"prompt": prompt, "echo": true, "add_special_tokens": false});
        let answer = complete(&server, fields).await;
        assert_eq!(answer["choices"][0]["text"], "hihi");
    }
}

#[tokio::test]
async fn stop_strings_end_a_choice_across_token_borders() {
    let server = Server::start().await;
    let rows = [
        (json!({"stop": "lo w"}), "hel", "stop"),
        (json!({"stop": ["x", "o"]}), "hell", "stop"),
        (
            json!({"stop": "lo w", "include_stop_str_in_output": true}),
            "hello w",
            "stop",
        ),
        (json!({"stop": "l", "min_tokens": 6}), "hello wor", "stop"),
        (json!({"stop": "worldly"}), "hello world", "stop"),
        (json!({"stop": "zzz", "max_tokens": 3}), "hel", "length"),
        (json!({"stop_token_ids": [32]}), "hello", "stop"),
        (
            json!({"stop_token_ids": [32], "include_stop_str_in_output": true}),
            "hello ",
            "stop",
        ),
        (
            json!({"stop_token_ids": [108], "min_tokens": 5}),
            "hello wor",
            "stop",
        ),
        (
            json!({"ignore_eos": true, "max_tokens": 13}),
            "hello worldhe",
            "length",
        ),
    ];
    for (mut fields, text, finish) in rows {
        fields["prompt"] = "hello world".into();
        fields["add_special_tokens"] = false.into();
        let answer = complete(&server, fields.clone()).await;
        assert_eq!(answer["choices"][0]["text"], text, "{fields}");
        assert_eq!(answer["choices"][0]["finish_reason"], finish, "{fields}");
    }
}

#[tokio::test]
async fn a_stop_string_cancels_the_engine_at_once() {
    let server = Server::start().await;
    let fields = json!({"prompt": "hello world", "stop": "ell", "add_special_tokens": false});
    let answer = complete(&server, fields).await;
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    use dynamo_protocols::engine::Engine as _;
    assert_eq!(server.engine.load().scheduled.num_decode_requests, 0);
}

#[tokio::test]
async fn extensions_reach_the_engine() {
    let server = Server::start().await;
    chat(
        &server,
        json!({
            "seed": 7, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.5, "priority": 3,
            "cache_salt": "tenant", "logit_bias": {"65": -3}, "temperature": 0.5,
            "user": "u", "store": true, "metadata": {"a": "b"}, "parallel_tool_calls": false,
            "tools": [], "tool_choice": "none", "response_format": {"type": "text"},
        }),
    )
    .await;
    let (request, _) = server.engine.last.lock().clone().unwrap();
    insta::assert_json_snapshot!(request.sampling, @r#"
    {
      "temperature": 0.5,
      "top_p": 1.0,
      "top_k": 0,
      "min_p": 0.1,
      "frequency_penalty": 0.0,
      "presence_penalty": 0.0,
      "repetition_penalty": 1.5,
      "seed": 7,
      "logit_bias": [
        [
          65,
          -3.0
        ]
      ]
    }
    "#);
    assert_eq!(request.priority, 3);
    assert_eq!(request.cache_salt.as_deref(), Some("tenant"));
}

#[tokio::test]
async fn vendor_extensions_do_what_they_say() {
    let server = Server::start().await;
    let answer = chat(&server, json!({"nvext": {"use_raw_prompt": true}})).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "hi");
    let fields = json!({
        "nvext": {"token_data": [104, 111], "greed_sampling": true,
                  "extra_fields": ["completion_token_ids", "prompt_token_ids", "stop_reason"]},
        "stop": "o",
    });
    let answer = chat(&server, fields).await;
    assert_eq!(
        answer["nvext"],
        json!({"prompt_token_ids": [104, 111], "completion_token_ids": [104, 111], "stop_reason": "o"})
    );
    let (request, _) = server.engine.last.lock().clone().unwrap();
    assert_eq!(request.sampling.temperature.to_bits(), 0);
}

#[tokio::test]
async fn the_last_message_can_be_continued() {
    let server = Server::start().await;
    let answer = post(
        &server,
        "/v1/chat/completions",
        json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c"}]}),
        json!({"continue_final_message": true}),
    )
    .await;
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "user: a\nassistant: b c"
    );
}

#[tokio::test]
async fn embeddings_come_as_numbers_or_base64() {
    let server = Server::start().await;
    let body = json!({"input": ["ab", "ab", "c"]});
    let answer = post(&server, "/v1/embeddings", body, json!({"dimensions": 64})).await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 3);
    assert_eq!(
        answer["data"][0]["embedding"],
        answer["data"][1]["embedding"]
    );
    assert_eq!(answer["data"][2]["index"], 2);
    assert_eq!(answer["data"][2]["embedding"].as_array().unwrap().len(), 64);
    assert_eq!(
        answer["usage"],
        json!({"prompt_tokens": 8, "total_tokens": 8})
    );
    let body = json!({"input": [1, 2], "encoding_format": "base64"});
    let answer = post(&server, "/v1/embeddings", body, json!({})).await;
    // 64 floats of 4 bytes, in groups of 3 bytes.
    assert_eq!(answer["data"][0]["embedding"].as_str().unwrap().len(), 344);
}

#[tokio::test]
async fn models_are_listed_and_found_by_names_with_slashes() {
    let server = Server::start().await;
    let list = server.get("/v1/models").await.json();
    insta::assert_json_snapshot!(list, @r#"
    {
      "object": "list",
      "data": [
        {
          "id": "test/echo",
          "object": "model",
          "created": 1700000000,
          "owned_by": "dynamo",
          "context_window": 512
        }
      ]
    }
    "#);
    for path in ["/v1/models/test/echo", "/v1/models/test%2Fecho"] {
        assert_eq!(server.get(path).await.json(), list["data"][0], "{path}");
    }
    server.models.remove(MODEL);
    assert_eq!(server.get("/v1/models").await.json()["data"], json!([]));
}

#[tokio::test]
async fn ids_and_traces_go_in_and_out() {
    let server = Server::start().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = format!("x-request-id: my-id\r\ntraceparent: {parent}\r\ntracestate: a=b\r\n");
    let body = json!({"model": MODEL, "prompt": "a"}).to_string();
    let reply = server.post_with("/v1/completions", &headers, &body).await;
    assert_eq!(reply.header("x-request-id"), Some("my-id"));
    let (_, context) = server.engine.last.lock().clone().unwrap();
    assert_eq!(&*context.request_id, "my-id");
    assert_eq!(context.traceparent.unwrap()[..36], parent[..36]);
    assert_eq!(context.tracestate.as_deref(), Some("a=b"));
    let reply = server.post("/v1/completions", "{}").await;
    assert_eq!(reply.header("x-request-id").map(str::len), Some(36));
}
