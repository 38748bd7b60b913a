//! From a request's constraint to a matcher: what is refused, and in which words.
//!
//! Whatever is wrong with a constraint is the client's mistake and found here, before a token is
//! generated. What cannot be enforced to the letter is refused, not left out.

use super::gbnf;
use dynamo_protocols::RequestError;
use dynamo_protocols::structured::{Constraint, StructuredOutput};
use llguidance::api::TopLevelGrammar;
use llguidance::{Matcher, ParserFactory};
use serde_json::{Value, json};

/// White space between JSON tokens, unless the client says otherwise: what people and programs
/// write, indented or not. Models that may write any amount of it sometimes write nothing else.
const WHITESPACE: &str = "[ ]{1,16}|\n[ ]{0,16}";

/// Largest number that the `multipleOf` of a schema may come to together: the automaton of the
/// multiples of a number has as many states.
const MAX_MULTIPLE: u64 = 10_000;

/// Longest message of the compiler that is passed on, in characters.
const LONGEST_REASON: usize = 240;

/// Compiles a constraint. The matcher is at the beginning of an answer.
pub(super) fn matcher(
    factory: &ParserFactory,
    structured: &StructuredOutput,
) -> Result<Matcher, RequestError> {
    let refuse = |reason: &str| structured.refusal(&format!("cannot be compiled: {reason}"));
    let grammar = grammar(structured).map_err(|reason| refuse(&reason))?;
    let parser = factory
        .create_parser(grammar)
        .map_err(|error| refuse(&reason(&error.to_string())))?;
    let mut matcher = Matcher::new(Ok(parser));
    // Also leaves the first mask's work behind for every copy.
    if let Err(error) = matcher.compute_mask() {
        let error = error.to_string();
        return Err(match error.contains("NoExtension") {
            true => structured.refusal("matches no text that the model can write"),
            false => refuse(&reason(&error)),
        });
    }
    Ok(matcher)
}

/// The constraint in the compiler's terms.
fn grammar(structured: &StructuredOutput) -> Result<TopLevelGrammar, String> {
    let whitespace = structured.whitespace.as_deref();
    match &structured.constraint {
        Constraint::JsonObject => schema(json!({"type": "object"}), whitespace),
        Constraint::JsonSchema(text) => {
            let parsed = serde_json::from_str(text).map_err(|error| error.to_string())?;
            schema(parsed, whitespace)
        }
        Constraint::Regex(regex) => Ok(TopLevelGrammar::from_regex(regex)),
        Constraint::Choice(choices) => {
            let texts: Vec<String> = choices.iter().map(|text| escaped(text)).collect();
            Ok(TopLevelGrammar::from_regex(&texts.join("|")))
        }
        Constraint::Grammar(text) if gbnf::is_gbnf(text) => {
            Ok(TopLevelGrammar::from_lark(gbnf::to_lark(text)?))
        }
        Constraint::Grammar(text) if text.contains("%json") => {
            Err("`%json` is not served in grammars; send a schema instead".to_owned())
        }
        Constraint::Grammar(text) => Ok(TopLevelGrammar::from_lark(text.to_string())),
    }
}

fn schema(mut schema: Value, whitespace: Option<&str>) -> Result<TopLevelGrammar, String> {
    let mut multiple = 1;
    check_multiples(&schema, &mut multiple)?;
    let object = schema
        .as_object_mut()
        .ok_or("the schema must be an object")?;
    // Options of the compiler: they are not the client's to set.
    let pattern = whitespace.unwrap_or(WHITESPACE);
    let options = match pattern {
        "" => json!({"whitespace_flexible": false}),
        pattern => json!({"whitespace_pattern": pattern}),
    };
    object.insert("x-guidance".to_owned(), options);
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// Bounds the common multiple of all `multipleOf`: the compiler bounds everything else.
fn check_multiples(schema: &Value, common: &mut u64) -> Result<(), String> {
    match schema {
        Value::Object(fields) => {
            for (key, value) in fields {
                if key == "multipleOf"
                    && let Value::Number(number) = value
                {
                    *common = least_common_multiple(*common, digits(&number.to_string()));
                    if *common > MAX_MULTIPLE {
                        return Err(format!(
                            "the numbers of `multipleOf` are too large together: their digits may \
                             have a common multiple of at most {MAX_MULTIPLE}"
                        ));
                    }
                }
                check_multiples(value, common)?;
            }
            Ok(())
        }
        Value::Array(items) => items
            .iter()
            .try_for_each(|item| check_multiples(item, common)),
        _ => Ok(()),
    }
}

/// The digits of a number without sign, point and zeros at its end: 12 for 0.12, 5 for 500.
fn digits(number: &str) -> u64 {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let digits = match mantissa.contains('.') {
        true => digits.trim_end_matches('0'),
        false => &digits,
    };
    match digits {
        "" => 1,
        digits => digits.parse().unwrap_or(u64::MAX).max(1),
    }
}

fn least_common_multiple(a: u64, b: u64) -> u64 {
    let (mut divisor, mut rest) = (a, b);
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (a / divisor.max(1)).saturating_mul(b)
}

/// A text as the regular expression of itself.
fn escaped(text: &str) -> String {
    let mut regex = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if r"\.+*?()|[]{}^$#&-~".contains(character) {
            regex.push('\\');
        }
        regex.push(character);
    }
    regex
}

/// What the compiler complains about, in one line of bounded length.
fn reason(error: &str) -> String {
    let told = error.split("<non-verbose").next().unwrap_or_default();
    let line = told
        .lines()
        .find_map(|line| line.strip_prefix("error: "))
        .or_else(|| told.lines().next())
        .unwrap_or_default()
        .trim();
    let mut reason: String = line.chars().take(LONGEST_REASON).collect();
    if reason.len() < line.len() {
        reason.push_str("...");
    }
    reason
}
