//! The tokenizer trait: text to token ids and back.
//!
//! It stands here because engines bring vocabularies of their own (a GGUF file without a
//! tokenizer.json) while the pipeline that uses them must not know any engine.

use crate::engine::TokenId;
use std::fmt;

/// What a slow tokenizer encodes within half a millisecond, at 10 MB/s.
const QUICK_BYTES: usize = 4 * 1024;

/// Why text could not be turned into tokens or back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The tokenizer files are missing or malformed.
    #[error("cannot load the tokenizer: {0}")]
    Load(String),
    /// The text could not be encoded.
    #[error("cannot encode the text: {0}")]
    Encode(String),
    /// The ids could not be decoded.
    #[error("cannot decode the token ids: {0}")]
    Decode(String),
}

/// Turns text into token ids and token ids into bytes.
///
/// Implementations are pure, deterministic and safe to call from many threads at once.
pub trait Tokenizer: Send + Sync + fmt::Debug {
    /// Encodes text. Special tokens written out in the text are recognised. With
    /// `add_special_tokens` the model's own prefix and suffix (such as BOS) are added, as for a
    /// raw completion prompt; a rendered chat template already contains them.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError>;

    /// The bytes that a token contributes to the text, not necessarily whole characters, or
    /// `None` for an id outside the vocabulary. Special tokens yield their written form.
    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>>;

    /// Decodes a sequence as a whole, bytes that are not UTF-8 replaced. `skip_special` leaves
    /// special tokens out.
    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError>;

    /// The id of a token by its exact written form.
    fn token_to_id(&self, token: &str) -> Option<TokenId>;

    /// Whether the token is a special one: part of the protocol rather than of the text.
    fn is_special(&self, id: TokenId) -> bool;

    /// Number of ids, special ones included.
    fn vocab_size(&self) -> usize;

    /// Whether any text may be cut directly before each place where this token's written form
    /// stands in it: both halves, encoded without the model's own prefix and suffix, give what the
    /// whole gives.
    fn cuts_text(&self, _id: TokenId) -> bool {
        false
    }

    /// Bytes of usual text that it encodes within half a millisecond, as long as async code may
    /// block.
    fn quick_bytes(&self) -> usize {
        QUICK_BYTES
    }
}
