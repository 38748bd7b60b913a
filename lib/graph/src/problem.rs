//! What is wrong with a graph file: every problem at once, each with its place and its cure.

use std::fmt;

/// Problems that are shown of one file: more than anybody mends in one go.
pub(crate) const MAX_PROBLEMS: usize = 50;

/// Longest part of a bad value that a message shows, in characters.
const MAX_SHOWN: usize = 60;

/// A place in a text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column, in characters.
    pub column: usize,
}

/// One problem of a graph file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it is.
    pub mark: Mark,
    /// The key it is about, such as `components[0].replicas`; empty for the whole file.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

/// Every problem of a graph file, in the order of their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    /// The file, as messages name it.
    pub file: String,
    /// The problems; at least one.
    pub problems: Vec<Problem>,
    /// Further problems, which are not listed.
    pub left_out: usize,
}

/// Collects problems up to a bound.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    left_out: usize,
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.mark.line, self.mark.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

// === impl GraphError ===

impl fmt::Display for GraphError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{problem}", self.file)?;
        }
        if self.left_out > 0 {
            write!(f, "\n{}: and {} more", self.file, self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for GraphError {}

// === impl Problems ===

impl Problems {
    pub(crate) fn add(&mut self, mark: Mark, path: impl Into<String>, message: impl Into<String>) {
        if self.list.len() >= MAX_PROBLEMS {
            self.left_out += 1;
            return;
        }
        self.list.push(Problem {
            mark,
            path: path.into(),
            message: message.into(),
        });
    }

    /// The error, if there is a problem.
    pub(crate) fn into_error(mut self, file: &str) -> Option<GraphError> {
        self.list.sort_by_key(|problem| problem.mark);
        (!self.list.is_empty()).then(|| GraphError {
            file: file.to_owned(),
            problems: self.list,
            left_out: self.left_out,
        })
    }
}

/// A value in quotes, cut where it is long.
pub(crate) fn shown(value: &str) -> String {
    let short: String = value.chars().take(MAX_SHOWN).collect();
    let cut = if short.len() < value.len() { "..." } else { "" };
    format!("{short:?}{cut}")
}

/// The end of a message that names the nearest known word, if one is near.
pub(crate) fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match dynamo_config::nearest(name, known) {
        Some(nearest) => format!("; did you mean {nearest}"),
        None => String::new(),
    }
}
