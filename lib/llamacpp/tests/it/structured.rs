//! Structured output through the engine: whatever is drawn, the answer keeps to its form, also
//! after a move at any token, and beside others.

use crate::support::{engine, generate, options, outputs, request, start, tokenize};
use dynamo_llamacpp::{GgufTokenizer, LlamacppEngine, LlamacppOptions};
use dynamo_protocols::engine::{Engine, EngineRequest, FinishReason, RequestContext};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::structured::{Constraint, StructuredOutput, StructuredSupport};
use dynamo_protocols::tokenizer::Tokenizer;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::Value;
use std::sync::{Arc, LazyLock};

/// Tokens of an answer: more than its form allows.
const ENOUGH: u32 = 120;

const PERSON: &str = r#"{"type":"object","properties":{
    "name":{"type":"string","maxLength":12},
    "address":{"type":"object","properties":{"city":{"type":"string","maxLength":10}},
        "required":["city"],"additionalProperties":false},
    "kind":{"enum":["customer","supplier"]},
    "scores":{"type":"array","items":{"type":"integer","minimum":0,"maximum":99},"maxItems":3}},
    "required":["name","address","kind","scores"],"additionalProperties":false}"#;

static TOKENIZER: LazyLock<GgufTokenizer> =
    LazyLock::new(|| GgufTokenizer::open(&crate::support::model_path()).unwrap());

fn constrained(constraint: Constraint) -> EngineRequest {
    let mut request = request(&tokenize("Here is the record of our customer:"), ENOUGH);
    request.stop.eos_ids = TOKENIZER.end_of_sequence();
    request.sampling.structured = Some(Arc::new(StructuredOutput {
        field: "guided_x".into(),
        constraint,
        whitespace: None,
    }));
    request
}

fn drawn(constraint: Constraint, seed: u64) -> EngineRequest {
    let mut request = constrained(constraint);
    request.sampling.temperature = 1.3;
    request.sampling.seed = seed;
    request
}

fn text(ids: &[u32]) -> String {
    TOKENIZER.decode(ids, true).unwrap()
}

fn check_person(text: &str) {
    let person: Value = serde_json::from_str(text).expect(text);
    assert!(
        person["name"].as_str().unwrap().chars().count() <= 12,
        "{text}"
    );
    assert!(
        person["address"]["city"].as_str().unwrap().chars().count() <= 10,
        "{text}"
    );
    assert!(
        person["kind"] == "customer" || person["kind"] == "supplier",
        "{text}"
    );
    let scores = person["scores"].as_array().unwrap();
    assert!(scores.len() <= 3, "{text}");
    assert!(
        scores.iter().all(|score| score.as_u64().unwrap() <= 99),
        "{text}"
    );
    assert_eq!(person.as_object().unwrap().len(), 4, "{text}");
}

async fn refused(engine: &LlamacppEngine, request: EngineRequest) -> RequestError {
    let started = engine.generate(request, RequestContext::default()).await;
    started.err().unwrap()
}

#[tokio::test]
async fn whatever_the_seed_the_answer_keeps_to_its_form_beside_others() {
    let engine = engine(&options());
    assert_eq!(engine.structured_output(), StructuredSupport::Replayed);
    let choices: Arc<[String]> = ["red", "green", "greenish blue"].map(str::to_owned).into();
    let free = start(&engine, request(&tokenize("Once upon a time"), 60)).await;
    let mut streams = Vec::new();
    for seed in 0..4 {
        let json = drawn(Constraint::JsonSchema(PERSON.into()), seed);
        let choice = drawn(Constraint::Choice(Arc::clone(&choices)), seed);
        let regex = drawn(Constraint::Regex(r"[a-f0-9]{4}-[a-f0-9]{2}".into()), seed);
        for request in [json, choice, regex] {
            streams.push(start(&engine, request).await);
        }
    }
    let (answers, free) = tokio::join!(join_all(streams.into_iter().map(outputs)), outputs(free));
    for (number, answer) in answers.iter().enumerate() {
        let reason = answer.last().unwrap().finish_reason;
        assert_eq!(reason, Some(FinishReason::EndOfSequence));
        let text = text(&crate::support::tokens(answer));
        match number % 3 {
            0 => check_person(&text),
            1 => assert!(choices.contains(&text), "{text}"),
            _ => {
                let (first, second) = text.split_once('-').unwrap();
                assert_eq!((first.len(), second.len()), (4, 2), "{text}");
            }
        }
    }
    assert_eq!(free.len(), 60);
}

