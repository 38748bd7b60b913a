//! Answers of text: what is passed on, what is folded, and what ends in an error.

use super::*;
use crate::card::{ModelCard, ModelTypes};
use crate::echo::{EchoEngine, EchoOptions};
use crate::echo_model::echo_model;
use dynamo_protocols::engine::{EngineOutput, FinishReason};
use futures_util::{FutureExt, StreamExt, stream};
use serde_json::json;

fn answer(api: Api, outputs: Vec<EngineOutput>) -> TextAnswer {
    TextAnswer {
        api,
        stream: Some(stream::iter(outputs.into_iter().map(Ok)).boxed()),
        choices: Choices::default(),
        usage: None,
        chunks: 0,
    }
}

fn chunk(choices: &serde_json::Value) -> EngineOutput {
    let json = json!({
        "id": "c", "object": "chat.completion.chunk", "created": 7, "model": "m",
        "choices": choices,
    });
    EngineOutput {
        chunk: Some(json.to_string().into()),
        ..EngineOutput::default()
    }
}

fn end() -> EngineOutput {
    EngineOutput {
        finish_reason: Some(FinishReason::EndOfSequence),
        ..EngineOutput::default()
    }
}

fn fold(outputs: Vec<EngineOutput>) -> Result<Folded, RequestError> {
    let folding = answer(Api::Chat, outputs).fold(|| {});
    folding.now_or_never().expect("nothing to wait for")
}

#[test]
fn pieces_of_an_answer_make_a_whole_one() {
    let mut usage = chunk(&json!([]));
    let text = usage.chunk.take().unwrap();
    let counts = r#""usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7},"choices""#;
    usage.chunk = Some(text.replace(r#""choices""#, counts).into());
    let folded = fold(vec![
        chunk(&json!([{"index": 0, "delta": {"role": "assistant", "content": "a"}}])),
        chunk(&json!([{"index": 1, "delta": {"role": "assistant", "tool_calls": [
            {"index": 0, "id": "t", "type": "function", "function": {"name": "f", "arguments": "{"}}
        ]}}])),
        chunk(&json!([{"index": 0, "delta": {"content": "b"}, "finish_reason": "stop"}])),
        chunk(&json!([{"index": 1, "delta": {"tool_calls": [
            {"index": 0, "function": {"arguments": "}"}}
        ]}, "finish_reason": "tool_calls"}])),
        usage,
        end(),
    ])
    .unwrap();
    assert_eq!(folded.usage, Usage::new(3, 4, 0));
    assert_eq!(
        folded.body,
        json!({
            "id": "c", "object": "chat.completion", "created": 7, "model": "m",
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": "ab"},
                 "logprobs": null, "finish_reason": "stop"},
                {"index": 1, "message": {"role": "assistant", "content": null, "tool_calls": [
                    {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ]}, "logprobs": null, "finish_reason": "tool_calls"},
            ],
        })
    );
}

#[test]
fn an_answer_without_an_end_of_its_choices_is_the_workers_mistake() {
    let open = chunk(&json!([{"index": 2, "delta": {"content": "a"}}]));
    for (outputs, code, says) in [
        (vec![end()], ErrorCode::WorkerProtocol, "no choices"),
        (
            vec![open.clone(), end()],
            ErrorCode::WorkerProtocol,
            "choice 2",
        ),
        (vec![open], ErrorCode::WorkerLost, "went away"),
        (
            vec![chunk(&json!([{"index": 0}])), end()],
            ErrorCode::WorkerProtocol,
            "choices[0].delta",
        ),
        (
            vec![EngineOutput {
                token_ids: vec![1],
                ..EngineOutput::default()
            }],
            ErrorCode::WorkerProtocol,
            "tokens",
        ),
    ] {
        let error = fold(outputs).unwrap_err();
        assert_eq!(error.code, code);
        assert!(error.message.contains(says), "{error}");
    }
}

#[test]
fn a_chunk_goes_on_as_it_came_in_one_line() {
    let layout = "{\n \"id\": \"c\", \"object\": \"text_completion\", \"created\": 7,\r\n \
        \"model\": \"m\", \"choices\": [{\"index\": 0, \"text\": \"a\\nb\"}]}";
    let output = EngineOutput {
        chunk: Some(layout.into()),
        ..EngineOutput::default()
    };
    let mut answer = answer(Api::Completions, vec![output]);
    let chunk = answer.next().now_or_never().unwrap().unwrap().unwrap();
    assert!(!chunk.json.contains(['\n', '\r']));
    assert!(chunk.json.contains(r#""text": "a\nb""#), "{}", chunk.json);
}

#[test]
fn a_request_is_checked_for_what_the_model_serves() {
    let types = ModelTypes {
        chat: true,
        ..ModelTypes::default()
    };
    let mut model = echo_model("m", EchoOptions::default()).unwrap();
    model.card = ModelCard::text("m", types);
    model.engine = Arc::new(EchoEngine::new(EchoOptions::default()));
    let body = br#"{"model":"m","messages":[{}],"prompt":"p","tools":[]}"#;
    assert!(check(&model, Api::Chat, body).is_ok());
    let error = check(&model, Api::Completions, body).unwrap_err();
    assert!(error.message.contains("without completions"), "{error}");
}
