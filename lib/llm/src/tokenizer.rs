//! Tokenizers from a Hugging Face `tokenizer.json`.
//!
//! Encoding is the `tokenizers` crate's; the release candidate of 1.0 is taken because it encodes
//! a hundred times faster than 0.22 and agrees with it on every golden test. It is pinned to the
//! exact version, and the golden tests are what allows to move the pin.
//!
//! Decoding is our own, token by token: a token's bytes depend on the token alone, plus one rule
//! for the first one (`piece`). That makes streaming cost the token and not the text.
//!
//! What differs from Python on purpose: bytes that are no UTF-8 are replaced as one maximal
//! invalid sequence each, where Python replaces a whole run of byte tokens, valid ones included.

mod boundary;
mod canonical;
mod piece;
mod pieces;

use dynamo_protocols::engine::TokenId;
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
use piece::PieceForm;
use pieces::Pieces;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

/// Size of a `tokenizer.json` beyond which it is not read: three times the largest known.
const MAX_FILE_BYTES: u64 = 128 << 20;

/// Tokens of a vocabulary: ten times as many as the largest known has. A file may give a token any
/// number, and each number below the largest takes memory.
const MAX_TOKENS: usize = 4 << 20;

/// What is encoded within half a millisecond, if it is text that people write: its words are met
/// again and again, and 150 to 300 MB/s are usual. Random letters take 60 ns each, 3 ms for as
/// much as this; that is the longest that anybody can hold up a thread with.
const QUICK_BYTES: usize = 48 * 1024;

/// A tokenizer that came as `tokenizer.json`.
pub struct HuggingFaceTokenizer {
    pipeline: PipelineTokenizer,
    form: PieceForm,
    pieces: Pieces,
    added: BTreeMap<TokenId, Added>,
    added_ids: HashMap<String, TokenId>,
    vocab_size: usize,
}

/// A token that was added beside the model's vocabulary: written out as it is.
struct Added {
    content: String,
    special: bool,
    /// Text may be cut before it.
    cuts: bool,
}

impl fmt::Debug for HuggingFaceTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HuggingFaceTokenizer")
            .field("vocab_size", &self.vocab_size)
            .field("added", &self.added.len())
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

impl HuggingFaceTokenizer {
    /// Loads a `tokenizer.json`, of the old format or of the new one.
    pub fn from_file(path: &Path) -> Result<Self, TokenizerError> {
        let failed = |reason: String| TokenizerError::Load(format!("{}: {reason}", path.display()));
        let size = std::fs::metadata(path)
            .map_err(|error| failed(error.to_string()))?
            .len();
        if size > MAX_FILE_BYTES {
            return Err(failed(format!(
                "{size} bytes is more than the limit of {MAX_FILE_BYTES}"
            )));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        Self::from_json(text).map_err(|error| match error {
            TokenizerError::Load(reason) => failed(reason),
            other => other,
        })
    }

    /// Loads the text of a `tokenizer.json`. Takes it by value to free it early: it is large.
    pub fn from_json(text: String) -> Result<Self, TokenizerError> {
        let canonical = canonical::canonicalise(&text)?;
        drop(text);
        let vocab_size = canonical.vocab_size;
        let pipeline = tokenizers::from_json(&canonical.text)
            .map_err(|error| TokenizerError::Load(error.to_string()))?;
        drop(canonical);
        let form = PieceForm::of(pipeline.get_decoder())?;
        let added = added(&pipeline);
        let added_ids = added
            .iter()
            .map(|(&id, token)| (token.content.clone(), id))
            .collect();
        let past_added = added.keys().next_back().map_or(0, |&id| id as usize + 1);
        let vocab_size = vocab_size.max(past_added);
        if vocab_size > MAX_TOKENS {
            return Err(TokenizerError::Load(format!(
                "token ids up to {vocab_size} are more than the limit of {MAX_TOKENS}"
            )));
        }
        let piece = |id| match added.get(&id) {
            Some(token) if form.byte_level => Some(token.content.clone().into_bytes()),
            Some(token) => Some(form.bytes(&token.content)),
            None => {
                let entry = pipeline.get_model().id_to_token(id)?;
                Some(form.bytes(&entry))
            }
        };
        Ok(Self {
            pieces: Pieces::new(vocab_size, piece),
            pipeline,
            form,
            added,
            added_ids,
            vocab_size,
        })
    }
}

fn added(pipeline: &PipelineTokenizer) -> BTreeMap<TokenId, Added> {
    let vocabulary = pipeline.get_added_vocabulary();
    let tokens: Vec<_> = vocabulary.get_added_tokens_decoder().into_iter().collect();
    let cutting = boundary::cutting(&tokens, !pipeline.get_normalizers().is_empty());
    let known = |(id, token): (TokenId, AddedToken)| {
        let added = Added {
            content: token.content,
            special: token.special,
            cuts: cutting.contains(&id),
        };
        (id, added)
    };
    tokens.into_iter().map(known).collect()
}

impl Tokenizer for HuggingFaceTokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError> {
        // Every option is spelled out: defaults differ between releases of the crate, and the
        // truncation or padding that some files ask for would change a prompt silently.
        let options = EncodeOptions {
            add_special_tokens,
            encode_special_tokens: false,
            padding: Override::Off,
            truncation: Override::Off,
        };
        let mut tokens: Vec<PipelineToken> = Vec::with_capacity(text.len() / 4 + 1);
        self.pipeline
            .encode_into(text, &options, &mut tokens)
            .map_err(|error| TokenizerError::Encode(error.to_string()))?;
        Ok(tokens.into_iter().map(PipelineToken::id).collect())
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        self.pieces.get(id).map(<[u8]>::to_vec)
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        let mut text: Vec<u8> = Vec::with_capacity(ids.len() * 4);
        let mut at_start = true;
        for &id in ids {
            if skip_special && self.is_special(id) {
                continue;
            }
            let Some(bytes) = self.token_bytes(id) else {
                continue;
            };
            let dropped = if at_start {
                self.form.dropped_from_first(&bytes)
            } else {
                0
            };
            at_start &= bytes.is_empty();
            text.extend_from_slice(&bytes[dropped..]);
        }
        Ok(String::from_utf8(text)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    fn token_to_id(&self, token: &str) -> Option<TokenId> {
        if let Some(&id) = self.added_ids.get(token) {
            return Some(id);
        }
        // The crate looks ids up by token only for added ones. A vocabulary entry encodes to
        // itself if it can be written as text at all.
        let mut candidates = vec![token.to_owned()];
        let bytes = self.form.bytes(token);
        candidates.extend(String::from_utf8(bytes));
        candidates.iter().find_map(|text| {
            let ids = self.encode(text, false).ok()?;
            let &[id] = ids.as_slice() else { return None };
            (self.pipeline.get_model().id_to_token(id)? == token).then_some(id)
        })
    }

    fn is_special(&self, id: TokenId) -> bool {
        self.added.get(&id).is_some_and(|token| token.special)
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn cuts_text(&self, id: TokenId) -> bool {
        self.added.get(&id).is_some_and(|token| token.cuts)
    }

    fn quick_bytes(&self) -> usize {
        QUICK_BYTES
    }
}
