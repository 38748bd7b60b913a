//! Choices as a pure function of engine outputs, and generations over real and broken streams.

use super::*;
use crate::byte_tokenizer::ByteTokenizer;
use crate::preprocess::{ExtraFields, TextOptions};
use dynamo_protocols::engine::{EngineOutput, FinishReason, StopConditions, TokenId};
use dynamo_protocols::tokenizer::Tokenizer;
use futures_util::{FutureExt, StreamExt, stream};
use proptest::prelude::*;
use std::sync::Arc;

fn choice(index: usize, stop: &[String], include_stop: bool, min_tokens: u32) -> Choice {
    let request = EngineRequest {
        stop: StopConditions {
            max_tokens: 1_000,
            min_tokens,
            eos_ids: vec![ByteTokenizer::EOS],
            ..StopConditions::default()
        },
        ..EngineRequest::default()
    };
    let options = TextOptions {
        stop_strings: stop.to_vec(),
        include_stop,
        skip_special_tokens: true,
        tokens_as_ids: false,
    };
    let tokenizer = Arc::new(ByteTokenizer) as Arc<dyn Tokenizer>;
    Choice::new(
        index,
        &request,
        &tokenizer,
        &options,
        ExtraFields::default(),
        "",
    )
}

fn output(ids: &[TokenId], finish_reason: Option<FinishReason>) -> EngineOutput {
    EngineOutput {
        token_ids: ids.to_vec(),
        finish_reason,
        cached_tokens: Some(1),
        ..EngineOutput::default()
    }
}

fn ids(text: &str) -> Vec<TokenId> {
    text.bytes().map(TokenId::from).collect()
}

/// All deltas of an output as one.
fn push(choice: &mut Choice, output: EngineOutput) -> ChoiceDelta {
    let mut pending = PendingOutput::new(output);
    let mut whole = choice.push(&mut pending);
    while !pending.is_empty() {
        let delta = choice.push(&mut pending);
        whole.text.push_str(&delta.text);
        whole.tokens += delta.tokens;
        whole.finish = delta.finish;
    }
    whole
}

/// Text, finish reason and number of tokens of a choice that gets `chunks`.
fn run(mut choice: Choice, chunks: &[&[TokenId]]) -> (String, Option<&'static str>, u32) {
    let (mut text, mut tokens) = (String::new(), 0);
    for (i, chunk) in chunks.iter().enumerate() {
        let last = (i + 1 == chunks.len()).then_some(FinishReason::Length);
        let delta = push(&mut choice, output(chunk, last));
        text.push_str(&delta.text);
        tokens += delta.tokens;
        if delta.finish.is_some() {
            return (text, delta.finish, tokens);
        }
    }
    (text, None, tokens)
}

fn generation(streams: Vec<EngineStream>, choices_per_prompt: usize) -> Generation {
    Generation {
        choices: streams
            .into_iter()
            .enumerate()
            .map(|(index, stream)| Running {
                choice: choice(index, &["!".to_owned()], false, 0),
                stream: Some(stream),
                pending: None,
            })
            .collect(),
        next: 0,
        choices_per_prompt,
        usage: Usage::new(7, 0, 0),
        failed: false,
    }
}

fn outputs(items: Vec<EngineOutput>) -> EngineStream {
    Box::pin(stream::iter(items.into_iter().map(Ok)))
}

#[test]
fn the_token_that_ends_a_choice_is_not_its_text() {
    let mut ended = choice(0, &[], false, 0);
    let delta = push(
        &mut ended,
        output(
            &[104, ByteTokenizer::EOS],
            Some(FinishReason::EndOfSequence),
        ),
    );
    assert_eq!(
        (delta.text.as_str(), delta.finish, delta.tokens),
        ("h", Some("stop"), 2)
    );
    let mut stopped = choice(0, &[], false, 0);
    let delta = push(
        &mut stopped,
        output(&[104, 105], Some(FinishReason::StopToken(105))),
    );
    assert_eq!((delta.text.as_str(), delta.finish), ("h", Some("stop")));
    // An engine that ends on its own account keeps its last word.
    let mut own = choice(0, &[], false, 0);
    let delta = push(
        &mut own,
        output(&[104, 105], Some(FinishReason::EndOfSequence)),
    );
    assert_eq!((delta.text.as_str(), delta.finish), ("hi", Some("stop")));
}

#[test]
fn tokens_that_come_at_once_are_deltas_of_their_own() {
    let stream = outputs(vec![
        output(&ids("abc"), None),
        output(&ids("d"), Some(FinishReason::Length)),
    ]);
    let mut generation = generation(vec![stream], 1);
    let mut texts = Vec::new();
    while let Some(Some(delta)) = generation.next().now_or_never() {
        let delta = delta.unwrap();
        assert_eq!(delta.tokens, 1);
        texts.push(delta.text);
    }
    assert_eq!(texts, ["a", "b", "c", "d"]);
    assert_eq!(generation.usage().completion_tokens, 4);
}

