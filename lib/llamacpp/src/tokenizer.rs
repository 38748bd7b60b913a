//! The vocabulary inside a GGUF file, through llama.cpp's own tokenizer.
//!
//! For models that come without a tokenizer.json. Only the vocabulary is loaded, not the weights.
//!
//! Invariant: no text is given two BOS tokens: one that is written out at its start counts.

use crate::error::LoadError;
use crate::model::Model;
use dynamo_protocols::engine::TokenId;
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token_type::LlamaTokenAttr;
use llama_cpp_2::vocab::LlamaVocab;
use std::collections::HashMap;
use std::fmt;
use std::path::Path;

/// Longest text that is tokenized: llama.cpp counts bytes in 32 bits and panics beyond.
const MAX_TEXT_BYTES: usize = 1 << 30;

/// A tokenizer from a GGUF file.
pub struct GgufTokenizer {
    model: Model,
    ids: HashMap<Vec<u8>, TokenId>,
}

impl GgufTokenizer {
    /// Reads the vocabulary of a GGUF file.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let model = Model::load(path, true)?;
        let mut ids = HashMap::new();
        for token in model.llama.vocab().tokens() {
            if let (Some(text), Ok(id)) =
                (model.llama.vocab().text(token), TokenId::try_from(token.0))
            {
                ids.entry(text.to_bytes().to_vec()).or_insert(id);
            }
        }
        Ok(Self { model, ids })
    }

    /// The model's begin-of-sequence token.
    pub fn bos(&self) -> Option<TokenId> {
        TokenId::try_from(self.vocab().bos().0).ok()
    }

    /// The tokens that end a sequence.
    pub fn end_of_sequence(&self) -> Vec<TokenId> {
        let vocab = self.vocab();
        vocab
            .tokens()
            .filter(|&token| vocab.is_eog(token))
            .filter_map(|token| TokenId::try_from(token.0).ok())
            .collect()
    }

    fn vocab(&self) -> LlamaVocab<'_> {
        self.model.llama.vocab()
    }

    /// llama.cpp reads its tables without checking ids.
    fn known(&self, id: TokenId) -> Option<LlamaToken> {
        let known = (id as usize) < self.model.facts.vocab_size;
        known.then(|| i32::try_from(id).ok().map(LlamaToken))?
    }
}

impl fmt::Debug for GgufTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GgufTokenizer")
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

impl Tokenizer for GgufTokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::Encode(format!(
                "{} bytes are more than the {MAX_TEXT_BYTES} that are taken",
                text.len()
            )));
        }
        let tokens = self
            .vocab()
            .tokenize(text.as_bytes(), add_special_tokens, true);
        let doubled = match tokens.as_slice() {
            [first, second, ..] => add_special_tokens && first == second,
            _ => false,
        };
        let bos = self.vocab().bos();
        let skip = usize::from(doubled && tokens[0] == bos);
        tokens[skip..]
            .iter()
            .map(|token| {
                TokenId::try_from(token.0)
                    .map_err(|_| TokenizerError::Encode("llama.cpp gave a negative id".into()))
            })
            .collect()
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        let token = self.known(id)?;
        Some(self.vocab().token_to_piece(token, true, None))
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        let mut tokens = Vec::with_capacity(ids.len());
        for &id in ids {
            let token = self
                .known(id)
                .ok_or_else(|| TokenizerError::Decode(format!("{id} is not in the vocabulary")))?;
            if !(skip_special && self.is_special(id)) {
                tokens.push(token);
            }
        }
        if tokens.is_empty() {
            return Ok(String::new());
        }
        let bytes = self.vocab().detokenize(&tokens, false, true);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.ids.get(token.as_bytes()).copied()
    }

    fn is_special(&self, id: TokenId) -> bool {
        let Some(token) = self.known(id) else {
            return false;
        };
        let attributes = self.vocab().attr(token);
        attributes.contains(LlamaTokenAttr::Control) || attributes.contains(LlamaTokenAttr::Unknown)
    }

    fn vocab_size(&self) -> usize {
        self.model.facts.vocab_size
    }
}
