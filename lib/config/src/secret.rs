//! Texts that are never shown: not in logs, not in errors, not by `--print-config`.

use crate::value::{Kind, Scalar};
use std::fmt;

/// What stands in the place of a secret.
const MASK: &str = "<set>";

/// A secret text. It has no `Display` and no comparison: keys are compared in constant time by
/// whoever checks them.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Scalar for Secret {
    const KIND: Kind = Kind::Secret;
    const FORM: &'static str = "a secret text that is not empty";
    const EXAMPLE: &'static str = "";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        match text {
            "" => Err(None),
            MASK => Err(Some(format!(
                "{MASK} is printed in the place of a secret, write the secret there"
            ))),
            _ => Ok(Self::new(text)),
        }
    }

    fn print(&self) -> String {
        MASK.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_only_that_it_is_set() {
        let secret = Secret::parse("hunter2").unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert_eq!(format!("{secret:?}"), "<set>");
        assert_eq!(secret.print(), "<set>");
    }

    #[test]
    fn a_printed_secret_is_not_taken_for_a_secret() {
        assert!(Secret::parse("<set>").is_err());
        assert!(Secret::parse("").is_err());
    }
}
