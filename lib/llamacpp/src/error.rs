//! Why the engine or the tokenizer could not start. Each message says what to do.

use dynamo_gguf::GgufError;
use std::path::PathBuf;

/// Starting failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is no such file.
    #[error("no model file at {}; check the path, or fetch the model first", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is a folder.
    #[error("{} is a folder; give the GGUF file in it", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
    },
    /// The file is no GGUF file, or not a whole one.
    #[error("{}: {error}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: GgufError,
    },
    /// llama.cpp does not take it.
    #[error(
        "llama.cpp cannot load {}: {detail}; its architecture may be newer than this build \
         (run with DYN_LOG=debug to see llama.cpp's own lines)",
        path.display()
    )]
    Refused {
        /// The file.
        path: PathBuf,
        /// What the binding says.
        detail: String,
    },
    /// llama.cpp cannot make a context with these options.
    #[error(
        "llama.cpp cannot make a context for {tokens} tokens of KV cache: {detail}; lower \
         --kv-cache-tokens or --context-length"
    )]
    Context {
        /// Cells asked for.
        tokens: u32,
        /// What the binding says.
        detail: String,
    },
    /// Options contradict each other or the model.
    #[error("{0}")]
    Options(String),
    /// The engine's thread did not come up.
    #[error("cannot start the engine's thread: {0}")]
    Thread(String),
}
