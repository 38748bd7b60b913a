//! Constraints over the vocabulary of the real model, without its weights: walks that take any
//! token that is allowed.

use super::compile;
use super::{Matching, Vocabulary};
use crate::model::Model;
use crate::tokenizer::GgufTokenizer;
use dynamo_protocols::draw::uniform;
use dynamo_protocols::structured::{Constraint, StructuredOutput};
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_protocols::{ErrorCode, RequestError};
use llguidance::ParserFactory;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// Tokens of a walk: more than any of these answers has.
const LONGEST_WALK: u64 = 200;

struct Fixture {
    tokenizer: GgufTokenizer,
    factory: Mutex<ParserFactory>,
}

static FIXTURE: LazyLock<Fixture> = LazyLock::new(|| {
    let model = Model::load(&model_path(), true).unwrap();
    let vocabulary = Vocabulary::read(&model);
    assert!(vocabulary.is_usable());
    Fixture {
        tokenizer: GgufTokenizer::open(&model_path()).unwrap(),
        factory: Mutex::new(vocabulary.factory().unwrap()),
    }
});

fn model_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.models/gemma-3-270m-q4_k_m.gguf")
}

fn output(constraint: Constraint) -> StructuredOutput {
    StructuredOutput {
        field: "guided_x".into(),
        constraint,
        whitespace: None,
    }
}

fn begin(structured: StructuredOutput) -> Result<Matching, RequestError> {
    let factory = FIXTURE.factory.lock();
    let matcher = compile::matcher(&factory, &structured)?;
    Ok(Matching::new(matcher, Arc::new(structured)))
}

fn regex(text: &str) -> StructuredOutput {
    output(Constraint::Regex(text.into()))
}

fn grammar(text: &str) -> StructuredOutput {
    output(Constraint::Grammar(text.into()))
}

fn schema(text: &str) -> StructuredOutput {
    output(Constraint::JsonSchema(text.into()))
}

fn allowed(matching: &Matching) -> Vec<u32> {
    let words = matching.next().unwrap();
    let ids = 0..u32::try_from(words.len() * 32).unwrap();
    ids.filter(|id| words[*id as usize / 32] >> (id % 32) & 1 == 1)
        .collect()
}

/// Any allowed tokens to the end of the answer.
fn walk(mut matching: Matching, seed: u64) -> (Vec<u32>, String) {
    let mut ids = Vec::new();
    for position in 0..LONGEST_WALK {
        matching.work_out().unwrap();
        let allowed = allowed(&matching);
        let place = uniform(seed, 0, position) * allowed.len() as f64;
        let id = allowed[place as usize];
        ids.push(id);
        if matching.take(id).unwrap() {
            let text = FIXTURE.tokenizer.decode(&ids, true).unwrap();
            return (ids, text);
        }
    }
    panic!("no end after {LONGEST_WALK} tokens");
}

/// Whether a text is a whole answer.
fn takes(structured: StructuredOutput, text: &str) -> bool {
    let mut matching = begin(structured).unwrap();
    let ids = FIXTURE.tokenizer.encode(text, false).unwrap();
    match matching.replay(&ids) {
        Ok(true) => true,
        Ok(false) => {
            let ends = FIXTURE.tokenizer.end_of_sequence();
            matching.work_out().unwrap();
            allowed(&matching).iter().any(|id| ends.contains(id))
        }
        Err(_) => false,
    }
}

