//! What can be wrong with a GGUF file: each message says how to mend it. Who shows it names the file.

use std::io;

/// What is wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read.
    #[error("cannot read the GGUF file")]
    Io(#[from] io::Error),
    /// The file does not begin with `GGUF`.
    #[error(
        "not a GGUF file: it begins with {magic:02x?} instead of `GGUF`; convert the model with \
         llama.cpp's convert_hf_to_gguf.py or fetch its GGUF form"
    )]
    NotGguf {
        /// Its first bytes.
        magic: [u8; 4],
    },
    /// A version that this reader does not know.
    #[error("GGUF version {version} is not supported, only 2 and 3; convert the model again")]
    Version {
        /// The file's version.
        version: u32,
    },
    /// The file was written for machines of the other byte order.
    #[error("the GGUF file is big-endian; convert the model again for little-endian machines")]
    BigEndian,
    /// The file ends before its header does.
    #[error("the GGUF file ends at byte {len} inside {what}; it was cut off, fetch it again")]
    Truncated {
        /// What should have been there.
        what: &'static str,
        /// The file's length.
        len: u64,
    },
    /// The file ends before its tensors do.
    #[error(
        "the GGUF file has {len} bytes and its tensors end at {end}; it was cut off, fetch it again"
    )]
    TensorsTruncated {
        /// Where the last tensor ends.
        end: u64,
        /// The file's length.
        len: u64,
    },
    /// A number in the file is larger than any real model's.
    #[error(
        "the GGUF file claims {count} {what}, more than the limit of {limit}; it is damaged, \
         fetch it again"
    )]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The claimed number.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// The header does not follow the format.
    #[error("the GGUF file is damaged: {what}; fetch it again")]
    Malformed {
        /// Which rule it breaks.
        what: &'static str,
    },
    /// The metadata lacks a key that is needed.
    #[error("the GGUF file has no metadata key `{key}`")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A key has a value of another type than it should.
    #[error("the GGUF metadata key `{key}` is not {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}
