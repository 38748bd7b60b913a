//! The template engine, set up as `transformers` sets up Jinja2.

use super::{ChatTemplate, json, methods};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior};
use std::fmt;
use std::time::Duration;

/// Nesting of macros, loops and includes. Real templates (nested schemas of tools) need about ten.
const RECURSION_LIMIT: usize = 200;

/// What a template said with `raise_exception`.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// An environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build().expect("the delimiters are the default ones"));
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(RECURSION_LIMIT);
    environment.set_fuel(Some(ChatTemplate::MAX_STEPS));
    environment.set_unknown_method_callback(methods::call);
    environment.add_filter("tojson", to_json);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_function(
        "raise_exception",
        |message: String| -> Result<Value, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, "raised").with_source(Raised(message)))
        },
    );
    environment
}

/// The template without `{% generation %}` marks, which only matter for training. They become
/// empty blocks of the same whitespace control.
pub(super) fn without_generation_marks(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(len) = rest[open..].find("%}") else {
            break;
        };
        let inside = &rest[open + 2..open + len];
        let word = inside.trim_matches(['-', '+']).trim();
        text.push_str(&rest[..open]);
        match word {
            "generation" => text.push_str(&format!("{{%{}%}}", inside.replace(word, "if true"))),
            "endgeneration" => text.push_str(&format!("{{%{}%}}", inside.replace(word, "endif"))),
            _ => text.push_str(&rest[open..open + len + 2]),
        }
        rest = &rest[open + len + 2..];
    }
    text.push_str(rest);
    text
}

/// The time in UTC, written as the template asks.
pub(super) fn strftime(now: Duration, format: &str) -> Result<String, Error> {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let time = jiff::Timestamp::from_second(seconds)
        .map_err(|error| invalid("strftime_now", &error))?
        .to_zoned(jiff::tz::TimeZone::UTC);
    jiff::fmt::strtime::format(format, &time).map_err(|error| invalid("strftime_now", &error))
}

fn invalid(what: &str, error: &dyn fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what}: {error}"))
}

/// Strings and mappings are sequences too, as in Jinja2.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq | ValueKind::String | ValueKind::Map
    )
}

/// None is not iterable, as in Python.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// `json.dumps` as `transformers` calls it: nothing escaped for HTML, keys in their order.
#[expect(
    clippy::needless_pass_by_value,
    reason = "a filter takes its arguments by value"
)]
fn to_json(value: &Value, indent: Option<usize>, options: Kwargs) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get("indent")?,
    };
    let separators: Option<Vec<String>> = options.get("separators")?;
    let style = json::Style {
        ascii: options
            .get::<Option<bool>>("ensure_ascii")?
            .unwrap_or(false),
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        separators: match separators.as_deref() {
            Some([item, key]) => Some((item.clone(), key.clone())),
            Some(_) => return Err(invalid("tojson", &"separators are two strings")),
            None => None,
        },
    };
    options.assert_all_used()?;
    if value.is_undefined() {
        return Err(invalid("tojson", &"the value is undefined"));
    }
    let value = serde_json::to_value(value).map_err(|error| invalid("tojson", &error))?;
    Ok(json::dump(&value, &style))
}
