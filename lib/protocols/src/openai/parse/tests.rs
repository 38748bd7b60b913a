//! One row per way in which a body can be wrong.

use super::*;
use crate::openai::{ChatRequest, CompletionRequest, EmbeddingRequest, Prompt};

fn chat(body: &str) -> (ErrorCode, Option<String>, String) {
    let error = parse::<ChatRequest>(body.as_bytes()).unwrap_err();
    (error.code, error.param, error.message)
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn errors_name_the_path_what_was_expected_and_what_came() {
    let rows = [
        (
            r#"{"model":"m","messages":[{"role":"user","content":"a"},{"role":"user","content":5}]}"#,
            ErrorCode::InvalidRequest,
            "messages[1].content",
            "messages[1].content: expected a string or a list of parts, got 5",
        ),
        (
            r#"{"model":"m","messages":"secret words, expected never repeated"}"#,
            ErrorCode::InvalidRequest,
            "messages",
            "messages: expected a list, got a string",
        ),
        (
            r#"{"model":"m","messages":[],"max_tokens":-5}"#,
            ErrorCode::InvalidRequest,
            "max_tokens",
            "max_tokens: expected a non-negative integer, got -5",
        ),
        (
            r#"{"model":"m","messages":[],"max_tokens":5000000000}"#,
            ErrorCode::InvalidRequest,
            "max_tokens",
            "max_tokens: expected a non-negative integer, got 5000000000",
        ),
        (
            r#"{"model":"m","messages":[{"role":"robot","content":"a"}]}"#,
            ErrorCode::InvalidRequest,
            "messages[0].role",
            "messages[0].role: expected one of `system`, `developer`, `user`, `assistant`, `tool`, got \"robot\"",
        ),
        (
            r#"{"model":"m","messages":[{"content":"a"}]}"#,
            ErrorCode::InvalidRequest,
            "messages[0].role",
            "`messages[0].role` is required",
        ),
        (
            r#"{"messages":[]}"#,
            ErrorCode::InvalidRequest,
            "model",
            "`model` is required",
        ),
        (
            r#"{"model":"m","messages":[],"temprature":1}"#,
            ErrorCode::UnknownParameter,
            "temprature",
            "unknown field `temprature`; did you mean `temperature`?",
        ),
        (
            r#"{"model":"m","messages":[],"a`, expected b":1}"#,
            ErrorCode::UnknownParameter,
            "a",
            "unknown field `a`",
        ),
        (
            r#"{"model":"m","messages":[{"role":"user","contents":"a"}]}"#,
            ErrorCode::UnknownParameter,
            "messages[0].contents",
            "unknown field `messages[0].contents`; did you mean `content`?",
        ),
        (
            r#"{"model":"m","messages":[],"nvext":{"use_raw_promt":true}}"#,
            ErrorCode::UnknownParameter,
            "nvext.use_raw_promt",
            "unknown field `nvext.use_raw_promt`; did you mean `use_raw_prompt`?",
        ),
        (
            r#"{"model":"m","messages":[],"prompt_logprobs":1}"#,
            ErrorCode::UnsupportedParameter,
            "prompt_logprobs",
            "`prompt_logprobs` is not served by this version; leave it out",
        ),
        (
            r#"{"model":"m","messages":[],"structured_outputs":{"structural_tag":"{}"}}"#,
            ErrorCode::UnsupportedParameter,
            "structured_outputs.structural_tag",
            "`structured_outputs.structural_tag` is not served by this version; leave it out",
        ),
        (
            r#"{"model":"m","messages":[],"guided_choice":"yes"}"#,
            ErrorCode::InvalidRequest,
            "guided_choice",
            "guided_choice: expected a list, got a string",
        ),
        (
            r#"{"model":"m","messages":[],"response_format":{"type":"json_schema","json_schema":{"schem":{}}}}"#,
            ErrorCode::UnknownParameter,
            "response_format.json_schema.schem",
            "unknown field `response_format.json_schema.schem`; did you mean `schema`?",
        ),
        (
            r#"{"model":"m","messages":[],"nvext":{"prefill_dp_rank":1}}"#,
            ErrorCode::UnsupportedParameter,
            "nvext.prefill_dp_rank",
            "`nvext.prefill_dp_rank` is not served by this version; leave it out",
        ),
        (
            r#"{"model":"m","model":"n","messages":[]}"#,
            ErrorCode::InvalidJson,
            "model",
            "`model` is given twice; send each field once",
        ),
        (
            r#"{"model":"m","messages":[],"seed":null,"seed":1}"#,
            ErrorCode::InvalidJson,
            "seed",
            "`seed` is given twice; send each field once",
        ),
        (
            r#"{"model":"m","messages":[],"logit_bias":{"5":"much"}}"#,
            ErrorCode::InvalidRequest,
            "logit_bias.5",
            "logit_bias.5: expected a number, got a string",
        ),
    ];
    for (body, code, param, message) in rows {
        let (found_code, found_param, found_message) = chat(body);
        assert_eq!(found_code, code, "{body}");
        assert_eq!(found_param.as_deref(), Some(param), "{body}");
        assert_eq!(found_message, message, "{body}");
    }
}

#[test]
fn bodies_that_are_not_json_say_where() {
    let depth = 100_000;
    for body in [
        "",
        "  ",
        "{",
        "[1,2",
        "nonsense",
        r#"{"model":"m","messages":[]} trailing"#,
        r#"{"model":"\ud800","messages":[]}"#,
        r#"{"model":"m","messages":[],"temperature":1e999}"#,
        r#"{"model":"m","messages":[],"temperature":NaN}"#,
        "[]",
        "5",
        &"[".repeat(depth),
        &format!(r#"{{"model":{}"#, "[".repeat(depth)),
        &format!(
            r#"{{"model":"m","messages":[],"chat_template_kwargs":{{"a":{}"#,
            "[".repeat(depth)
        ),
        &format!(
            r#"{{"model":"m","messages":[],"metadata":{}"#,
            "{\"a\":".repeat(depth)
        ),
    ] {
        let error = parse::<ChatRequest>(body.as_bytes()).unwrap_err();
        let text: String = body.chars().take(60).collect();
        assert!(
            matches!(
                error.code,
                ErrorCode::InvalidJson | ErrorCode::InvalidRequest
            ),
            "{text}: {error}"
        );
        assert!(error.message.len() < 300, "{text}: {error}");
    }
}

#[test]
fn bytes_that_are_not_utf8_are_located() {
    let error = parse::<ChatRequest>(b"{\"model\":\"\xff\"}").unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidJson);
    assert!(error.message.contains("byte 10"), "{error}");
}

#[test]
fn null_is_the_same_as_leaving_a_field_out() {
    let body = br#"{"model":"m","messages":[],"temperature":null,"tools":null,"guided_json":null,"nvext":null,"user":null}"#;
    let request: ChatRequest = parse(body).unwrap();
    let plain: ChatRequest = parse(br#"{"model":"m","messages":[]}"#).unwrap();
    assert_eq!(request, plain);
}

#[test]
fn messages_that_sdks_send_back_are_taken() {
    let body = br#"{"model":"m","messages":[{"role":"assistant","content":null,"refusal":null,
        "annotations":[],"audio":null,"function_call":null,
        "tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]}]}"#;
    let request: ChatRequest = parse(body).unwrap();
    assert_eq!(request.messages.len(), 1);
}

#[test]
fn prompts_come_in_four_forms() {
    let rows = [
        (r#""a""#, Prompt::Text("a".to_owned())),
        (
            r#"["a","b"]"#,
            Prompt::Texts(vec!["a".to_owned(), "b".to_owned()]),
        ),
        ("[1,2]", Prompt::Tokens(vec![1, 2])),
        ("[[1],[2,3]]", Prompt::TokenLists(vec![vec![1], vec![2, 3]])),
        ("[]", Prompt::Texts(Vec::new())),
    ];
    for (text, prompt) in rows {
        let body = format!(r#"{{"model":"m","prompt":{text}}}"#);
        let request: CompletionRequest = parse(body.as_bytes()).unwrap();
        assert_eq!(request.prompt, prompt);
        let body = format!(r#"{{"model":"m","input":{text}}}"#);
        let request: EmbeddingRequest = parse(body.as_bytes()).unwrap();
        assert_eq!(request.input, prompt);
    }
    for text in [
        r#"["a",1]"#,
        "[1,\"a\"]",
        "[[1],2]",
        "[-1]",
        "{}",
        "[[\"a\"]]",
    ] {
        let body = format!(r#"{{"model":"m","prompt":{text}}}"#);
        let error = parse::<CompletionRequest>(body.as_bytes()).unwrap_err();
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{text}: {error}");
        assert!(
            error.param.is_some_and(|param| param.starts_with("prompt")),
            "{text}"
        );
    }
}