#[tokio::test]
async fn an_answer_that_moves_after_any_token_is_the_same() {
    let options = LlamacppOptions {
        deterministic: true,
        ..options()
    };
    let (first, second) = (engine(&options), engine(&options));
    let mut greedy = constrained(Constraint::JsonSchema(PERSON.into()));
    greedy.sampling.repetition_penalty = 1.1;
    for request in [greedy, drawn(Constraint::JsonSchema(PERSON.into()), 3)] {
        let whole = generate(&first, request.clone()).await;
        check_person(&text(&whole));
        for cut in 0..=whole.len() {
            let mut moved = request.clone();
            moved.generated_ids = whole[..cut].to_vec();
            let rest = outputs(start(&second, moved).await).await;
            assert_eq!(
                crate::support::tokens(&rest),
                whole[cut..],
                "after {cut} tokens"
            );
            let reason = rest.last().unwrap().finish_reason;
            assert_eq!(
                reason,
                Some(FinishReason::EndOfSequence),
                "after {cut} tokens"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_says_so_and_one_that_is_complete_is_not() {
    let engine = engine(&options());
    let mut short = constrained(Constraint::JsonObject);
    short.stop.max_tokens = 3;
    let cut = outputs(start(&engine, short).await).await;
    assert_eq!(cut.len(), 3);
    assert_eq!(
        cut.last().unwrap().finish_reason,
        Some(FinishReason::Length)
    );
    // The last token that may be generated completes the answer.
    let yes: Arc<[String]> = ["yes".to_owned()].into();
    let mut exact = constrained(Constraint::Choice(yes));
    let tokens = generate(&engine, exact.clone()).await;
    assert_eq!(text(&tokens), "yes");
    exact.stop.max_tokens = u32::try_from(tokens.len()).unwrap();
    // The form is stronger than a least length, and than a bias against all that it allows.
    exact.stop.min_tokens = exact.stop.max_tokens;
    exact.sampling.logit_bias = tokens.iter().map(|id| (*id, -100.0)).collect();
    exact.logprobs = Some(1);
    let complete = outputs(start(&engine, exact).await).await;
    let last = complete.last().unwrap();
    assert_eq!(last.finish_reason, Some(FinishReason::EndOfSequence));
    assert!(last.logprobs.as_ref().unwrap()[0].logprob < 0.0);
}

#[tokio::test]
async fn mistakes_are_refused_before_a_token_and_do_not_hurt_the_engine() {
    let engine = engine(&options());
    let rows = [
        (Constraint::Regex("(".into()), ErrorCode::InvalidRequest),
        (
            Constraint::JsonSchema("{".into()),
            ErrorCode::InvalidRequest,
        ),
        (
            Constraint::JsonSchema(r#"{"type":"x"}"#.into()),
            ErrorCode::InvalidRequest,
        ),
        (
            Constraint::Grammar("start: start".into()),
            ErrorCode::InvalidRequest,
        ),
        (Constraint::Choice([].into()), ErrorCode::InvalidRequest),
        (
            Constraint::Regex("a".repeat(100_000).into()),
            ErrorCode::InvalidRequest,
        ),
    ];
    for (constraint, code) in rows {
        let error = refused(&engine, constrained(constraint)).await;
        assert_eq!(
            (error.code, error.param.as_deref()),
            (code, Some("guided_x"))
        );
    }
    let mut strange = constrained(Constraint::JsonObject);
    strange.generated_ids = tokenize("not json");
    assert_eq!(refused(&engine, strange).await.code, ErrorCode::Internal);
    let answer = generate(&engine, constrained(Constraint::Regex("[0-9]{3}".into()))).await;
    assert_eq!(text(&answer).len(), 3);
}

#[tokio::test]
async fn forms_that_are_hard_to_follow_are_kept_to_and_hold_up_nobody_else() {
    let engine = engine(&options());
    // Nearly every token is allowed, by a grammar of single characters: masks that take longer
    // than a step, for several answers at once.
    let wide = Constraint::Grammar("root ::= [^\"]{12} \"!\"".into());
    let mut streams = Vec::new();
    for seed in 0..6 {
        streams.push(start(&engine, drawn(wide.clone(), seed)).await);
    }
    // One that goes away with its mask under way.
    let mut left = streams.pop().unwrap();
    left.next().await.unwrap().unwrap();
    drop(left);
    let free = start(&engine, request(&tokenize("Once upon a time"), 40)).await;
    let (answers, free) = tokio::join!(join_all(streams.into_iter().map(outputs)), outputs(free));
    assert_eq!(free.len(), 40);
    for answer in &answers {
        let text = text(&crate::support::tokens(answer));
        assert_eq!(text.chars().count(), 13, "{text}");
        assert!(text.ends_with('!') && !text.contains('"'), "{text}");
    }
    engine.drain().await;
}
