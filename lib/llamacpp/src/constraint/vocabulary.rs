//! The vocabulary as the matcher needs it: the bytes of each token, and the tokens that end an
//! answer.
//!
//! Special tokens get a mark before their bytes that no text contains, so that no constraint is
//! ever matched by one of them.

use crate::model::Model;
use dynamo_protocols::engine::TokenId;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, api::ParserLimits};
use std::sync::Arc;

/// Longest token that may be used, in bytes: the trie's nodes count the bytes above them in ten
/// bits.
const MAX_TOKEN_BYTES: usize = 1_000;

/// Items of the parser for one mask. Real schemas take hundreds; at this many a mask takes some
/// milliseconds, which only its own answer waits for.
const MAX_STEP_ITEMS: usize = 50_000;

/// Work of the lexer for one mask: about 15 ms.
const MAX_STEP_FUEL: u64 = 200_000;

/// States of the lexer of one answer, each about 2 kB: bounds the memory of a running constraint.
const MAX_LEXER_STATES: usize = 20_000;

/// Symbols of a compiled grammar. The largest schemas in use have about twice as many.
const MAX_GRAMMAR_SYMBOLS: usize = 100_000;

/// Tokens' bytes, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Vocabulary {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    /// Tokens that end an answer.
    last: Vec<TokenId>,
}

impl Vocabulary {
    /// Reads a loaded model's vocabulary.
    pub(crate) fn read(model: &Model) -> Self {
        let vocab = model.llama.vocab();
        let mut read = Self::default();
        for token in vocab.tokens() {
            let attributes = vocab.attr(token);
            let is_special = [
                LlamaTokenAttr::Control,
                LlamaTokenAttr::Unknown,
                LlamaTokenAttr::Unused,
            ];
            let is_special = is_special.iter().any(|it| attributes.contains(*it));
            let piece = vocab.token_to_piece(token, true, None);
            let is_end = vocab.is_eog(token);
            if is_end && let Ok(id) = TokenId::try_from(token.0) {
                read.last.push(id);
            }
            read.push(&piece, is_special || is_end);
        }
        read
    }

    fn push(&mut self, piece: &[u8], is_special: bool) {
        if piece.len() <= MAX_TOKEN_BYTES && !piece.is_empty() {
            self.bytes
                .extend(is_special.then_some(TokTrie::SPECIAL_TOKEN_MARKER));
            self.bytes.extend_from_slice(piece);
        }
        self.ends.push(self.bytes.len());
    }

    /// Whether answers can be constrained at all: without a token that ends an answer none could
    /// be complete.
    pub(crate) fn is_usable(&self) -> bool {
        !self.last.is_empty()
    }

    /// What makes matchers for this vocabulary. Takes part of a second.
    pub(crate) fn factory(&self) -> Result<ParserFactory, String> {
        let mut start = 0;
        let mut words = Vec::with_capacity(self.ends.len());
        for &end in &self.ends {
            words.push(self.bytes[start..end].to_vec());
            start = end;
        }
        let size = u32::try_from(words.len()).unwrap_or(u32::MAX);
        let first = self.last.first().copied().unwrap_or_default();
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words);
        let trie = trie.with_eos_tokens(&self.last);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory =
            ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
        factory.quiet();
        *factory.limits_mut() = ParserLimits {
            step_max_items: MAX_STEP_ITEMS,
            step_lexer_fuel: MAX_STEP_FUEL,
            max_lexer_states: MAX_LEXER_STATES,
            max_grammar_size: MAX_GRAMMAR_SYMBOLS,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        Ok(factory)
    }
}
