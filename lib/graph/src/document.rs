//! YAML text becomes a tree of nodes, each with its line and column. Scalars keep the text they
//! were written as: what they mean is the schema's to say.
//!
//! Anchors, aliases and tags are refused: a graph says things plainly, and without aliases its
//! size bounds its meaning.

use crate::problem::{Mark, Problems};
use granit_parser::{Event, Marker, Options, Parser, ScalarStyle, StrInput};
use std::collections::BTreeMap;

/// Deepest nesting: a parameter of a component that is itself a mapping of mappings.
const MAX_DEPTH: usize = 24;

/// Longest file: thousands of components.
const MAX_BYTES: usize = 1 << 20;

/// The plain scalars that mean nothing.
const NULLS: [&str; 5] = ["", "~", "null", "Null", "NULL"];

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) content: Content,
}

/// What a value is, as far as its form tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    /// Nothing.
    Null,
    /// A text without quotes, which may be a number or a boolean.
    Plain(String),
    /// A text in quotes or a block.
    Quoted(String),
    /// Values in order.
    List(Vec<Node>),
    /// Keys with values, each key once, in the order of the file.
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) mark: Mark,
    pub(crate) node: Node,
}

// === impl Node ===

impl Node {
    /// The text of a scalar, in quotes or not.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Plain(text) | Content::Quoted(text) => Some(text),
            Content::Null | Content::List(_) | Content::Map(_) => None,
        }
    }

    /// The entries of a mapping; none of anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; none of anything else.
    pub(crate) fn items(&self) -> &[Self] {
        match &self.content {
            Content::List(items) => items,
            _ => &[],
        }
    }

    /// The value of a key.
    pub(crate) fn field(&self, key: &str) -> Option<&Self> {
        let found = self.entries().iter().find(|entry| entry.key == key);
        found.map(|entry| &entry.node)
    }

    /// What it is, with an article.
    pub(crate) fn described(&self) -> &'static str {
        match self.content {
            Content::Null => "no value",
            Content::Plain(_) | Content::Quoted(_) => "a text",
            Content::List(_) => "a list",
            Content::Map(_) => "a mapping",
        }
    }
}

/// Reads one document. Whatever cannot be read is a problem, and there is no tree then.
pub(crate) fn parse(text: &str, problems: &mut Problems) -> Option<Node> {
    if text.len() > MAX_BYTES {
        let message = format!("the file is longer than {MAX_BYTES} bytes: no graph needs that");
        problems.add(Mark { line: 1, column: 1 }, "", message);
        return None;
    }
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut reader = Reader {
        parser: Parser::new_from_str_with_options(text, options),
        repeated: Vec::new(),
    };
    let read = reader.document();
    for (mark, message) in reader.repeated {
        problems.add(mark, "", message);
    }
    match read {
        Ok(node) => Some(node),
        Err((mark, message)) => {
            problems.add(mark, "", message);
            None
        }
    }
}

