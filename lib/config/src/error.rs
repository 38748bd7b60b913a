//! What is wrong with a configuration: every problem at once, each with its place and its cure.

use crate::resolve::Source;
use crate::value::ValueError;
use std::fmt;

/// Longest part of a bad value that a message shows, in characters.
const MAX_SHOWN: usize = 80;

/// Every problem of a configuration, in the order of the options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The problems; at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// One problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// A source gives an option a value it cannot have.
    #[error("{key} ({place}): {} {error}", shown(.value.as_deref()))]
    Value {
        /// The option.
        key: String,
        /// Where the value stands.
        place: Source,
        /// The value as given, unless it is secret.
        value: Option<String>,
        /// What is wrong with it.
        error: ValueError,
    },
    /// No source gives a value to an option that needs one.
    #[error("{key} has no value; give it as {ways}")]
    Required {
        /// The option.
        key: String,
        /// Every way to give it.
        ways: String,
    },
    /// A file holds a key that no option has.
    #[error("unknown key {key} ({place}){}", suggestion(.nearest.as_deref()))]
    UnknownKey {
        /// The key as written, with its group.
        key: String,
        /// Where it stands.
        place: Source,
        /// The known key it most likely means, with its group if it needs one.
        nearest: Option<String>,
    },
    /// A file gives an option twice.
    #[error("{key} ({place}) stands on line {first} already; keep one of them")]
    Duplicate {
        /// The option.
        key: String,
        /// Where it stands for the second time.
        place: Source,
        /// The line where it stands first.
        first: usize,
    },
    /// A file holds keys or lists below an option, or a single value in the place of a group.
    #[error("{key} ({place}) takes {expected}")]
    Nesting {
        /// The key.
        key: String,
        /// Where it stands.
        place: Source,
        /// What belongs there.
        expected: String,
    },
    /// A file is not of its format.
    #[error("cannot read {place}: {message}")]
    Syntax {
        /// Where reading stopped.
        place: Source,
        /// Why.
        message: String,
    },
}

fn shown(value: Option<&str>) -> String {
    let Some(value) = value else {
        return "the value".to_owned();
    };
    let short: String = value.chars().take(MAX_SHOWN).collect();
    let cut = if short.len() < value.len() { "..." } else { "" };
    format!("{short:?}{cut}")
}

fn suggestion(nearest: Option<&str>) -> String {
    nearest
        .map(|nearest| format!("; did you mean {nearest}"))
        .unwrap_or_default()
}
