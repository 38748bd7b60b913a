//! Bounded reading of the format's primitives and values.
//!
//! Invariant: nothing is allocated or skipped that would reach past the end of the file.

use crate::error::GgufError;
use crate::value::{GgufArray, GgufValue};
use std::io::{BufReader, Read, Seek};

/// Names of keys and tensors; the format's own limit for keys.
pub(crate) const MAX_NAME_BYTES: u64 = (1 << 16) - 1;
/// Strings; chat templates reach some tens of kilobytes.
pub(crate) const MAX_STRING_BYTES: u64 = 16 << 20;
/// Elements of arrays that are kept in memory; longer ones stay in the file.
const MAX_KEPT_ELEMENTS: u64 = 256;

/// Arrays in arrays; the format allows any depth, no model uses two.
const MAX_ARRAY_DEPTH: u32 = 4;

const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A source with a known length.
pub(crate) struct Reader<R> {
    inner: BufReader<R>,
    at: u64,
    len: u64,
}

impl<R: Read + Seek> Reader<R> {
    /// A reader at the beginning of a source of `len` bytes.
    pub(crate) fn new(inner: BufReader<R>, len: u64) -> Self {
        Self::starting_at(inner, 0, len)
    }

    /// A reader of a source that already stands at `at`.
    pub(crate) fn starting_at(inner: BufReader<R>, at: u64, len: u64) -> Self {
        Self { inner, at, len }
    }

    /// Where the next byte is read.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// Claims bytes of the file, before they are read or skipped.
    fn claim(&mut self, bytes: u64, what: &'static str) -> Result<(), GgufError> {
        if bytes > self.len - self.at {
            return Err(GgufError::Truncated {
                what,
                len: self.len,
            });
        }
        self.at += bytes;
        Ok(())
    }

    fn skip(&mut self, bytes: u64, what: &'static str) -> Result<(), GgufError> {
        self.claim(bytes, what)?;
        let bytes = i64::try_from(bytes).map_err(|_| GgufError::Malformed { what })?;
        Ok(self.inner.seek_relative(bytes)?)
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], GgufError> {
        self.claim(N as u64, what)?;
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next 32-bit number.
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next 64-bit number.
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// The next 64-bit number, which counts things.
    pub(crate) fn count(&mut self, what: &'static str, limit: u64) -> Result<u64, GgufError> {
        let count = self.u64(what)?;
        if count > limit {
            return Err(GgufError::Limit { what, count, limit });
        }
        Ok(count)
    }

    /// The next string.
    pub(crate) fn string(&mut self, what: &'static str, limit: u64) -> Result<String, GgufError> {
        let len = self.u64(what)?;
        // The end of the file first: a length beyond it is damage by truncation most of the time.
        self.claim(len, what)?;
        if len > limit {
            return Err(GgufError::Limit {
                what,
                count: len,
                limit,
            });
        }
        let len = usize::try_from(len).map_err(|_| GgufError::Malformed { what })?;
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes)?;
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }

    /// Passes over a string.
    pub(crate) fn skip_string(&mut self) -> Result<(), GgufError> {
        let len = self.u64("a string")?;
        self.skip(len, "a string")
    }

    /// The next value with its type before it.
    pub(crate) fn value(&mut self) -> Result<GgufValue, GgufError> {
        let kind = self.u32("a value's type")?;
        if kind == ARRAY {
            Ok(GgufValue::Array(self.elements(0)?))
        } else {
            self.scalar(kind)
        }
    }

    fn scalar(&mut self, kind: u32) -> Result<GgufValue, GgufError> {
        const WHAT: &str = "a metadata value";
        Ok(match kind {
            0 => GgufValue::Unsigned(u8::from_le_bytes(self.array(WHAT)?).into()),
            1 => GgufValue::Signed(i8::from_le_bytes(self.array(WHAT)?).into()),
            2 => GgufValue::Unsigned(u16::from_le_bytes(self.array(WHAT)?).into()),
            3 => GgufValue::Signed(i16::from_le_bytes(self.array(WHAT)?).into()),
            4 => GgufValue::Unsigned(self.u32(WHAT)?.into()),
            5 => GgufValue::Signed(i32::from_le_bytes(self.array(WHAT)?).into()),
            6 => GgufValue::Float(f32::from_le_bytes(self.array(WHAT)?).into()),
            7 => GgufValue::Bool(self.array::<1>(WHAT)? != [0]),
            STRING => GgufValue::String(self.string("a metadata string", MAX_STRING_BYTES)?),
            10 => GgufValue::Unsigned(self.u64(WHAT)?),
            11 => GgufValue::Signed(i64::from_le_bytes(self.array(WHAT)?)),
            12 => GgufValue::Float(f64::from_le_bytes(self.array(WHAT)?)),
            _ => {
                return Err(GgufError::Malformed {
                    what: "a value has an unknown type",
                });
            }
        })
    }

    fn elements(&mut self, depth: u32) -> Result<GgufArray, GgufError> {
        const WHAT: &str = "a metadata array";
        let kind = self.u32(WHAT)?;
        let len = self.u64(WHAT)?;
        let size = element_size(kind)?;
        // The least that the elements take, before any of them is looked at.
        let least = len
            .checked_mul(size)
            .filter(|&least| least <= self.len - self.at);
        if least.is_none() {
            return Err(GgufError::Truncated {
                what: WHAT,
                len: self.len,
            });
        }
        let offset = self.at;
        let mut elements = None;
        if kind == ARRAY {
            if depth == MAX_ARRAY_DEPTH {
                return Err(GgufError::Malformed {
                    what: "arrays are nested too deeply",
                });
            }
            for _ in 0..len {
                self.elements(depth + 1)?;
            }
        } else if len <= MAX_KEPT_ELEMENTS {
            elements = Some(
                (0..len)
                    .map(|_| self.scalar(kind))
                    .collect::<Result<_, _>>()?,
            );
        } else if kind == STRING {
            for _ in 0..len {
                self.skip_string()?;
            }
        } else {
            self.skip(len * size, WHAT)?;
        }
        Ok(GgufArray {
            len,
            elements,
            offset,
            strings: kind == STRING,
        })
    }
}

/// Bytes that an element takes at least; exactly, unless it is a string or an array.
fn element_size(kind: u32) -> Result<u64, GgufError> {
    Ok(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        STRING | 10..=12 => 8,
        ARRAY => 12,
        _ => {
            return Err(GgufError::Malformed {
                what: "an array has an unknown element type",
            });
        }
    })
}