#[test]
fn a_cut_off_character_is_replaced_at_the_end() {
    let (text, finish, _) = run(choice(0, &[], false, 0), &[&ids("é")[..1]]);
    assert_eq!((text.as_str(), finish), ("\u{fffd}", Some("length")));
}

proptest! {
    #[test]
    fn the_answer_does_not_depend_on_how_outputs_are_cut(
        text in "[ab é]{1,24}",
        stops in proptest::collection::vec("[ab é]{1,3}", 0..3),
        cuts in proptest::collection::vec(any::<bool>(), 48),
        include_stop: bool,
        min_tokens in 0_u32..6,
    ) {
        let ids = ids(&text);
        let whole = run(choice(0, &stops, include_stop, min_tokens), &[&ids]);
        let mut chunks: Vec<&[TokenId]> = Vec::new();
        let mut start = 0;
        for end in 1..=ids.len() {
            if end == ids.len() || cuts[end % cuts.len()] {
                chunks.push(&ids[start..end]);
                start = end;
            }
        }
        prop_assert_eq!(run(choice(0, &stops, include_stop, min_tokens), &chunks), whole.clone());
        if min_tokens == 0 {
            // The naive answer: the text up to the stop string that ends first.
            let first = text
                .char_indices()
                .map(|(at, c)| at + c.len_utf8())
                .find_map(|end| {
                    let longest = stops.iter().filter(|stop| text[..end].ends_with(*stop));
                    longest.map(String::len).max().map(|length| (end, length))
                });
            let expected = match first {
                Some((end, _)) if include_stop => &text[..end],
                Some((end, length)) => &text[..end - length],
                None => &text,
            };
            prop_assert_eq!(whole.0, expected);
        }
    }
}

#[tokio::test]
async fn choices_take_turns_and_counts_add_up() {
    let streams = vec![
        outputs(vec![
            output(&[97], None),
            output(&[98], Some(FinishReason::Length)),
        ]),
        outputs(vec![
            output(&[99], None),
            output(&[100], Some(FinishReason::Length)),
        ]),
    ];
    let mut generation = generation(streams, 2);
    let mut order = Vec::new();
    while let Some(delta) = generation.next().await {
        let delta = delta.unwrap();
        order.push((delta.index, delta.text));
    }
    let order: Vec<_> = order
        .iter()
        .map(|(index, text)| (*index, text.as_str()))
        .collect();
    assert_eq!(order, [(0, "a"), (1, "c"), (0, "b"), (1, "d")]);
    // Both outputs of the first choice say one cached token; the second choice's are not counted.
    assert_eq!(generation.usage(), Usage::new(7, 4, 2));
}

#[tokio::test]
async fn a_stop_string_drops_the_engines_stream_in_the_same_poll() {
    let alive = Arc::new(());
    let held = Arc::clone(&alive);
    let endless = stream::repeat_with(move || {
        let _held = &held;
        Ok(output(&ids("a!"), None))
    });
    let mut generation = generation(vec![Box::pin(endless)], 1);
    let delta = generation.next().await.unwrap().unwrap();
    assert_eq!((delta.text.as_str(), delta.finish), ("a", None));
    let delta = generation.next().await.unwrap().unwrap();
    assert_eq!((delta.text.as_str(), delta.finish), ("", Some("stop")));
    assert_eq!(Arc::strong_count(&alive), 1);
    assert!(generation.next().await.is_none());
}

#[tokio::test]
async fn a_stream_without_a_finish_reason_is_a_lost_worker_and_ends_all_choices() {
    let endless = stream::repeat_with(|| Ok(output(&[97], None)));
    let streams = vec![
        outputs(vec![output(&[97], None)]),
        Box::pin(endless) as EngineStream,
    ];
    let folded = generation(streams, 1).fold(|_| ()).await;
    assert_eq!(folded.unwrap_err().code, ErrorCode::WorkerLost);
}

#[test]
fn a_choice_that_waits_does_not_hold_up_the_others() {
    let streams = vec![
        Box::pin(stream::pending()) as EngineStream,
        outputs(vec![output(&[97], Some(FinishReason::Length))]),
    ];
    let mut generation = generation(streams, 1);
    let delta = generation.next().now_or_never().unwrap().unwrap().unwrap();
    assert_eq!(delta.index, 1);
    assert!(generation.next().now_or_never().is_none());
}
