//! Bodies are JSON that says what was asked, and prefixes are shared as the plan says.

use super::*;
use crate::load::length::Length;
use crate::load::plan::Shape;
use crate::load::trace::TraceRequest;
use proptest::prelude::*;
use std::sync::Arc;
use std::time::Duration;

fn asking(api: Api) -> Asking {
    Asking {
        api,
        model: "a \"quoted\" name".to_owned(),
        stream: true,
        ignore_eos: true,
        min_tokens: true,
        temperature: Some(0.5),
        extra: Map::new(),
    }
}

fn shape(prefix_tokens: u32) -> Source {
    Source::Synthetic(Shape {
        seed: 4,
        input: Length::Fixed(12),
        turn_input: Length::Fixed(3),
        output: Length::Fixed(9),
        turns: 2,
        prefix_tokens,
        num_prefixes: 1,
    })
}

fn json_of(bodies: &Bodies, dialogue: &Dialogue) -> Value {
    serde_json::from_str(&bodies.body(dialogue, 9)).unwrap()
}

fn word_count(text: &Value) -> usize {
    text.as_str().unwrap().split_whitespace().count()
}

#[test]
fn a_chat_keeps_its_prefix_and_what_was_said() {
    let bodies = Bodies::new(&asking(Api::Chat), shape(5), 4, 1.0);
    let mut dialogue = Dialogue::default();
    bodies.say(&mut dialogue, 0, 0);
    let first = json_of(&bodies, &dialogue);
    assert_eq!(first["model"], "a \"quoted\" name");
    assert_eq!(first["max_tokens"], 9);
    assert_eq!(first["min_tokens"], 9);
    assert_eq!(first["ignore_eos"], true);
    assert_eq!(first["stream_options"]["include_usage"], true);
    assert_eq!(first["messages"][0]["role"], "system");
    assert_eq!(word_count(&first["messages"][0]["content"]), 5);
    assert_eq!(word_count(&first["messages"][1]["content"]), 12);
    bodies.answer(&mut dialogue, "so \\\"it\\u00e9\\\" is");
    bodies.say(&mut dialogue, 0, 1);
    let second = json_of(&bodies, &dialogue);
    assert_eq!(second["messages"][1], first["messages"][1]);
    assert_eq!(second["messages"][2]["content"], "so \"ité\" is");
    assert_eq!(word_count(&second["messages"][3]["content"]), 3);
    assert_eq!(second["messages"].as_array().unwrap().len(), 4);
}

#[test]
fn a_completion_is_one_text() {
    let bodies = Bodies::new(&asking(Api::Completions), shape(0), 4, 1.5);
    let mut dialogue = Dialogue::default();
    bodies.say(&mut dialogue, 0, 0);
    let body = json_of(&bodies, &dialogue);
    assert_eq!(word_count(&body["prompt"]), 18);
    assert!(body.get("messages").is_none());
}

#[test]
fn fields_of_the_user_win() {
    let mut asking = asking(Api::Chat);
    asking.extra = serde_json::from_str(
        "{\"stream\": false, \"max_completion_tokens\": 3, \"min_tokens\": 1, \"top_k\": 5}",
    )
    .unwrap();
    let bodies = Bodies::new(&asking, shape(0), 4, 1.0);
    let text = bodies.body(&Dialogue::default(), 9);
    assert_eq!(text.matches("\"stream\"").count(), 1);
    assert_eq!(text.matches("min_tokens").count(), 1);
    let body: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(body["stream"], false);
    assert_eq!(body["top_k"], 5);
    assert!(body.get("max_tokens").is_none());
}

#[test]
fn conversations_without_a_prefix_share_none() {
    let bodies = Bodies::new(&asking(Api::Completions), shape(0), 4, 1.0);
    let text = |conversation| {
        let mut dialogue = Dialogue::default();
        bodies.say(&mut dialogue, conversation, 0);
        dialogue.said
    };
    assert_ne!(text(0), text(1));
    assert_eq!(text(1), text(1));
}

proptest! {
    #[test]
    fn prompts_of_a_trace_share_what_their_blocks_share(
        shared in 0..4_u64, own in 1..4_u64, cut in 1..512_u32,
    ) {
        let request = |tail: u64| {
            let blocks: Box<[u64]> = (0..shared).chain((0..own).map(|it| tail + it)).collect();
            TraceRequest {
                at: Duration::ZERO,
                input_tokens: blocks.len() as u32 * BLOCK_TOKENS - cut + 1,
                output_tokens: 1,
                blocks,
            }
        };
        let requests: Arc<[TraceRequest]> = [request(100), request(200)].into();
        let tokens = requests[0].input_tokens as usize;
        let source = Source::Trace { requests, speedup: 1.0 };
        let bodies = Bodies::new(&asking(Api::Completions), source, 4, 1.0);
        let words = |conversation| -> Vec<String> {
            let mut dialogue = Dialogue::default();
            bodies.say(&mut dialogue, conversation, 0);
            dialogue.said.split_whitespace().map(str::to_owned).collect()
        };
        let (one, two) = (words(0), words(1));
        prop_assert_eq!(one.len(), tokens);
        let common = one.iter().zip(&two).take_while(|(a, b)| a == b).count();
        let expected = shared as usize * BLOCK_TOKENS as usize;
        // Words may agree by chance for a little longer.
        prop_assert!(common >= expected.min(tokens) && common < expected + 16 + usize::from(tokens < 32) * 32);
    }
}
