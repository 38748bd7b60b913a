//! Why a model cannot be opened: each message names the file and says how to mend it.

use crate::template::TemplateError;
use dynamo_gguf::GgufError;
use dynamo_protocols::tokenizer::TokenizerError;
use std::io;
use std::path::{Path, PathBuf};

/// What is wrong with a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// There is nothing at the path.
    #[error("no model at {}: give a GGUF file or a Hugging Face model folder", path.display())]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// A folder without a file that it needs.
    #[error("the model folder {} has no {file}: {hint}", folder.display())]
    MissingFile {
        /// The folder.
        folder: PathBuf,
        /// The file.
        file: &'static str,
        /// Where it comes from.
        hint: &'static str,
    },
    /// A file that cannot be read or written.
    #[error("cannot access {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that is not the JSON it should be.
    #[error("{} is malformed", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A key that is missing or has a value of another kind.
    #[error("{}: the key `{key}` is not {expected}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A file too large to be what it should be.
    #[error("{} has {size} bytes, more than the limit of {limit} for such a file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// The bound.
        limit: u64,
    },
    /// A GGUF file that cannot be used.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: GgufError,
    },
    /// A tokenizer that cannot be used.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A chat template that cannot be used.
    #[error("{}: {source}", path.display())]
    Template {
        /// The file it comes from.
        path: PathBuf,
        /// Why.
        #[source]
        source: TemplateError,
    },
    /// The file that should hold a chat template holds none.
    #[error("{} holds no chat template", path.display())]
    NoTemplate {
        /// The file.
        path: PathBuf,
    },
    /// The model's only vocabulary is in a GGUF file, and nothing in this build reads those.
    #[error(
        "the tokenizer of this model is in a GGUF file, which this build cannot read: \
         build with the feature `llamacpp`, or add a tokenizer.json"
    )]
    NoGgufVocabulary,
    /// An artefact that the card names could not be had.
    #[error("the artefact {name} is not there: {reason}")]
    MissingArtefact {
        /// Its file name.
        name: String,
        /// Why.
        reason: String,
    },
}

impl ModelError {
    /// An error of the file system, with its path.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::NotFound {
            return Self::NotFound {
                path: path.to_owned(),
            };
        }
        Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    /// An error of the GGUF reader, with its path.
    pub(super) fn gguf(path: &Path, source: GgufError) -> Self {
        Self::Gguf {
            path: path.to_owned(),
            source,
        }
    }
}
