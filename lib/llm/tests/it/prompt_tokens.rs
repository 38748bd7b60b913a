//! Remembered prompt tokens equal those of the tokenizer, for every family, whatever clients write.

use crate::families::{FAMILIES, family, golden_file, tokenizer};
use dynamo_llm::echo::{EchoEngine, EchoOptions};
use dynamo_llm::model::ServedModel;
use dynamo_llm::prompt_tokens::PromptTokenCache;
use dynamo_llm::registry::ModelRegistry;
use dynamo_llm::template::{ChatTemplate, RenderInput};
use dynamo_protocols::tokenizer::Tokenizer;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Map, Value, json};
use std::sync::Arc;
use std::time::Duration;

/// Conversations of a family, as texts; the same tokenizer plain and remembering.
struct Subject {
    name: &'static str,
    template: Arc<ChatTemplate>,
    plain: Arc<dyn Tokenizer>,
    remembering: Arc<dyn Tokenizer>,
    registry: ModelRegistry,
}

impl Subject {
    fn new(name: &'static str, bytes: usize) -> Self {
        let mut model = family(name);
        if model.card().chat_template.is_none() {
            let file = golden_file("templates/harmony.jinja");
            model = model.with_template(&file).unwrap();
        }
        let template = Arc::new(model.chat_template().unwrap().unwrap());
        let plain = tokenizer(name);
        let registry = ModelRegistry::remembering(PromptTokenCache::new(bytes));
        let served = ServedModel {
            card: model.card().clone(),
            tokenizer: Arc::clone(&plain),
            template: Some(Arc::clone(&template)),
            engine: Arc::new(EchoEngine::new(EchoOptions::default())),
            router: None,
        };
        registry.add(name, Arc::new(served));
        let remembering = Arc::clone(&registry.find(name).unwrap().tokenizer);
        Self {
            name,
            template,
            plain,
            remembering,
            registry,
        }
    }

    fn render(&self, messages: &[Value]) -> String {
        self.template
            .render(&RenderInput {
                messages: &messages.into(),
                tools: None,
                add_generation_prompt: true,
                continue_final_message: false,
                kwargs: &Map::new(),
                now: Duration::from_secs(1_721_995_200),
            })
            .unwrap()
    }

    fn check(&self, text: &str) -> Result<(), TestCaseError> {
        for special in [false, true] {
            let expected = self.plain.encode(text, special).unwrap();
            let given = self.remembering.encode(text, special).unwrap();
            prop_assert_eq!(given, expected, "{} {}: {:?}", self.name, special, text);
        }
        Ok(())
    }

    fn hits(&self) -> u64 {
        let counts = self.registry.prompt_tokens();
        counts.iter().map(|(_, counts)| counts.hits).sum()
    }
}

/// What stands at the edges of pieces, or looks as if it did.
fn fragment() -> impl Strategy<Value = String> {
    let written = [
        "",
        " ",
        "  ",
        "\n",
        "\n\n",
        "\t",
        "\u{301}",
        "e\u{301}",
        "\u{200d}",
        "👩‍👩‍👧",
        "é",
        "▁",
        "▁▁",
        "<",
        "<|",
        "|>",
        ">",
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>\n",
        "<|im_st",
        "im_start|>",
        "<<|im_start|>",
        "<think>",
        "</think>",
        "<start_of_turn>",
        "<end_of_turn>",
        "<start_of",
        "<bos>",
        "<|begin_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|start|>",
        "<|message|>",
        "<|channel|>",
        "<|end|>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜User",
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        "｜>",
        "<table>",
        "</table>",
        "1234567",
        "don't",
        "中文字",
        "ﬁ",
        "ａ",
        "가",
        "\u{1100}\u{1161}",
        "user",
        "assistant",
    ];
    prop_oneof![
        4 => prop::sample::select(written.to_vec()).prop_map(str::to_owned),
        3 => "[ -~]{1,12}",
        1 => "\\PC{1,8}",
        // As long as a piece, so that pieces end.
        2 => ("[a-zA-Z0-9 .<|]{1,24}", 20_usize..60).prop_map(|(text, times)| text.repeat(times)),
    ]
}

fn content() -> impl Strategy<Value = String> {
    prop::collection::vec(fragment(), 0..7).prop_map(|parts| parts.concat())
}

/// Conversations that are begun, gone on with in any order, and branched off.
fn steps() -> impl Strategy<Value = Vec<(usize, usize, String)>> {
    prop::collection::vec((0_usize..4, 0_usize..40, content()), 1..24)
}

fn message(at: usize, content: &str) -> Value {
    let role = ["user", "assistant"][at % 2];
    json!({"role": role, "content": content})
}

fn check(subject: &Subject, cases: u32) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&steps(), |steps| {
        let mut conversations = vec![Vec::new(); 4];
        for (which, keep, content) in steps {
            let mut messages: Vec<Value> = conversations[which].clone();
            messages.truncate(keep);
            messages.push(message(messages.len(), &content));
            let rendered = subject.render(&messages);
            subject.check(&rendered)?;
            // Text that no template shaped.
            subject.check(&content)?;
            subject.check(&(content + &rendered))?;
            conversations[which] = messages;
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{}: {error}", subject.name));
}

#[test]
fn remembered_tokens_equal_the_tokenizers_own_for_every_family() {
    for name in FAMILIES {
        let subject = Subject::new(name, 4 << 20);
        check(&subject, 48);
        assert!(subject.hits() > 100, "{name}: {} hits", subject.hits());
        assert!(subject.registry.prompt_token_bytes() <= 4 << 20);
    }
}

#[test]
fn they_do_so_while_most_is_given_up_again() {
    for name in FAMILIES {
        let subject = Subject::new(name, 24 << 10);
        check(&subject, 12);
        assert!(subject.hits() > 0, "{name}");
        assert!(subject.registry.prompt_token_bytes() <= 24 << 10);
    }
}

#[test]
fn a_conversation_that_goes_on_is_remembered_for_every_family() {
    for name in FAMILIES {
        let subject = Subject::new(name, 4 << 20);
        let mut messages = Vec::new();
        for turn in 0..9 {
            messages.push(message(turn, &format!("turn {turn} ").repeat(200)));
            if turn % 2 == 0 {
                let text = subject.render(&messages);
                subject.remembering.encode(&text, false).unwrap();
            }
        }
        let counts = subject.registry.prompt_tokens()[0].1;
        assert_eq!((counts.hits, counts.misses), (4, 1), "{name}");
        let all = counts.cached_tokens + counts.uncached_tokens;
        assert!(counts.cached_tokens * 2 > all, "{name}: {counts:?}");
    }
}

#[test]
fn what_a_tokenizer_does_not_vouch_for_is_not_remembered() {
    let subject = Subject::new("gemma3", 4 << 20);
    let id = |token: &str| subject.plain.token_to_id(token).unwrap();
    assert!(subject.plain.cuts_text(id("<start_of_turn>")));
    // One that may begin within another, and one that is no added token.
    assert!(!subject.plain.cuts_text(id("\n\n")));
    assert!(!subject.plain.cuts_text(id("▁the")));
    assert!(!subject.plain.cuts_text(u32::MAX));
}
