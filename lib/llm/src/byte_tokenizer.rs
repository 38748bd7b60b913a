//! A tokenizer without a vocabulary file: every byte is a token.
//!
//! It lets the echo engine and the tests run the whole pipeline with no model on disk. Ids 0 to
//! 255 are the bytes, then come BOS and EOS, which have a written form and no text.

use dynamo_protocols::engine::TokenId;
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};

/// One token per byte, plus BOS and EOS.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByteTokenizer;

impl ByteTokenizer {
    /// Id of the token that opens a raw completion prompt.
    pub const BOS: TokenId = 256;
    /// Id of the token that ends an answer.
    pub const EOS: TokenId = 257;
    /// Number of ids.
    pub const VOCAB_SIZE: usize = 258;
    /// Written form of [`Self::BOS`].
    pub const BOS_TEXT: &'static str = "<|bos|>";
    /// Written form of [`Self::EOS`].
    pub const EOS_TEXT: &'static str = "<|eos|>";
}

impl Tokenizer for ByteTokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() + 1);
        if add_special_tokens {
            ids.push(Self::BOS);
        }
        let mut rest = text;
        while !rest.is_empty() {
            let at = rest.find("<|").unwrap_or(rest.len());
            ids.extend(
                rest.as_bytes()[..at]
                    .iter()
                    .map(|&byte| TokenId::from(byte)),
            );
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix(Self::BOS_TEXT) {
                ids.push(Self::BOS);
                rest = after;
            } else if let Some(after) = rest.strip_prefix(Self::EOS_TEXT) {
                ids.push(Self::EOS);
                rest = after;
            } else if let Some(after) = rest.strip_prefix('<') {
                ids.push(TokenId::from(b'<'));
                rest = after;
            }
        }
        Ok(ids)
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        match id {
            Self::BOS => Some(Self::BOS_TEXT.into()),
            Self::EOS => Some(Self::EOS_TEXT.into()),
            byte => u8::try_from(byte).ok().map(|byte| vec![byte]),
        }
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        let kept = ids
            .iter()
            .filter(|&&id| !(skip_special && self.is_special(id)));
        let bytes: Vec<u8> = kept
            .filter_map(|&id| self.token_bytes(id))
            .flatten()
            .collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn token_to_id(&self, token: &str) -> Option<TokenId> {
        match token {
            Self::BOS_TEXT => Some(Self::BOS),
            Self::EOS_TEXT => Some(Self::EOS),
            _ => match token.as_bytes() {
                &[byte] => Some(TokenId::from(byte)),
                _ => None,
            },
        }
    }

    fn is_special(&self, id: TokenId) -> bool {
        id == Self::BOS || id == Self::EOS
    }

    fn vocab_size(&self) -> usize {
        Self::VOCAB_SIZE
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_special_tokens_become_one_id() {
        let ids = ByteTokenizer.encode("<|bos|>a<|b<|eos|>", false).unwrap();
        assert_eq!(ids, [256, 97, 60, 124, 98, 257]);
        assert_eq!(ByteTokenizer.decode(&ids, true).unwrap(), "a<|b");
        assert_eq!(
            ByteTokenizer.decode(&ids, false).unwrap(),
            "<|bos|>a<|b<|eos|>"
        );
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(text in ".*") {
            let ids = ByteTokenizer.encode(&text, true).unwrap();
            prop_assert_eq!(ids[0], ByteTokenizer::BOS);
            prop_assert_eq!(ByteTokenizer.decode(&ids[1..], false).unwrap(), text);
        }
    }
}
