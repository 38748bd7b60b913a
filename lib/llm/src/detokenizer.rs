//! Token ids to text as they come: what may be shown now, and whether a stop string was met.
//!
//! Invariants
//! - Pushes plus [`Detokenizer::finish`], joined, equal the tokenizer's `decode` of all ids, cut
//!   at the stop string. No push emits a part of a character.
//! - The result does not depend on how the text was split into tokens: the stop string that ends
//!   first in the text wins, and among those that end at the same byte the longest.
//! - A push costs its token's length times the number of stop strings; nothing is decoded twice.
//! - What is withheld is bounded: three bytes of an unfinished character, and less than the
//!   longest stop string.

mod stop;

use dynamo_protocols::engine::TokenId;
use dynamo_protocols::tokenizer::Tokenizer;
use std::fmt;
use std::sync::Arc;
use stop::StopMatcher;

/// How to turn ids into text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DetokenizerOptions {
    /// Leave special tokens out of the text.
    pub skip_special_tokens: bool,
    /// Strings that end the text; empty ones are ignored.
    pub stop_strings: Vec<String>,
    /// Keep the stop string at the end of the text.
    pub include_stop_string: bool,
    /// Text of the first `min_tokens` tokens is not searched for stop strings.
    pub min_tokens: u32,
}

/// What one token added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Text that may be shown now; often empty.
    pub text: String,
    /// The stop string that ended the text, as an index into the options' list. Set on the push
    /// that met it and on every later one.
    pub stop: Option<usize>,
}

/// Incremental detokenizer of one sequence.
pub struct Detokenizer {
    tokenizer: Arc<dyn Tokenizer>,
    skip_special_tokens: bool,
    include_stop_string: bool,
    matcher: StopMatcher,
    /// Tokens whose text is still exempt from stop strings.
    exempt_tokens: u32,
    /// Whether the next text is the first: some vocabularies drop its leading space.
    at_start: bool,
    /// The bytes of an unfinished character.
    partial: Vec<u8>,
    /// Text that may turn out to be the beginning of a stop string.
    withheld: String,
    stopped: Option<usize>,
}

impl fmt::Debug for Detokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The texts stay out: debug output ends up in logs.
        f.debug_struct("Detokenizer")
            .field("partial_bytes", &self.partial.len())
            .field("withheld_bytes", &self.withheld.len())
            .field("stopped", &self.stopped)
            .finish_non_exhaustive()
    }
}

impl Detokenizer {
    /// A detokenizer at the beginning of a sequence.
    pub fn new(tokenizer: Arc<dyn Tokenizer>, options: DetokenizerOptions) -> Self {
        let DetokenizerOptions {
            skip_special_tokens,
            stop_strings,
            include_stop_string,
            min_tokens,
        } = options;
        Self {
            tokenizer,
            skip_special_tokens,
            include_stop_string,
            matcher: StopMatcher::new(&stop_strings),
            exempt_tokens: min_tokens,
            at_start: true,
            partial: Vec::new(),
            withheld: String::new(),
            stopped: None,
        }
    }

    /// Takes the next token. After a stop string it adds nothing.
    pub fn push(&mut self, id: TokenId) -> Decoded {
        if self.stopped.is_none() {
            let searched = self.exempt_tokens == 0;
            self.exempt_tokens = self.exempt_tokens.saturating_sub(1);
            let text = self.text_of(id);
            let text = self.emit(&text, searched);
            return Decoded {
                text,
                stop: self.stopped,
            };
        }
        Decoded {
            text: String::new(),
            stop: self.stopped,
        }
    }

    /// Ends the sequence: what was withheld, an unfinished character replaced. Empty after a stop
    /// string.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let rest = std::mem::take(&mut self.partial);
        let mut text = self.emit(&String::from_utf8_lossy(&rest), self.exempt_tokens == 0);
        if self.stopped.is_none() {
            text.push_str(&std::mem::take(&mut self.withheld));
        }
        text
    }

    /// Which stop string ended the text.
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// The whole characters that the token completes.
    fn text_of(&mut self, id: TokenId) -> String {
        if self.skip_special_tokens && self.tokenizer.is_special(id) {
            return String::new();
        }
        let Some(bytes) = self.tokenizer.token_bytes(id) else {
            return String::new();
        };
        let skipped = if self.at_start {
            self.dropped_from_first(id, &bytes)
        } else {
            0
        };
        self.at_start &= bytes.is_empty();
        self.partial.extend_from_slice(&bytes[skipped..]);
        take_characters(&mut self.partial)
    }

    /// Sentencepiece writes a space before the first word and takes it away again when decoding.
    /// How much this vocabulary takes away shows in how it decodes the first token alone.
    fn dropped_from_first(&self, id: TokenId, bytes: &[u8]) -> usize {
        let spaces = bytes.iter().take_while(|&&byte| byte == b' ').count();
        if spaces == 0 {
            return 0;
        }
        let Ok(decoded) = self.tokenizer.decode(&[id], false) else {
            return 0;
        };
        let kept = decoded.bytes().take_while(|&byte| byte == b' ').count();
        spaces.saturating_sub(kept)
    }

    fn emit(&mut self, text: &str, searched: bool) -> String {
        let before = self.withheld.len();
        self.withheld.push_str(text);
        if !searched {
            return std::mem::take(&mut self.withheld);
        }
        if let Some(found) = self.matcher.feed(text.as_bytes()) {
            self.stopped = Some(found.index);
            let mut shown = std::mem::take(&mut self.withheld);
            let end = before + found.end;
            shown.truncate(if self.include_stop_string {
                end
            } else {
                end - found.len
            });
            return shown;
        }
        let keep = if self.include_stop_string {
            0
        } else {
            self.matcher.longest_partial()
        };
        let rest = self.withheld.split_off(self.withheld.len() - keep);
        std::mem::replace(&mut self.withheld, rest)
    }
}

/// Takes the whole characters out of `bytes`, invalid sequences replaced as
/// [`String::from_utf8_lossy`] would, and leaves the beginning of an unfinished one.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::with_capacity(bytes.len());
    let mut done = 0;
    loop {
        match std::str::from_utf8(&bytes[done..]) {
            Ok(rest) => {
                text.push_str(rest);
                bytes.clear();
                return text;
            }
            Err(error) => {
                let valid = done + error.valid_up_to();
                // The prefix was just found valid; the lossy form borrows it.
                text.push_str(&String::from_utf8_lossy(&bytes[done..valid]));
                let Some(invalid) = error.error_len() else {
                    bytes.drain(..valid);
                    return text;
                };
                text.push(char::REPLACEMENT_CHARACTER);
                done = valid + invalid;
            }
        }
    }
}

#[cfg(test)]
mod tests;
