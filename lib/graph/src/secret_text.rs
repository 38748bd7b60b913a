//! Values of environment variables: texts in which `${{ secrets.KEY }}` stands for a secret. The
//! secret itself is never here.

use crate::schema::form::is_variable;

const OPEN: &str = "${{";
const CLOSE: &str = "}}";
const PREFIX: &str = "secrets.";

/// A text with places for secrets.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretText {
    pieces: Vec<Piece>,
}

/// A part of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Text(String),
    /// The secret of this key.
    Secret(String),
}

// === impl SecretText ===

impl SecretText {
    /// Reads a text; the error says what is wrong with a reference.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(OPEN) {
            let Some((name, after)) = after.split_once(CLOSE) else {
                return Err(format!(
                    "has {OPEN} without {CLOSE}; write ${{{{ secrets.KEY }}}}"
                ));
            };
            let name = name.trim();
            let key = name.strip_prefix(PREFIX).filter(|key| is_variable(key));
            let Some(key) = key else {
                return Err(format!(
                    "refers to {name:?}; only secrets are referred to, as ${{{{ secrets.KEY }}}} with a KEY of letters, digits and _"
                ));
            };
            push_text(&mut pieces, before);
            pieces.push(Piece::Secret(key.to_owned()));
            rest = after;
        }
        push_text(&mut pieces, rest);
        Ok(Self { pieces })
    }

    /// A text without secrets.
    pub fn plain(text: impl Into<String>) -> Self {
        Self {
            pieces: vec![Piece::Text(text.into())],
        }
    }

    /// Its parts, in order.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// The keys of the secrets in it, in order.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Secret(key) => Some(key.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text, if no secret is in it.
    pub fn as_plain(&self) -> Option<&str> {
        match self.pieces.as_slice() {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text with what `of` makes of each part.
    pub fn written(&self, of: impl FnMut(&Piece) -> String) -> String {
        self.pieces.iter().map(of).collect()
    }

    /// The text as it may be shown: references stay references.
    pub fn shown(&self) -> String {
        self.written(|piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Secret(key) => format!("${{{{ {PREFIX}{key} }}}}"),
        })
    }
}

/// Whether a text has the beginning of a reference.
pub(crate) fn has_reference(text: &str) -> bool {
    text.contains(OPEN)
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    if !text.is_empty() {
        pieces.push(Piece::Text(text.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_found_anywhere_and_shown_as_references() {
        let text = SecretText::parse("Bearer ${{secrets.TOKEN}}, ${{ secrets.B }}").unwrap();
        assert_eq!(text.secrets().collect::<Vec<_>>(), ["TOKEN", "B"]);
        assert_eq!(
            text.shown(),
            "Bearer ${{ secrets.TOKEN }}, ${{ secrets.B }}"
        );
        assert_eq!(text.as_plain(), None);
        assert_eq!(
            SecretText::parse("$HOME ${x} }}").unwrap().as_plain(),
            Some("$HOME ${x} }}")
        );
        assert_eq!(SecretText::parse("").unwrap().as_plain(), Some(""));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for (text, said) in [
            ("${{ secrets.A", "without }}"),
            ("${{ env.A }}", "\"env.A\""),
            ("${{ secrets.A-B }}", "letters, digits and _"),
            ("${{ }}", "\"\""),
        ] {
            assert!(
                SecretText::parse(text).unwrap_err().contains(said),
                "{text}"
            );
        }
    }
}
