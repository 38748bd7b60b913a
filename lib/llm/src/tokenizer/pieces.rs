//! The bytes of every token of a vocabulary, in one piece of memory: an answer asks for them token
//! by token, and working them out costs more than the rest of detokenising.

use dynamo_protocols::engine::TokenId;
use std::collections::BTreeSet;

/// See the module's description.
pub(super) struct Pieces {
    bytes: Box<[u8]>,
    /// Where each token's bytes end, and the next one's begin.
    ends: Box<[u32]>,
    /// Numbers below the vocabulary's size that no token has.
    missing: BTreeSet<TokenId>,
}

impl Pieces {
    /// The tokens from 0 on, as `piece` gives them.
    pub(super) fn new(count: usize, mut piece: impl FnMut(TokenId) -> Option<Vec<u8>>) -> Self {
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(count);
        let mut missing = BTreeSet::new();
        for id in (0..).take(count) {
            match piece(id) {
                Some(piece) => bytes.extend_from_slice(&piece),
                None => drop(missing.insert(id)),
            }
            ends.push(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Self {
            bytes: bytes.into_boxed_slice(),
            ends: ends.into_boxed_slice(),
            missing,
        }
    }

    /// The bytes of a token, if there is such a token.
    pub(super) fn get(&self, id: TokenId) -> Option<&[u8]> {
        let at = id as usize;
        let end = *self.ends.get(at)? as usize;
        let start = at
            .checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize);
        if start == end && self.missing.contains(&id) {
            return None;
        }
        self.bytes.get(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_has_its_own_bytes_and_what_is_missing_has_none() {
        let tokens = [Some("a"), None, Some(""), Some("bcd")];
        let pieces = Pieces::new(4, |id| tokens[id as usize].map(|it| it.as_bytes().to_vec()));
        for (id, token) in (0..).zip(tokens) {
            assert_eq!(pieces.get(id), token.map(str::as_bytes), "{id}");
        }
        assert_eq!(pieces.get(4), None);
        assert_eq!(Pieces::new(0, |_| None).get(0), None);
    }
}
