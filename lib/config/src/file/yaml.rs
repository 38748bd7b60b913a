//! The YAML form, from parser events: no typed values in between, so that texts stay as written.
//!
//! Anchors, aliases and tags are refused: a configuration file says things once and plainly, and
//! without aliases its size bounds its meaning.

use super::{Content, Entry, MAX_DEPTH, SyntaxError};
use crate::value::RawValue;
use granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput};
use std::collections::BTreeMap;

/// The plain scalars that mean nothing.
const NULLS: [&str; 5] = ["", "~", "null", "Null", "NULL"];

pub(super) fn parse(text: &str) -> Result<Vec<Entry>, SyntaxError> {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    Reader(Parser::new_from_str_with_options(text, options)).document()
}

struct Reader<'a>(Parser<'a, StrInput<'a>>);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), SyntaxError> {
        match self.0.next_event() {
            Some(Ok((event, span))) => Ok((event, line(span))),
            Some(Err(error)) => Err(SyntaxError::new(error.marker().line(), error.info())),
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn document(mut self) -> Result<Vec<Entry>, SyntaxError> {
        let mut entries = None;
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(entries.unwrap_or_default()),
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if entries.is_some() => {
                    return Err(SyntaxError::new(line, "one document is expected"));
                }
                event => match self.content(event, line)? {
                    Content::Table(table) => entries = Some(table),
                    Content::Value(RawValue::Unset) => entries = Some(Vec::new()),
                    Content::Value(_) | Content::Nested => {
                        return Err(SyntaxError::new(line, "keys with values are expected"));
                    }
                },
            }
        }
    }

    /// Reads the node that starts with `event`. The parser bounds the depth.
    fn content(&mut self, event: Event<'a>, line: usize) -> Result<Content, SyntaxError> {
        if event.alias_id().is_some() || event.anchor_id().is_some() {
            let message = "anchors and aliases are not taken here, write the value out";
            return Err(SyntaxError::new(line, message));
        }
        if event.tag().is_some() {
            let message = "tags are not taken here, the option knows its type";
            return Err(SyntaxError::new(line, message));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if NULLS.contains(&text.as_ref()) => {
                Ok(Content::Value(RawValue::Unset))
            }
            Event::Scalar(text, ..) => Ok(Content::Value(RawValue::One(text.into_owned()))),
            Event::SequenceStart(..) => self.sequence(),
            Event::MappingStart(..) => self.mapping(),
            _ => Err(SyntaxError::new(line, "a value is expected")),
        }
    }

    fn sequence(&mut self) -> Result<Content, SyntaxError> {
        let mut items = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(Content::list(items));
            }
            items.push(self.content(event, line)?);
        }
    }

    fn mapping(&mut self) -> Result<Content, SyntaxError> {
        let mut entries: Vec<Entry> = Vec::new();
        // The first line of each key.
        let mut seen = BTreeMap::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(Content::Table(entries));
            }
            let Content::Value(RawValue::One(key)) = self.content(event, line)? else {
                return Err(SyntaxError::new(line, "a key has to be a text"));
            };
            let (event, value_line) = self.next()?;
            let content = self.content(event, value_line)?;
            if let Some(first) = seen.insert(key.clone(), line) {
                let message = format!("the key {key} stands on line {first} already");
                return Err(SyntaxError::new(line, message));
            }
            entries.push(Entry::new(&key, line, content));
        }
    }
}

fn line(span: Span) -> usize {
    span.start.line()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> SyntaxError {
        parse(text).unwrap_err()
    }

    #[test]
    fn nothing_comments_and_null_are_an_empty_file() {
        for text in ["", "# comment\n", "---\n", "~\n", "{}\n"] {
            assert_eq!(parse(text), Ok(vec![]), "{text:?}");
        }
    }

    #[test]
    fn plain_nulls_are_no_value_and_quoted_ones_are_texts() {
        for (text, expected) in [
            ("a:\n", RawValue::Unset),
            ("a: ~\n", RawValue::Unset),
            ("a: null # why\n", RawValue::Unset),
            ("a: ''\n", RawValue::One(String::new())),
            ("a: 'null'\n", RawValue::One("null".to_owned())),
            ("a: []\n", RawValue::Many(vec![])),
            (
                "a:\n- x\n- 'y'\n",
                RawValue::Many(vec!["x".to_owned(), "y".to_owned()]),
            ),
        ] {
            let entry = Entry::new("a", 1, Content::Value(expected));
            assert_eq!(parse(text), Ok(vec![entry]), "{text:?}");
        }
    }

    #[test]
    fn lists_of_anything_but_texts_are_nested() {
        for text in ["a: [[b]]", "a: [{b: c}]", "a: [b, ~]"] {
            assert_eq!(
                parse(text),
                Ok(vec![Entry::new("a", 1, Content::Nested)]),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_a_configuration_does_not_need_is_refused_with_its_line() {
        assert_eq!(error("a: 1\nb: &x 2\n").line, 2);
        assert_eq!(error("a: !include x\n").line, 1);
        assert_eq!(
            error("a: 1\n---\nb: 2\n").message,
            "one document is expected"
        );
        assert_eq!(error("- a\n").message, "keys with values are expected");
        assert_eq!(error("text\n").message, "keys with values are expected");
        assert_eq!(error("[a]: b\n").message, "a key has to be a text");
        let twice = error("a: 1\nb: 2\na: 3\n");
        assert_eq!(
            (twice.line, twice.message.as_str()),
            (3, "the key a stands on line 1 already")
        );
        assert!(parse("a: 'open\n").is_err());
    }

    #[test]
    fn deep_nesting_is_refused_and_not_followed() {
        let flow = format!("a: {}{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(parse(&flow).is_err());
        let block: String = (0..1000)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect();
        assert!(parse(&block).is_err());
    }
}
