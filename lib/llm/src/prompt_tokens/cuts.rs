//! Where a text is cut into pieces.
//!
//! Invariant: where a cut is depends on the text before it, and on the token that begins there,
//! alone. Texts with a common beginning are cut alike as far as it goes.

use memchr::{memchr, memchr2, memchr3};
use std::collections::BTreeSet;

/// Shortest piece. Finding one costs some hundred nanoseconds; tokenising this much takes a few
/// microseconds, and it is more than what is kept beside it.
const LEAST_PIECE_BYTES: usize = 512;

/// A piece is at least this part of what is before it, so that a text of megabytes has a few
/// hundred pieces. As much of a text may be tokenised again.
const LEAST_PIECE_SHARE: usize = 32;

/// Texts before which a text is cut.
#[derive(Debug)]
pub(super) struct Cuts {
    tokens: Vec<String>,
    /// What they begin with: one to three different bytes.
    first: Vec<u8>,
}

impl Cuts {
    /// Cuts before these texts; none if there are none, or if more than three bytes begin one: no
    /// template known does that, and looking for three is quick.
    pub(super) fn new(tokens: BTreeSet<String>) -> Option<Self> {
        let tokens: Vec<String> = tokens.into_iter().filter(|it| !it.is_empty()).collect();
        let mut first: Vec<u8> = tokens.iter().map(|token| token.as_bytes()[0]).collect();
        first.dedup();
        (1..=3)
            .contains(&first.len())
            .then_some(Self { tokens, first })
    }

    /// Where the piece that begins at `start` ends; none if the text has no cut far enough on.
    pub(super) fn next(&self, text: &str, start: usize) -> Option<usize> {
        let text = text.as_bytes();
        let mut at = start + LEAST_PIECE_BYTES.max(start / LEAST_PIECE_SHARE);
        loop {
            let rest = text.get(at..)?;
            at += match *self.first {
                [one] => memchr(one, rest),
                [one, two] => memchr2(one, two, rest),
                [one, two, three, ..] => memchr3(one, two, three, rest),
                [] => None,
            }?;
            let rest = &text[at..];
            if self.tokens.iter().any(|it| rest.starts_with(it.as_bytes())) {
                return Some(at);
            }
            at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(tokens: &[&str]) -> Option<Cuts> {
        Cuts::new(tokens.iter().map(|&token| token.to_owned()).collect())
    }

    #[test]
    fn a_piece_ends_before_the_first_token_that_is_far_enough() {
        let cuts = cuts(&["<a>", "<b>", "[c]"]).unwrap();
        let long = "x".repeat(LEAST_PIECE_BYTES);
        let text = format!("<a>{long}<<a><b>{long}[c]{long}<a");
        let first = 3 + LEAST_PIECE_BYTES + 1;
        assert_eq!(cuts.next(&text, 0), Some(first));
        let second = first + 6 + LEAST_PIECE_BYTES;
        assert_eq!(cuts.next(&text, first), Some(second));
        assert_eq!(cuts.next(&text, second), None);
        assert_eq!(cuts.next("", 0), None);
    }

    #[test]
    fn pieces_grow_with_the_text_and_stay_few() {
        let cuts = cuts(&["<a>"]).unwrap();
        let text = "<a>".repeat(1 << 20);
        let ends = std::iter::successors(Some(0), |&start| cuts.next(&text, start));
        let count = ends.count();
        assert!((100..500).contains(&count), "{count}");
    }

    #[test]
    fn nothing_to_cut_before_and_too_much_are_refused() {
        assert!(cuts(&[]).is_none());
        assert!(cuts(&["a", "b", "c", "d"]).is_none());
    }
}