#[test]
fn whatever_is_drawn_the_text_is_one_of_the_choices() {
    let choices = [
        "yes",
        "yes, but",
        "no (never)",
        "größer ≥ 5\n",
        "a|b",
        "^x$",
        "\"q\" \\ /",
    ];
    let choices: Arc<[String]> = choices.map(str::to_owned).into();
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..40 {
        let matching = begin(output(Constraint::Choice(Arc::clone(&choices)))).unwrap();
        let (_, text) = walk(matching, seed);
        assert!(choices.contains(&text), "{text:?}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), choices.len(), "{seen:?}");
}

#[test]
fn whatever_is_drawn_the_text_matches_from_start_to_end() {
    for seed in 0..15 {
        let (_, text) = walk(begin(regex(r"[A-Z]{2}-\d{3,5}(/x)?")).unwrap(), seed);
        let (letters, rest) = text.split_once('-').unwrap();
        assert!(
            letters.len() == 2 && letters.chars().all(|c| c.is_ascii_uppercase()),
            "{text}"
        );
        let digits = rest.strip_suffix("/x").unwrap_or(rest);
        assert!((3..=5).contains(&digits.chars().count()), "{text}");
        assert!(digits.chars().all(char::is_numeric), "{text}");
    }
    // Anchors say what holds anyway.
    for seed in 0..10 {
        assert_eq!(walk(begin(regex("^(ab|cd)$")).unwrap(), seed).1.len(), 2);
    }
}

#[test]
fn whatever_is_drawn_a_date_of_a_grammar_is_one() {
    let lark =
        "start: YEAR \"-\" month\nYEAR: /[12][0-9]{3}/\nmonth: \"0\" /[1-9]/ | \"1\" /[0-2]/";
    let gbnf = "root ::= year \"-\" month\nyear ::= [12] digit{3}\ndigit ::= [0-9]\n\
                month ::= \"0\" [1-9] | \"1\" [0-2]";
    for text in [lark, gbnf] {
        for seed in 0..8 {
            let (_, date) = walk(begin(grammar(text)).unwrap(), seed);
            let (year, month) = date.split_once('-').unwrap();
            assert!(
                (1_000..3_000).contains(&year.parse::<u32>().unwrap()),
                "{date}"
            );
            assert!((1..=12).contains(&month.parse::<u32>().unwrap()), "{date}");
        }
    }
}

#[test]
fn a_grammar_in_gbnf_means_what_it_says_whatever_the_lexer_would_like() {
    let text =
        "root ::= (\"a\" \"bc\" | \"ab\" \"d\") tail?\ntail ::= [^a-z\"] tail | \"\\u00e9\\n\"";
    for (answer, fits) in [
        ("abc", true),
        ("abd", true),
        ("abcd", false),
        ("abc1é\n", true),
        ("abcx", false),
        ("ab", false),
    ] {
        assert_eq!(takes(grammar(text), answer), fits, "{answer}");
    }
    let recursive =
        "root ::= expr\nexpr ::= term (\"+\" term)*\nterm ::= [0-9]+ | \"(\" expr \")\"";
    assert!(takes(grammar(recursive), "(1+(22+3))+4"));
    assert!(!takes(grammar(recursive), "(1+(22+3)+4"));
}

#[test]
fn json_keeps_to_its_schema_and_to_the_order_of_its_properties() {
    let person = r#"{"type":"object","properties":{"name":{"type":"string","maxLength":8},
        "tags":{"type":"array","items":{"enum":["a","b"]},"maxItems":2},
        "age":{"type":"integer","minimum":0,"maximum":150}},
        "required":["name","age"],"additionalProperties":false}"#;
    for seed in 0..10 {
        let (_, text) = walk(begin(schema(person)).unwrap(), seed);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(
            value["name"].as_str().unwrap().chars().count() <= 8,
            "{text}"
        );
        assert!(value["age"].as_u64().unwrap() <= 150, "{text}");
        for tag in value["tags"].as_array().into_iter().flatten() {
            assert!(tag == "a" || tag == "b", "{text}");
        }
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        assert!(keys.first().is_some_and(|first| *first == "name"), "{text}");
    }
    assert!(takes(schema(person), r#"{"name": "x", "age": 3}"#));
    assert!(takes(
        schema(person),
        "{\n  \"name\": \"x\",\n  \"age\": 3\n}"
    ));
    assert!(!takes(schema(person), "{\n\n\"name\": \"x\", \"age\": 3}"));
    assert!(!takes(schema(person), r#"{"age": 3, "name": "x"}"#));
    assert!(!takes(schema(person), r#"{"name": "x", "age": 151}"#));
    assert!(takes(
        output(Constraint::JsonObject),
        r#"{"a": [1, {"b": null}]}"#
    ));
    assert!(!takes(output(Constraint::JsonObject), "[1]"));
}

#[test]
fn white_space_is_what_the_client_says() {
    let spaced = |pattern: &str| StructuredOutput {
        whitespace: Some(pattern.into()),
        ..output(Constraint::JsonObject)
    };
    assert!(takes(spaced(""), r#"{"a":1}"#));
    assert!(!takes(spaced(""), r#"{"a": 1}"#));
    assert!(takes(spaced(" ?"), r#"{"a": 1}"#));
    assert!(takes(spaced(" ?"), r#"{"a":1}"#));
    assert!(!takes(spaced(" ?"), "{\"a\":\n1}"));
}

#[test]
fn special_tokens_never_match() {
    let mut matching = begin(regex("(?s:.){0,10}")).unwrap();
    matching.work_out().unwrap();
    let ends = FIXTURE.tokenizer.end_of_sequence();
    for id in allowed(&matching) {
        let special = FIXTURE.tokenizer.is_special(id);
        assert!(!special || ends.contains(&id), "{id}");
    }
}

#[test]
fn replaying_any_part_of_an_answer_leads_to_the_same_place() {
    let text = r#"{"type":"object","properties":{"a":{"type":"string","maxLength":20},
        "b":{"type":"array","items":{"type":"number"},"maxItems":3}},
        "required":["a","b"],"additionalProperties":false}"#;
    let (ids, _) = walk(begin(schema(text)).unwrap(), 7);
    let mut whole = begin(schema(text)).unwrap();
    for cut in 0..ids.len() {
        let mut moved = begin(schema(text)).unwrap();
        assert_eq!(moved.replay(&ids[..cut]), Ok(false));
        moved.work_out().unwrap();
        whole.work_out().unwrap();
        assert_eq!(moved.next(), whole.next(), "after {cut} tokens");
        whole.take(ids[cut]).unwrap();
    }
    let mut done = begin(schema(text)).unwrap();
    assert_eq!(done.replay(&ids), Ok(true));
    for wrong in [
        &[ids[1]][..],
        &[ids[0], 262_000],
        &[&ids[..], &[5]].concat(),
    ] {
        let error = begin(schema(text)).unwrap().replay(wrong).unwrap_err();
        assert_eq!(error.code, ErrorCode::Internal, "{wrong:?}");
        assert!(error.message.contains("guided_x"), "{error}");
    }
}

#[test]
fn what_cannot_be_compiled_is_the_clients_mistake_in_one_line() {
    let deep = format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000));
    let rows = [
        (regex("(a"), "unclosed group"),
        (regex("(?=a)b"), "look-around"),
        (regex(r"a\b"), "lookarounds"),
        (schema("[]"), "must be an object"),
        (schema(r#"{"type":"thing"}"#), "Invalid type"),
        (
            schema(r#"{"type":"array","uniqueItems":true}"#),
            "uniqueItems",
        ),
        (schema(r#"{"type":"string","enum":[1]}"#), "Unsatisfiable"),
        (schema(r##"{"$ref":"#"}"##), "no text"),
        (schema(r#"{"$ref":"http://x/y"}"#), "$ref"),
        (
            schema(r#"{"type":"integer","multipleOf":1234567}"#),
            "multipleOf",
        ),
        (
            schema(r#"{"allOf":[{"multipleOf":9.97},{"multipleOf":991}]}"#),
            "multipleOf",
        ),
        (
            schema(r#"{"x-guidance":{"lenient":true},"type":"array","uniqueItems":true}"#),
            "unique",
        ),
        (grammar("start: foo"), "foo"),
        (grammar("start: start"), "no text"),
        (grammar("start: %json {\"type\":\"object\"}"), "%json"),
        (grammar(&deep), "nested"),
        (grammar("root ::= \"a"), "closing quote"),
        (grammar("root ::= b"), "r_b"),
    ];
    for (structured, part) in rows {
        let constraint = format!("{:?}", structured.constraint);
        let error = begin(structured).expect_err(&constraint);
        let shown = &constraint[..constraint.len().min(80)];
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{shown}: {error}");
        assert_eq!(error.param.as_deref(), Some("guided_x"));
        assert!(error.message.contains(part), "{shown}: {error}");
        assert!(
            error.message.len() < 400 && !error.message.contains('\n'),
            "{error}"
        );
    }
}
