//! The header, read and checked.

use crate::error::GgufError;
use crate::extent;
use crate::reader::{MAX_NAME_BYTES, MAX_STRING_BYTES, Reader};
use crate::value::{GgufArray, GgufValue};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Metadata entries; models have a few dozen.
const MAX_ENTRIES: u64 = 1 << 16;
/// Tensors; the largest models have some ten thousand.
const MAX_TENSORS: u64 = 1 << 20;
/// Alignment of tensor data where the file names none.
const DEFAULT_ALIGNMENT: u32 = 32;

/// A metadata entry and its place in the file.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: GgufValue,
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// The header of a GGUF file.
#[derive(Debug, Clone)]
pub struct GgufHeader {
    pub(crate) version: u32,
    pub(crate) entries: Vec<Entry>,
    tensor_count: u64,
    tensors_end: u64,
    pub(crate) file_len: u64,
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
            let key = reader.string("a metadata key", MAX_NAME_BYTES)?;
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

    pub(crate) fn alignment(&self) -> Result<u64, GgufError> {
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
