//! Reads MessagePack out of a byte slice, one value at a time.
//!
//! Invariants
//! - No input panics, and nothing is allocated here.
//! - Skipping a value takes no stack for its depth and no more steps than it has bytes, so that
//!   neither nesting nor an announced length costs more than what was really sent.

use crate::wire::WireError;

/// A place in a slice of MessagePack.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

/// The value at hand, containers without what they contain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Nil,
    Bool,
    /// Not negative.
    Unsigned(u64),
    /// Negative.
    Negative(i64),
    Float(f64),
    Text(&'a [u8]),
    Binary(&'a [u8]),
    Extension,
    /// So many values follow.
    Array(u32),
    /// So many pairs of values follow.
    Map(u32),
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Bytes that are left, and thereby a bound on how many values are.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A big-endian number of `width` bytes, at most eight.
    fn number(&mut self, width: usize) -> Result<u64, WireError> {
        let bytes = self.take(width)?;
        Ok(bytes
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn length(&mut self, width: usize) -> Result<usize, WireError> {
        usize::try_from(self.number(width)?).map_err(|_| WireError::Truncated)
    }

    fn count(&mut self, width: usize) -> Result<u32, WireError> {
        u32::try_from(self.number(width)?).map_err(|_| WireError::Truncated)
    }

    /// A two's complement number of `width` bytes.
    fn signed(&mut self, width: usize) -> Result<Value<'a>, WireError> {
        let unused = 64 - 8 * width as u32;
        let number = (self.number(width)? << unused).cast_signed() >> unused;
        Ok(match u64::try_from(number) {
            Ok(number) => Value::Unsigned(number),
            Err(_) => Value::Negative(number),
        })
    }

    fn text(&mut self, length: usize) -> Result<Value<'a>, WireError> {
        Ok(Value::Text(self.take(length)?))
    }

    fn extension(&mut self, length: usize) -> Result<Value<'a>, WireError> {
        // A byte of type stands before the data.
        self.take(1)?;
        self.take(length)?;
        Ok(Value::Extension)
    }

    /// Reads the next value; of a container, only its head.
    pub(crate) fn value(&mut self) -> Result<Value<'a>, WireError> {
        let marker = *self.take(1)?.first().ok_or(WireError::Truncated)?;
        let low = u32::from(marker & 0x0f);
        match marker {
            0x00..=0x7f => Ok(Value::Unsigned(u64::from(marker))),
            0x80..=0x8f => Ok(Value::Map(low)),
            0x90..=0x9f => Ok(Value::Array(low)),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f)),
            0xc0 => Ok(Value::Nil),
            0xc1 => Err(WireError::Unexpected("reserved marker")),
            0xc2 | 0xc3 => Ok(Value::Bool),
            0xc4..=0xc6 => {
                let length = self.length(1 << (marker - 0xc4))?;
                Ok(Value::Binary(self.take(length)?))
            }
            0xc7..=0xc9 => {
                let length = self.length(1 << (marker - 0xc7))?;
                self.extension(length)
            }
            0xca => {
                let bits = self.number(4)? as u32;
                Ok(Value::Float(f64::from(f32::from_bits(bits))))
            }
            0xcb => Ok(Value::Float(f64::from_bits(self.number(8)?))),
            0xcc..=0xcf => Ok(Value::Unsigned(self.number(1 << (marker - 0xcc))?)),
            0xd0..=0xd3 => self.signed(1 << (marker - 0xd0)),
            0xd4..=0xd8 => self.extension(1 << (marker - 0xd4)),
            0xd9..=0xdb => {
                let length = self.length(1 << (marker - 0xd9))?;
                self.text(length)
            }
            0xdc | 0xdd => Ok(Value::Array(self.count(2 << (marker - 0xdc))?)),
            0xde | 0xdf => Ok(Value::Map(self.count(2 << (marker - 0xde))?)),
            0xe0..=0xff => Ok(Value::Negative(i64::from(marker.cast_signed()))),
        }
    }

    /// Reads past one whole value.
    pub(crate) fn skip(&mut self) -> Result<(), WireError> {
        // Each value takes a byte at least: the data ends before this count can overflow.
        let mut open = 1u64;
        while open > 0 {
            open -= 1;
            open += match self.value()? {
                Value::Array(count) => u64::from(count),
                Value::Map(pairs) => 2 * u64::from(pairs),
                _ => 0,
            };
        }
        Ok(())
    }

    /// The bytes of the next whole value, for a reader of its own.
    pub(crate) fn whole(&mut self) -> Result<Self, WireError> {
        let start = self.rest;
        self.skip()?;
        let length = start.len() - self.rest.len();
        Ok(Self::new(start.get(..length).unwrap_or_default()))
    }

    /// The head of an array: how many values follow.
    pub(crate) fn array(&mut self, what: &'static str) -> Result<u32, WireError> {
        match self.value()? {
            Value::Array(count) => Ok(count),
            _ => Err(WireError::Unexpected(what)),
        }
    }
}
