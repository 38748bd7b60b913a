//! Methods of Python's strings and lists that templates call and the engine's own
//! Python-compatibility layer lacks.

use minijinja::value::{Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};
use minijinja_contrib::pycompat;

/// Calls a method on a value.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let extra = match value.kind() {
        ValueKind::String => value
            .as_str()
            .and_then(|text| on_string(text, method, args)),
        ValueKind::Seq => on_list(value, method, args),
        ValueKind::Undefined
        | ValueKind::None
        | ValueKind::Bool
        | ValueKind::Number
        | ValueKind::Bytes
        | ValueKind::Map
        | ValueKind::Iterable
        | ValueKind::Plain
        | ValueKind::Invalid
        | _ => None,
    };
    extra.unwrap_or_else(|| pycompat::unknown_method_callback(state, value, method, args))
}

/// `None` for methods that are left to the engine's layer.
fn on_string(text: &str, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    Some(match method {
        "removeprefix" => one(args, |prefix| {
            text.strip_prefix(prefix).unwrap_or(text).into()
        }),
        "removesuffix" => one(args, |suffix| {
            text.strip_suffix(suffix).unwrap_or(text).into()
        }),
        "partition" => one(args, |by| match text.split_once(by) {
            Some((before, after)) => list(&[before, by, after]),
            None => list(&[text, "", ""]),
        }),
        "rpartition" => one(args, |by| match text.rsplit_once(by) {
            Some((before, after)) => list(&[before, by, after]),
            None => list(&["", "", text]),
        }),
        "rsplit" if !args.is_empty() => rsplit(text, args),
        "index" => one(args, |part| part.into()).and_then(|part| {
            let part = part.as_str().unwrap_or_default();
            let at = text.find(part).ok_or_else(|| not_found("substring"))?;
            Ok(text[..at].chars().count().into())
        }),
        "zfill" => from_args::<(usize,)>(args).map(|(width,)| {
            let digits = text.trim_start_matches(['+', '-']);
            let sign = &text[..text.len() - digits.len()];
            let missing = width.saturating_sub(text.chars().count()).min(MAX_PADDING);
            Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))
        }),
        _ => return None,
    })
}

/// Zeros that `zfill` adds at most.
const MAX_PADDING: usize = 1024;

fn on_list(value: &Value, method: &str, args: &[Value]) -> Option<Result<Value, Error>> {
    if method != "index" {
        return None;
    }
    Some(from_args::<(Value,)>(args).and_then(|(wanted,)| {
        let at = value.try_iter()?.position(|item| item == wanted);
        at.map(Value::from).ok_or_else(|| not_found("value"))
    }))
}

fn list(parts: &[&str]) -> Value {
    parts.iter().map(|&part| Value::from(part)).collect()
}

fn one(args: &[Value], apply: impl FnOnce(&str) -> Value) -> Result<Value, Error> {
    let (argument,) = from_args::<(&str,)>(args)?;
    Ok(apply(argument))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (by, most) = from_args::<(&str, Option<i64>)>(args)?;
    if by.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    let mut parts: Vec<&str> = match most.and_then(|most| usize::try_from(most).ok()) {
        Some(most) => text.rsplitn(most.saturating_add(1), by).collect(),
        None => text.rsplit(by).collect(),
    };
    parts.reverse();
    Ok(list(&parts))
}

fn not_found(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{what} not found"))
}
