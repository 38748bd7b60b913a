//! Rendered text and token ids, equal to what `transformers` gives.

use crate::families::{family, golden, golden_file};
use dynamo_llm::template::{ChatTemplate, RenderInput, TemplateError};
use dynamo_protocols::tokenizer::Tokenizer;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The time that the golden templates saw.
const NOW: Duration = Duration::from_secs(1_721_995_200);

/// A text of the corpus, written out or as a repetition.
fn expand(text: &Value) -> String {
    match text {
        Value::String(text) => text.clone(),
        _ => {
            let parts = text["repeat"].as_array().unwrap().iter();
            let once: String = parts.map(|part| part.as_str().unwrap()).collect();
            once.repeat(usize::try_from(text["times"].as_u64().unwrap()).unwrap())
        }
    }
}

fn assert_ids(ids: &[u32], expected: &Value, what: &str) {
    if let Some(expected) = expected.as_array() {
        let expected: Vec<u32> = expected
            .iter()
            .map(|id| u32::try_from(id.as_u64().unwrap()).unwrap())
            .collect();
        assert_eq!(ids, expected, "{what}");
        return;
    }
    assert_eq!(
        ids.len() as u64,
        expected["len"].as_u64().unwrap(),
        "{what}"
    );
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(
        blake3::hash(&bytes).to_hex().as_str(),
        expected["blake3"],
        "{what}"
    );
}

fn assert_text(text: &str, expected: &Value, what: &str) {
    match expected["text"].as_str() {
        Some(expected) => assert_eq!(text, expected, "{what}"),
        None => {
            let expected = &expected["long_text"];
            assert_eq!(
                text.len() as u64,
                expected["len"].as_u64().unwrap(),
                "{what}"
            );
            let hash = blake3::hash(text.as_bytes()).to_hex();
            assert_eq!(hash.as_str(), expected["blake3"], "{what}");
        }
    }
}

fn conversations(corpus: &Value) -> BTreeMap<&str, Value> {
    let cases = corpus["conversations"].as_array().unwrap().iter();
    cases
        .map(|case| {
            let mut expanded = case.clone();
            for message in expanded["messages"].as_array_mut().unwrap() {
                if message["content"].is_object() {
                    message["content"] = expand(&message["content"]).into();
                }
            }
            (case["name"].as_str().unwrap(), expanded)
        })
        .collect()
}

fn render(template: &ChatTemplate, case: &Value) -> Result<String, TemplateError> {
    let flag = |name: &str| case[name].as_bool().unwrap_or(false);
    let empty = Map::new();
    template.render(&RenderInput {
        messages: &case["messages"],
        tools: case.get("tools"),
        add_generation_prompt: flag("add_generation_prompt"),
        continue_final_message: flag("continue_final_message"),
        kwargs: case
            .get("kwargs")
            .map_or(&empty, |kwargs| kwargs.as_object().unwrap()),
        now: NOW,
    })
}

/// Every text and every conversation of the corpus, for one family.
fn check(name: &str) {
    let model = family(name);
    let tokenizer = model.tokenizer(None).unwrap();
    let golden_data = golden(name);
    let corpus = golden("corpus");

    let texts = corpus["texts"].as_array().unwrap().iter();
    let expected = golden_data["texts"].as_array().unwrap();
    assert_eq!(texts.len(), expected.len());
    for (text, expected) in texts.zip(expected) {
        let what = format!("{name}: {}", expected["name"]);
        let text = expand(&text["text"]);
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_ids(&ids, &expected["ids"], &what);
        let decoded = expected
            .get("decoded")
            .and_then(Value::as_str)
            .unwrap_or(&text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), decoded, "{what}");
    }
    let with_special = tokenizer.encode("Hello world", true).unwrap();
    assert_ids(&with_special, &golden_data["with_special"], name);

    let cases = conversations(&corpus);
    let mut templates: BTreeMap<Option<&str>, ChatTemplate> = BTreeMap::new();
    let renders = golden_data["renders"].as_array().unwrap();
    assert!(renders.len() >= 30, "{name}: {} renders", renders.len());
    for expected in renders {
        let which = expected["template"].as_str();
        let template = templates.entry(which).or_insert_with(|| match which {
            None => model.chat_template().unwrap().unwrap(),
            Some(file) => {
                let file = golden_file(&format!("templates/{file}.jinja"));
                let model = model.clone().with_template(&file).unwrap();
                model.chat_template().unwrap().unwrap()
            }
        });
        let what = format!("{name} {which:?}: {}", expected["case"]);
        let rendered = render(template, &cases[expected["case"].as_str().unwrap()]);
        if let Some(message) = expected["raises"].as_str() {
            let message = message.to_owned();
            assert_eq!(rendered, Err(TemplateError::Raised { message }), "{what}");
            continue;
        }
        let text = rendered.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_text(&text, expected, &what);
        let ids = tokenizer.encode(&text, false).unwrap();
        assert_ids(&ids, &expected["ids"], &what);
        assert_one_bos(&tokenizer, &ids, model.card().bos_id, &what);
    }
}

fn assert_one_bos(tokenizer: &Arc<dyn Tokenizer>, ids: &[u32], bos: Option<u32>, what: &str) {
    let begins_twice = bos.is_some_and(|bos| ids.starts_with(&[bos, bos]));
    assert!(
        !begins_twice,
        "{what}: {:?}",
        tokenizer.decode(&ids[..2], false)
    );
}

#[test]
fn qwen3_equals_transformers() {
    check("qwen3");
}

#[test]
fn llama3_1_equals_transformers() {
    check("llama3_1");
}

#[test]
fn gemma3_equals_transformers() {
    check("gemma3");
}

#[test]
fn deepseek_v3_equals_transformers() {
    check("deepseek_v3");
}

#[test]
fn gptoss_equals_transformers() {
    check("gptoss");
}

/// DeepSeek's tokenizer.json adds none, whatever its tokenizer_config.json says, and transformers
/// goes by the former.
#[test]
fn a_raw_prompt_begins_with_one_bos_where_the_model_has_one() {
    for (name, expected) in [
        ("llama3_1", 1),
        ("gemma3", 1),
        ("deepseek_v3", 0),
        ("qwen3", 0),
        ("gptoss", 0),
    ] {
        let model = family(name);
        let tokenizer = model.tokenizer(None).unwrap();
        let ids = tokenizer.encode("Once upon a time", true).unwrap();
        let begun = ids
            .iter()
            .filter(|&&id| Some(id) == model.card().bos_id)
            .count();
        assert_eq!(begun, expected, "{name}: {ids:?}");
        assert_eq!(
            ids[expected..],
            tokenizer.encode("Once upon a time", false).unwrap()
        );
    }
}
