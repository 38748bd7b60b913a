//! What rendering makes: files, and what the user should know of them.

use std::collections::BTreeMap;
use std::fmt;

/// Longest file that is carried along: what a ConfigMap takes, with room for its frame.
pub const MAX_CARRIED_BYTES: usize = 900_000;

/// The files that lie beside the graph file, by their path from there.
pub type Carried = BTreeMap<String, String>;

/// Everything that a target needs, as files.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// The files, in a fixed order.
    pub files: Vec<RenderedFile>,
    /// What the user should know: placeholders that were kept, keys without a meaning there.
    pub notes: Vec<String>,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedFile {
    /// Its path below the output folder.
    pub path: String,
    /// What is in it.
    pub text: String,
    /// Whether it is run.
    pub is_program: bool,
}

/// Why a graph that is sound cannot be rendered for a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RenderError {
    /// An object of the target takes fewer components.
    #[error(
        "a DynamoGraphDeployment takes {most} components, and the graph has {count}; split it, or render without --crd"
    )]
    TooManyServices {
        /// How many it takes.
        most: usize,
        /// How many there are.
        count: usize,
    },
    /// A file is too long to be carried along.
    #[error(
        "{component}: {file} has {bytes} bytes, and {MAX_CARRIED_BYTES} at most are carried along; put it into the image or on a volume"
    )]
    FileTooLong {
        /// Whose file.
        component: String,
        /// The file.
        file: String,
        /// Its length.
        bytes: usize,
    },
}

// === impl Rendered ===

impl Rendered {
    pub(crate) fn add(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.push(path.into(), text.into(), false);
    }

    pub(crate) fn add_program(&mut self, path: impl Into<String>, text: impl Into<String>) {
        self.push(path.into(), text.into(), true);
    }

    pub(crate) fn note(&mut self, note: impl fmt::Display) {
        self.notes.push(note.to_string());
    }

    fn push(&mut self, path: String, text: String, is_program: bool) {
        self.files.push(RenderedFile {
            path,
            text,
            is_program,
        });
    }

    /// The notes as lines of a Markdown list.
    pub(crate) fn notes_in_markdown(&self) -> String {
        self.notes
            .iter()
            .map(|note| format!("- {note}\n"))
            .collect()
    }
}

/// Checks that what is carried along can be.
pub(crate) fn check_carried(graph: &crate::Graph, carried: &Carried) -> Result<(), RenderError> {
    for component in &graph.components {
        for file in &component.files {
            let bytes = carried.get(file).map_or(0, String::len);
            if bytes > MAX_CARRIED_BYTES {
                return Err(RenderError::FileTooLong {
                    component: component.name.clone(),
                    file: file.clone(),
                    bytes,
                });
            }
        }
    }
    Ok(())
}
