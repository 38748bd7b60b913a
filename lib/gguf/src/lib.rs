//! The header of a GGUF file: metadata, and where the tensors lie.
//!
//! - [`GgufHeader`]: the header, read and checked; single strings of its large arrays
//! - [`GgufValue`], [`GgufArray`]: what the metadata holds
//! - [`GgufError`]: what is wrong with a file
//!
//! The file is outside input. Every length in it is checked against what is left of the file and
//! against a named limit before anything is allocated or skipped, so that a file that was cut off,
//! or made up, gives a typed error in little time and memory. Large arrays (the vocabulary) are
//! not kept: their place in the file is, and single strings are read from there.
//!
//! It does not read weights, and knows no key but the alignment and `split.*`. Versions 2 and 3,
//! little-endian.

mod error;
mod extent;
mod header;
mod reader;
mod value;
mod vocabulary;

pub use error::GgufError;
pub use header::GgufHeader;
pub use value::{GgufArray, GgufValue};
