//! The TOML form. Numbers keep the text they were written as.

use super::{Content, Entry, MAX_DEPTH, SyntaxError};
use crate::value::RawValue;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Radix of the integers that keep their text.
const DECIMAL: u32 = 10;

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let table = DeTable::parse(text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        SyntaxError::new(line_at(text, start), error.message())
    })?;
    entries(text, table.get_ref(), 0)
}

fn entries(text: &str, table: &DeTable<'_>, depth: usize) -> Result<Vec<Entry>, SyntaxError> {
    let mut entries = table
        .iter()
        .map(|(key, value)| {
            let line = line_at(text, key.span().start);
            let content = content(text, value, depth)?;
            Ok(Entry::new(key.get_ref(), line, content))
        })
        .collect::<Result<Vec<_>, SyntaxError>>()?;
    entries.sort_by_key(|entry| entry.line);
    Ok(entries)
}

fn content(text: &str, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Content, SyntaxError> {
    if depth >= MAX_DEPTH {
        let line = line_at(text, value.span().start);
        return Err(SyntaxError::new(line, "the value is nested too deeply"));
    }
    let scalar = |text: String| Ok(Content::Value(RawValue::One(text)));
    match value.get_ref() {
        DeValue::String(string) => scalar(string.to_string()),
        DeValue::Boolean(boolean) => scalar(boolean.to_string()),
        DeValue::Float(float) => scalar(float.as_str().to_owned()),
        DeValue::Datetime(datetime) => scalar(datetime.to_string()),
        DeValue::Integer(integer) if integer.radix() == DECIMAL => {
            scalar(integer.as_str().to_owned())
        }
        DeValue::Integer(integer) => {
            let line = line_at(text, value.span().start);
            i64::from_str_radix(integer.as_str(), integer.radix())
                .map_err(|_| SyntaxError::new(line, "the integer is too large"))
                .and_then(|integer| scalar(integer.to_string()))
        }
        DeValue::Array(items) => items
            .iter()
            .map(|item| content(text, item, depth + 1))
            .collect::<Result<_, _>>()
            .map(Content::list),
        DeValue::Table(table) => entries(text, table, depth + 1).map(Content::Table),
    }
}

/// Line of a byte offset, from 1.
fn line_at(text: &str, offset: usize) -> usize {
    let before = &text.as_bytes()[..offset.min(text.len())];
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(text: &str) -> Vec<(String, Content)> {
        let entries = parse(text).unwrap();
        entries.into_iter().map(|e| (e.key, e.content)).collect()
    }

    #[test]
    fn scalars_become_texts() {
        let text = "a = 0x10\nb = 1_000\nc = -1\nd = 1.50\ne = 1979-05-27\nf = [1, 2]\n";
        let one = |text: &str| Content::Value(RawValue::One(text.to_owned()));
        let many = Content::Value(RawValue::Many(vec!["1".to_owned(), "2".to_owned()]));
        assert_eq!(
            values(text).into_iter().map(|(_, v)| v).collect::<Vec<_>>(),
            [
                one("16"),
                one("1000"),
                one("-1"),
                one("1.50"),
                one("1979-05-27"),
                many
            ]
        );
    }

    #[test]
    fn entries_come_in_the_order_of_their_lines() {
        let keys: Vec<_> = values("z = 1\na = 2\n[m]\nx = 1\n")
            .into_iter()
            .map(|(k, _)| k)
            .collect();
        assert_eq!(keys, ["z", "a", "m"]);
    }

    #[test]
    fn syntax_errors_name_their_line() {
        assert_eq!(parse("a = 1\nb = \n").unwrap_err().line, 2);
        assert_eq!(parse("a = 1\n\na = 2\n").unwrap_err().line, 3);
    }

    #[test]
    fn deep_nesting_is_refused() {
        assert!(
            parse(&format!(
                "a = {}{}",
                "[".repeat(100_000),
                "]".repeat(100_000)
            ))
            .is_err()
        );
        assert!(parse(&format!("a = {}{}", "[".repeat(20), "]".repeat(20))).is_err());
    }
}
