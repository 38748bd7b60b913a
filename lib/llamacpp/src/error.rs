//! Why the engine or the tokenizer could not start. Each message says what to do.

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
    /// The file is something else.
    #[error(
        "{} is not a GGUF file; convert the model with llama.cpp's convert_hf_to_gguf.py or \
         fetch its GGUF form",
        path.display()
    )]
    NotGguf {
        /// The file.
        path: PathBuf,
    },
    /// A version of the format that is not known here.
    #[error("{} is GGUF version {version}, which this build cannot read (it reads 2 and 3)", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it claims.
        version: u32,
    },
    /// The file ends before its contents do.
    #[error("{} is cut off ({have} bytes, at least {need} are needed); fetch it again", path.display())]
    CutOff {
        /// The file.
        path: PathBuf,
        /// Its size.
        have: u64,
        /// The least it should have.
        need: u64,
    },
    /// The header makes no sense.
    #[error("{} is damaged: {detail}; fetch it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
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