type Refusal = (Mark, String);

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// Keys that stand twice: the first one counts, and reading goes on.
    repeated: Vec<Refusal>,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), Refusal> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, mark(&span.start))),
            Some(Err(error)) => {
                let message = format!(
                    "this is no YAML: {}; look here and above for a quote or a bracket without its other, or an indent that does not fit",
                    error.info()
                );
                Err((mark(error.marker()), message))
            }
            None => Ok((Event::StreamEnd, Mark { line: 1, column: 1 })),
        }
    }

    fn document(&mut self) -> Result<Node, Refusal> {
        let mut document = None;
        loop {
            let (event, mark) = self.next()?;
            match event {
                Event::StreamEnd => {
                    let empty = (Mark { line: 1, column: 1 }, "the file is empty".to_owned());
                    return document.ok_or(empty);
                }
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if document.is_some() => {
                    let message = "a second document begins here; one graph is one document";
                    return Err((mark, message.to_owned()));
                }
                event => document = Some(self.node(event, mark)?),
            }
        }
    }

    /// Reads the node that starts with `event`. The parser bounds the depth.
    fn node(&mut self, event: Event<'a>, mark: Mark) -> Result<Node, Refusal> {
        if event.alias_id().is_some() || event.anchor_id().is_some() {
            let message = "anchors and aliases are not taken here, write the value out";
            return Err((mark, message.to_owned()));
        }
        if event.tag().is_some() {
            let message = "tags are not taken here, each key knows its type";
            return Err((mark, message.to_owned()));
        }
        let content = match event {
            Event::Scalar(text, ScalarStyle::Plain, ..) if NULLS.contains(&text.as_ref()) => {
                Content::Null
            }
            Event::Scalar(text, ScalarStyle::Plain, ..) => Content::Plain(text.into_owned()),
            Event::Scalar(text, ..) => Content::Quoted(text.into_owned()),
            Event::SequenceStart(..) => Content::List(self.list()?),
            Event::MappingStart(..) => Content::Map(self.map()?),
            _ => return Err((mark, "a value is expected".to_owned())),
        };
        Ok(Node { mark, content })
    }

    fn list(&mut self) -> Result<Vec<Node>, Refusal> {
        let mut items = Vec::new();
        loop {
            let (event, mark) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.node(event, mark)?);
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, Refusal> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen: BTreeMap<String, Mark> = BTreeMap::new();
        loop {
            let (event, mark) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(entries);
            }
            let key = self.node(event, mark)?;
            let Some(key) = key.text().map(str::to_owned) else {
                return Err((mark, format!("{} is no key, a text is", key.described())));
            };
            let (event, value_mark) = self.next()?;
            let node = self.node(event, value_mark)?;
            if let Some(first) = seen.get(&key) {
                let message = format!(
                    "the key {key} stands on line {} already; keep one of them",
                    first.line
                );
                self.repeated.push((mark, message));
                continue;
            }
            seen.insert(key.clone(), mark);
            entries.push(Entry { key, mark, node });
        }
    }
}

fn mark(marker: &Marker) -> Mark {
    Mark {
        line: marker.line(),
        // The parser counts columns from 0.
        column: marker.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Node, String> {
        let mut problems = Problems::default();
        let node = parse(text, &mut problems);
        match problems.into_error("f") {
            Some(error) => Err(error.to_string()),
            None => Ok(node.unwrap()),
        }
    }

    #[test]
    fn nodes_have_their_places_and_texts_stay_as_written() {
        let node = read("version: 1.0\nimage: ...\nlist: [a, \"1\"]\n").unwrap();
        let version = node.field("version").unwrap();
        assert_eq!(version.content, Content::Plain("1.0".to_owned()));
        assert_eq!(
            version.mark,
            Mark {
                line: 1,
                column: 10
            }
        );
        assert_eq!(node.field("image").unwrap().text(), Some("..."));
        let list = node.field("list").unwrap().items();
        assert_eq!(list[1].content, Content::Quoted("1".to_owned()));
        assert_eq!(
            list[1].mark,
            Mark {
                line: 3,
                column: 11
            }
        );
    }

    #[test]
    fn what_is_no_plain_tree_is_refused_with_its_place() {
        for (text, said) in [
            ("", "f:1:1: the file is empty"),
            ("a: &x 1\n", "f:1:7: anchors and aliases"),
            ("a: !!int 1\n", "tags are not taken"),
            ("a: 1\n---\nb: 2\n", "a second document begins"),
            (
                "a: 1\nb: 2\na: 3\n",
                "f:3:1: the key a stands on line 1 already",
            ),
            ("[1]: 2\n", "a list is no key"),
            ("a: \"x\n", "f:"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(said), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_tree_or_a_problem(text in "[-a-c0:=\\[\\]{}'\"&*!|>#%,. \n\u{e9}]{0,80}") {
            let mut problems = Problems::default();
            let node = parse(&text, &mut problems);
            prop_assert!(node.is_some() || problems.into_error("f").is_some());
        }
    }
}
