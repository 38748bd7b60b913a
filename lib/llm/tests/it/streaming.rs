//! Streaming text token by token gives what decoding the whole gives, for every vocabulary.

use crate::families::{FAMILIES, golden, tokenizer};
use dynamo_llm::detokenizer::{Detokenizer, DetokenizerOptions};
use dynamo_protocols::tokenizer::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;
use std::sync::Arc;

fn streamed(tokenizer: &Arc<dyn Tokenizer>, ids: &[u32], skip_special_tokens: bool) -> String {
    let options = DetokenizerOptions {
        skip_special_tokens,
        ..DetokenizerOptions::default()
    };
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), options);
    let mut text: String = ids.iter().map(|&id| detokenizer.push(id).text).collect();
    text += &detokenizer.finish();
    text
}

#[test]
fn random_ids_stream_to_the_text_of_the_whole() {
    for name in FAMILIES {
        let tokenizer = tokenizer(name);
        // A few ids past the vocabulary: they are no text and no panic.
        let ids = 0..u32::try_from(tokenizer.vocab_size()).unwrap() + 3;
        let mut runner = TestRunner::new(Config {
            cases: 300,
            ..Config::default()
        });
        runner
            .run(
                &(prop::collection::vec(ids, 0..40), any::<bool>()),
                |(ids, skip)| {
                    let whole = tokenizer.decode(&ids, skip).unwrap();
                    prop_assert_eq!(streamed(&tokenizer, &ids, skip), whole, "{}", name);
                    Ok(())
                },
            )
            .unwrap();
    }
}

#[test]
fn real_text_streams_to_itself() {
    let corpus = golden("corpus");
    for name in FAMILIES {
        let tokenizer = tokenizer(name);
        for text in corpus["texts"].as_array().unwrap() {
            let Some(text) = text["text"].as_str() else {
                continue;
            };
            let ids = tokenizer.encode(text, false).unwrap();
            assert_eq!(
                streamed(&tokenizer, &ids, false),
                tokenizer.decode(&ids, false).unwrap()
            );
        }
    }
}

#[test]
fn any_text_comes_back_from_its_ids() {
    // Gemma 3 and the byte-level vocabularies lose nothing, whatever the text, but for what their
    // normalisers do: none of these normalises composed text.
    for name in ["gemma3", "llama3_1", "gptoss", "deepseek_v3"] {
        let tokenizer = tokenizer(name);
        let mut runner = TestRunner::new(Config {
            cases: 200,
            ..Config::default()
        });
        runner
            .run(&"\\PC{0,60}", |text| {
                // Gemma writes spaces as this character.
                prop_assume!(!text.contains('▁'));
                let ids = tokenizer.encode(&text, false).unwrap();
                prop_assert_eq!(tokenizer.decode(&ids, false).unwrap(), text, "{}", name);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn tokens_are_found_by_their_written_form() {
    let rows = [
        ("qwen3", "<|im_end|>", Some(151_645), true),
        ("qwen3", "Ġhello", Some(23_811), false),
        ("llama3_1", "<|eot_id|>", Some(128_009), true),
        ("gemma3", "<end_of_turn>", Some(106), true),
        ("gemma3", "▁the", Some(506), false),
        ("gptoss", "<|return|>", Some(200_002), true),
        ("qwen3", "no such token", None, false),
    ];
    let mut loaded = BTreeMap::new();
    for (name, token, id, special) in rows {
        let tokenizer = loaded.entry(name).or_insert_with(|| tokenizer(name));
        assert_eq!(tokenizer.token_to_id(token), id, "{name} {token}");
        assert_eq!(
            id.is_some_and(|id| tokenizer.is_special(id)),
            special,
            "{name} {token}"
        );
    }
}
