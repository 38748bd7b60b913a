//! The header of a GGUF file: metadata, and where the tensors lie.
//!
//! The file is outside input. Every length in it is checked against what is left of the file and
//! against a named limit before anything is allocated or skipped, so that a file that was cut off,
//! or made up, gives a typed error in little time and memory. Large arrays (the vocabulary) are
//! not kept: their place in the file is, and single strings are read from there.
//!
//! It does not read weights. Versions 2 and 3, little-endian.

mod extent;
mod reader;
mod vocabulary;

use reader::Reader;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Metadata entries; models have a few dozen.
const MAX_ENTRIES: u64 = 1 << 16;
/// Tensors; the largest models have some ten thousand.
const MAX_TENSORS: u64 = 1 << 20;
/// Keys; the format's own limit.
const MAX_KEY_BYTES: u64 = (1 << 16) - 1;
/// Strings; chat templates reach some tens of kilobytes.
const MAX_STRING_BYTES: u64 = 16 << 20;
/// Elements of arrays that are kept in memory; longer ones stay in the file.
const MAX_KEPT_ELEMENTS: u64 = 256;
/// Alignment of tensor data where the file names none.
const DEFAULT_ALIGNMENT: u32 = 32;

/// What is wrong with a GGUF file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file cannot be read.
    #[error("cannot read the GGUF file")]
    Io(#[from] io::Error),
    /// The file does not begin with `GGUF`.
    #[error("not a GGUF file: it begins with {magic:02x?} instead of `GGUF`")]
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
    #[error("the GGUF file claims {count} {what}, more than the limit of {limit}; it is damaged")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The claimed number.
        count: u64,
        /// The bound.
        limit: u64,
    },
    /// The header does not follow the format.
    #[error("the GGUF file is damaged: {what}")]
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

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// An integer without sign, of any width.
    Unsigned(u64),
    /// An integer with sign, of any width.
    Signed(i64),
    /// A float, of any width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A string; bytes that are not UTF-8 replaced.
    String(String),
    /// An array.
    Array(GgufArray),
}

/// An array in the metadata.
#[derive(Debug, Clone, PartialEq)]
pub struct GgufArray {
    /// Number of elements.
    pub len: u64,
    /// The elements, if there are few enough to keep; otherwise they stay in the file.
    pub elements: Option<Vec<GgufValue>>,
    /// Where the elements begin in the file.
    offset: u64,
    /// Whether they are strings.
    strings: bool,
}

/// A metadata entry and its place in the file.
#[derive(Debug, Clone)]
struct Entry {
    key: String,
    value: GgufValue,
    start: u64,
    end: u64,
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    version: u32,
    entries: Vec<Entry>,
    tensor_count: u64,
    tensors_end: u64,
    file_len: u64,
}

impl GgufHeader {
    /// Reads the header of a file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        Self::read(File::open(path)?)
    }

    /// Reads a header from any source that can seek.
    pub fn read<R: Read + Seek>(mut source: R) -> Result<Self, GgufError> {
        let len = source.seek(SeekFrom::End(0))?;
        source.rewind()?;
        let mut reader = Reader::new(BufReader::new(source), len);

        let magic: [u8; 4] = reader.array("the magic number")?;
        if &magic != b"GGUF" {
            return Err(GgufError::NotGguf { magic });
        }
        let version = reader.u32("the version")?;
        match version {
            2 | 3 => {}
            // A small number in the other byte order.
            swapped if swapped.swap_bytes() <= 16 => return Err(GgufError::BigEndian),
            _ => return Err(GgufError::Version { version }),
        }
        let tensor_count = reader.count("tensors", MAX_TENSORS)?;
        let entry_count = reader.count("metadata entries", MAX_ENTRIES)?;
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..entry_count {
            let start = reader.position();
            let key = reader.string("a metadata key", MAX_KEY_BYTES)?;
            let value = reader.value()?;
            entries.push(Entry {
                key,
                value,
                start,
                end: reader.position(),
            });
        }
        let mut header = Self {
            version,
            entries,
            tensor_count,
            tensors_end: 0,
            file_len: len,
        };
        header.tensors_end = extent::tensors_end(&mut reader, tensor_count, header.alignment()?)?;
        Ok(header)
    }

    /// Fails if the file is too short for its tensors.
    pub fn check_tensors(&self) -> Result<(), GgufError> {
        if self.tensors_end > self.file_len {
            let (end, len) = (self.tensors_end, self.file_len);
            return Err(GgufError::TensorsTruncated { end, len });
        }
        Ok(())
    }

    /// The format's version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Number of tensors; 0 in a file that only holds a vocabulary.
    pub fn tensor_count(&self) -> u64 {
        self.tensor_count
    }

    /// The metadata keys, in the file's order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.value)
    }

    /// A string, if the key is there.
    pub fn string(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong_type(key, "a string")),
        }
    }

    /// A number that counts something, if the key is there.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        let number = match self.get(key) {
            None => return Ok(None),
            Some(GgufValue::Unsigned(number)) => u32::try_from(*number).ok(),
            Some(GgufValue::Signed(number)) => u32::try_from(*number).ok(),
            Some(_) => None,
        };
        number
            .map(Some)
            .ok_or_else(|| wrong_type(key, "a non-negative 32-bit number"))
    }

    /// A truth value, if the key is there.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Bool(value)) => Ok(Some(*value)),
            Some(_) => Err(wrong_type(key, "a truth value")),
        }
    }

    /// A float, if the key is there.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Float(value)) => Ok(Some(*value)),
            Some(_) => Err(wrong_type(key, "a float")),
        }
    }

    /// An array, if the key is there.
    pub fn array(&self, key: &str) -> Result<Option<&GgufArray>, GgufError> {
        match self.get(key) {
            None => Ok(None),
            Some(GgufValue::Array(array)) => Ok(Some(array)),
            Some(_) => Err(wrong_type(key, "an array")),
        }
    }

    /// Reads the strings of an array from the file, one by one, with their indices.
    pub fn for_each_string<R: Read + Seek>(
        &self,
        mut source: R,
        key: &str,
        mut visit: impl FnMut(u32, &str),
    ) -> Result<(), GgufError> {
        let Some(array) = self.array(key)? else {
            return Err(GgufError::MissingKey {
                key: key.to_owned(),
            });
        };
        if !array.strings {
            return Err(wrong_type(key, "an array of strings"));
        }
        source.seek(SeekFrom::Start(array.offset))?;
        let mut reader = Reader::starting_at(BufReader::new(source), array.offset, self.file_len);
        for index in 0..u32::try_from(array.len).unwrap_or(u32::MAX) {
            visit(
                index,
                &reader.string("a string of an array", MAX_STRING_BYTES)?,
            );
        }
        Ok(())
    }

    fn alignment(&self) -> Result<u64, GgufError> {
        let alignment = self.u32("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
        if !alignment.is_power_of_two() {
            return Err(GgufError::Malformed {
                what: "the alignment is no power of two",
            });
        }
        Ok(u64::from(alignment))
    }
}

fn wrong_type(key: &str, expected: &'static str) -> GgufError {
    GgufError::WrongType {
        key: key.to_owned(),
        expected,
    }
}

#[cfg(test)]
mod tests;
