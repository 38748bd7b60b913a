//! What clients may send, through the whole of preprocessing, for every family's template and for
//! models without one.

use crate::families::{family, golden_file};
use dynamo_llm::card::{LocalModel, TemplateSource};
use dynamo_llm::echo::{EchoEngine, EchoOptions};
use dynamo_llm::model::ServedModel;
use dynamo_llm::preprocess::{PreprocessLimits, prepare_chat};
use dynamo_protocols::error::RequestError;
use dynamo_protocols::openai::parse;
use dynamo_runtime::environment::Environment;
use serde_json::{Value, json};
use std::sync::Arc;

/// Template sources beside a family's own.
const PLAIN: &str = "plain";
const LAST_MESSAGE: &str = "last message";

/// A family's model with its own template or another.
fn model(name: &str, template: Option<&str>) -> LocalModel {
    let model = family(name);
    let built_in = |source| {
        model.clone().with_card(|card| {
            card.chat_template = Some(source);
            card.model_types.chat = true;
        })
    };
    match template {
        None => model,
        Some(PLAIN) => built_in(TemplateSource::Plain),
        Some(LAST_MESSAGE) => built_in(TemplateSource::LastMessage),
        Some(file) => {
            let file = golden_file(&format!("templates/{file}.jinja"));
            model.with_template(&file).unwrap()
        }
    }
}

/// The prompt that a request becomes, as text.
async fn prompt(local: &LocalModel, body: &Value) -> Result<String, RequestError> {
    let assets = local.assets(None).unwrap();
    let model = Arc::new(ServedModel {
        card: local.card().clone(),
        tokenizer: Arc::clone(&assets.tokenizer),
        template: assets.template,
        engine: Arc::new(EchoEngine::new(EchoOptions::default())),
        router: None,
    });
    let request = parse(body.to_string().as_bytes())?;
    let (limits, environment) = (PreprocessLimits::default(), Environment::system());
    let prepared = prepare_chat(request, model, limits, &environment).await?;
    let ids = &prepared.requests[0].prompt_ids;
    Ok(assets.tokenizer.decode(ids, false).unwrap())
}

#[tokio::test]
async fn developer_and_parts_work_with_every_template() {
    let body = json!({"model": "m", "messages": [
        {"role": "developer", "content": [
            {"type": "text", "text": "Speak French."}, {"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [
            {"type": "text", "text": "Bon"}, {"type": "text", "text": "jour"}]},
    ]});
    let rows = [
        (
            "qwen3",
            None,
            "<|im_start|>system\nSpeak French.\nBe brief.<|im_end|>\n\
             <|im_start|>user\nBon\njour<|im_end|>\n<|im_start|>assistant\n",
        ),
        (
            "llama3_1",
            None,
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n\
             Speak French.\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nBon\njour<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        // The one whose own way with parts is to write them without anything between.
        (
            "gemma3",
            None,
            "<bos><start_of_turn>user\nSpeak French.\nBe brief.\n\nBonjour<end_of_turn>\n\
             <start_of_turn>model\n",
        ),
        (
            "deepseek_v3",
            None,
            "<｜begin▁of▁sentence｜>Speak French.\nBe brief.<｜User｜>Bon\njour<｜Assistant｜>",
        ),
        // The one that knows the role. What stands before holds the date.
        (
            "gptoss",
            Some("harmony"),
            "<|start|>developer<|message|># Instructions\n\nSpeak French.\nBe brief.\n\n<|end|>\
             <|start|>user<|message|>Bon\njour<|end|><|start|>assistant",
        ),
        (
            "gemma3",
            Some(PLAIN),
            "<bos>System: Speak French.\nBe brief.\nUser: Bon\njour\nAssistant:",
        ),
        ("qwen3", Some(LAST_MESSAGE), "Bon\njour"),
    ];
    for (name, template, expected) in rows {
        let text = prompt(&model(name, template), &body).await.unwrap();
        let before = match template {
            Some("harmony") => text.find("<|start|>developer").unwrap(),
            _ => 0,
        };
        assert_eq!(&text[before..], expected, "{name} {template:?}");
    }
}

#[tokio::test]
async fn without_a_template_the_same_texts_are_the_prompt() {
    let body = json!({"model": "m", "nvext": {"use_raw_prompt": true}, "messages": [
        {"role": "developer", "content": "Speak French."},
        {"role": "user", "content": [
            {"type": "text", "text": "Bon"}, {"type": "text", "text": "jour"}]},
    ]});
    let text = prompt(&model("qwen3", None), &body).await.unwrap();
    assert_eq!(text, "Speak French.\nBon\njour");
}

#[tokio::test]
async fn arguments_of_calls_are_json_in_every_prompt_that_writes_them() {
    let body = json!({"model": "m", "messages": [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call00001", "type": "function",
                "function": {"name": "f", "arguments": "{\"x\": [1]}"}}]},
        {"role": "tool", "tool_call_id": "call00001", "content": "r"},
    ]});
    for (name, template) in [
        ("qwen3", None),
        ("llama3_1", Some("headers")),
        ("deepseek_v3", None),
        ("gptoss", Some("harmony")),
    ] {
        let text = prompt(&model(name, template), &body).await.unwrap();
        assert!(text.contains("{\"x\": [1]}"), "{name}: {text}");
    }
    let text = prompt(&model("gemma3", Some(PLAIN)), &body).await.unwrap();
    assert_eq!(text, "<bos>User: q\nAssistant: \nTool: r\nAssistant:");
}
