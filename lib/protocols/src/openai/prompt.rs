//! A prompt in any of its four forms: text, texts, token ids, or lists of token ids.

use crate::engine::TokenId;
use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use std::fmt;

/// What to complete or embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One sequence of token ids.
    Tokens(Vec<TokenId>),
    /// Several sequences of token ids.
    TokenLists(Vec<Vec<TokenId>>),
}

/// One or several strings, as `stop` takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Strings(pub Vec<String>);

/// The first item of a list decides what the rest must be.
enum First {
    Text(String),
    Token(TokenId),
    Tokens(Vec<TokenId>),
}

const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

// === impl Prompt ===

impl Prompt {
    /// Number of prompts.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// Whether there is no prompt at all. One empty text is a prompt.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct PromptVisitor;

        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
                match seq.next_element::<First>()? {
                    None => Ok(Prompt::Texts(Vec::new())),
                    Some(First::Text(text)) => rest(seq, text).map(Prompt::Texts),
                    Some(First::Token(id)) => rest(seq, id).map(Prompt::Tokens),
                    Some(First::Tokens(ids)) => rest(seq, ids).map(Prompt::TokenLists),
                }
            }
        }

        input.deserialize_any(PromptVisitor)
    }
}

fn rest<'de, A, T>(mut seq: A, first: T) -> Result<Vec<T>, A::Error>
where
    A: SeqAccess<'de>,
    T: Deserialize<'de>,
{
    let mut items = vec![first];
    while let Some(item) = seq.next_element()? {
        items.push(item);
    }
    Ok(items)
}

// === impl First ===

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct FirstVisitor;

        impl<'de> Visitor<'de> for FirstVisitor {
            type Value = First;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token id, or a list of token ids")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<First, E> {
                Ok(First::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, id: u64) -> Result<First, E> {
                TokenId::try_from(id).map(First::Token).map_err(|_| {
                    E::invalid_value(serde::de::Unexpected::Unsigned(id), &"a token id")
                })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<First, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(First::Tokens(ids))
            }
        }

        input.deserialize_any(FirstVisitor)
    }
}

// === impl Strings ===

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct StringsVisitor;

        impl<'de> Visitor<'de> for StringsVisitor {
            type Value = Strings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Strings, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = seq.next_element()? {
                    texts.push(text);
                }
                Ok(Strings(texts))
            }
        }

        input.deserialize_any(StringsVisitor)
    }
}
