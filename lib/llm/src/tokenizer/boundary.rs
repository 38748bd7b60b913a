//! Before which added tokens a text may be cut, so that both halves encode to what the whole does.
//!
//! Added tokens are taken out of a text first: those that are matched as written from the text as
//! it came, then the others from the normalised text between them. What lies between is normalised
//! and tokenised by itself. A text may therefore be cut before a token's written form if the search
//! is sure to stop there, whatever stands before and behind:
//!
//! - No match begins earlier and reaches into it: its first byte is in no added token but as the
//!   first.
//! - A token that is searched after normalisation is still as written then (nothing is
//!   normalised), and none of those that are searched before it begins within it.
//! - No token takes in spaces on its left, or looks at the neighbours of a match: either may
//!   depend on what the cut takes away. One that does forbids all cuts.
//!
//! Rules that treat the beginning of a text otherwise (a space that is put before the first word)
//! see no difference: the second half begins with the token.

use dynamo_protocols::engine::TokenId;
use std::collections::BTreeSet;
use tokenizers::vocab::bucket_added_vocabulary::AddedToken;

/// The tokens before which any text may be cut.
pub(super) fn cutting(tokens: &[(TokenId, AddedToken)], normalises: bool) -> BTreeSet<TokenId> {
    if tokens
        .iter()
        .any(|(_, token)| token.lstrip || token.single_word)
    {
        return BTreeSet::new();
    }
    let mut inside = [false; 256];
    let mut first_of_raw = [false; 256];
    for (_, token) in tokens {
        let bytes = token.content.as_bytes();
        for byte in bytes.iter().skip(1) {
            inside[usize::from(*byte)] = true;
        }
        if let (Some(first), false) = (bytes.first(), token.normalized) {
            first_of_raw[usize::from(*first)] = true;
        }
    }
    let cuts = |token: &AddedToken| {
        let Some((first, rest)) = token.content.as_bytes().split_first() else {
            return false;
        };
        let kept_whole = !token.normalized
            || (!normalises && !rest.iter().any(|byte| first_of_raw[usize::from(*byte)]));
        // A token before it may take in the spaces on its own right.
        kept_whole
            && !inside[usize::from(*first)]
            && !token.content.starts_with(char::is_whitespace)
    };
    tokens
        .iter()
        .filter(|(_, token)| cuts(token))
        .map(|(id, _)| *id)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(content: &str) -> AddedToken {
        AddedToken::from(content, true)
    }

    fn cut(tokens: &[AddedToken], normalises: bool) -> Vec<&str> {
        let numbered: Vec<(TokenId, AddedToken)> = (0..).zip(tokens.iter().cloned()).collect();
        cutting(&numbered, normalises)
            .into_iter()
            .map(|id| tokens[id as usize].content.as_str())
            .collect()
    }

    #[test]
    fn tokens_that_nothing_reaches_into_cut() {
        let tokens = [
            raw("<s>"),
            raw("<s>x"),
            raw("</s>"),
            raw("[INST]"),
            raw("\n\n"),
        ];
        assert_eq!(cut(&tokens, true), ["<s>", "<s>x", "</s>", "[INST]"]);
    }

    #[test]
    fn a_token_that_another_may_overlap_does_not_cut() {
        assert_eq!(cut(&[raw("<s>"), raw("ab<"), raw("b")], false), ["ab<"; 1]);
        assert_eq!(cut(&[raw("<<"), raw("x")], false), ["x"]);
    }

    #[test]
    fn a_token_searched_after_normalisation_cuts_only_if_nothing_can_change_it() {
        let normalised = || raw("<u>").normalized(true);
        assert_eq!(cut(&[normalised(), raw("<s>")], false), ["<u>", "<s>"]);
        assert_eq!(cut(&[normalised(), raw("<s>")], true), ["<s>"]);
        assert_eq!(cut(&[normalised(), raw("u!")], false), [""; 0]);
    }

    #[test]
    fn a_token_that_looks_around_itself_forbids_all_cuts() {
        assert_eq!(cut(&[raw("<s>"), raw("<m>").lstrip(true)], false), [""; 0]);
        assert_eq!(
            cut(&[raw("<s>"), raw("<m>").single_word(true)], false),
            [""; 0]
        );
        assert_eq!(cut(&[raw("<s>").rstrip(true), raw(" x")], false), ["<s>"]);
    }
}
