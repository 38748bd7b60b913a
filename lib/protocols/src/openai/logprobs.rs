//! Log probabilities as the two completion APIs write them.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

/// The least log probability on the wire: JSON has no negative infinity.
pub const LEAST_LOGPROB: f32 = -9999.0;

/// A generated token and its alternatives, in the chat API's form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenLogprob {
    /// The token's text, bytes that are not UTF-8 replaced.
    pub token: String,
    /// Its log probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Option<Vec<u8>>,
    /// The most likely tokens.
    pub top_logprobs: Vec<TopLogprob>,
    /// Where it starts in the choice's text, in characters; for plain completions.
    #[serde(skip)]
    pub text_offset: usize,
}

/// An alternative.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopLogprob {
    /// The token's text, bytes that are not UTF-8 replaced.
    pub token: String,
    /// Its log probability.
    pub logprob: f32,
    /// Its bytes.
    pub bytes: Option<Vec<u8>>,
}

/// Log probabilities in the plain completions API's form: one list per property.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CompletionLogprobs<'a>(pub &'a [TokenLogprob]);

/// Serialises an iterator as a list.
struct List<I>(I);

/// Alternatives as a map from token to log probability.
struct TopMap<'a>(&'a TokenLogprob);

impl Serialize for CompletionLogprobs<'_> {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let entries = self.0;
        let mut map = output.serialize_map(Some(4))?;
        map.serialize_entry("tokens", &List(entries.iter().map(|entry| &entry.token)))?;
        map.serialize_entry(
            "token_logprobs",
            &List(entries.iter().map(|entry| entry.logprob)),
        )?;
        if entries.iter().all(|entry| entry.top_logprobs.is_empty()) {
            map.serialize_entry("top_logprobs", &())?;
        } else {
            map.serialize_entry("top_logprobs", &List(entries.iter().map(TopMap)))?;
        }
        map.serialize_entry(
            "text_offset",
            &List(entries.iter().map(|entry| entry.text_offset)),
        )?;
        map.end()
    }
}

impl<I> Serialize for List<I>
where
    I: Iterator + Clone,
    I::Item: Serialize,
{
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        output.collect_seq(self.0.clone())
    }
}

impl Serialize for TopMap<'_> {
    fn serialize<S: Serializer>(&self, output: S) -> Result<S::Ok, S::Error> {
        let top = &self.0.top_logprobs;
        // Two ids may have one text: the more likely one, which comes first, is kept.
        let first = |i: usize| !top[..i].iter().any(|earlier| earlier.token == top[i].token);
        output.collect_map(
            (0..top.len())
                .filter(|i| first(*i))
                .map(|i| (&top[i].token, top[i].logprob)),
        )
    }
}
