//! Where the tensors end, so that a file whose weights were cut off is noticed before an engine
//! maps it.

use crate::error::GgufError;
use crate::reader::{MAX_NAME_BYTES, Reader};
use std::io::{Read, Seek};

/// Dimensions of a tensor; the format's own limit.
const MAX_DIMENSIONS: u32 = 4;

/// Reads the tensor table, which the reader stands at. Returns the end of the last tensor.
pub(crate) fn tensors_end<R: Read + Seek>(
    reader: &mut Reader<R>,
    count: u64,
    alignment: u64,
) -> Result<u64, GgufError> {
    const OVERFLOW: GgufError = GgufError::Malformed {
        what: "a tensor's size overflows",
    };
    let mut end: u64 = 0;
    for _ in 0..count {
        reader.string("a tensor's name", MAX_NAME_BYTES)?;
        let dimensions = reader.u32("a tensor's dimensions")?;
        if dimensions > MAX_DIMENSIONS {
            return Err(GgufError::Malformed {
                what: "a tensor has too many dimensions",
            });
        }
        let mut elements: u64 = 1;
        for _ in 0..dimensions {
            let size = reader.u64("a tensor's dimensions")?;
            elements = elements.checked_mul(size).ok_or(OVERFLOW)?;
        }
        let kind = reader.u32("a tensor's type")?;
        let offset = reader.u64("a tensor's offset")?;
        // Of a type from the future only the beginning is known.
        let size = match block(kind) {
            Some((per_block, bytes)) => elements
                .div_ceil(per_block)
                .checked_mul(bytes)
                .ok_or(OVERFLOW)?,
            None => 0,
        };
        end = end.max(offset.checked_add(size).ok_or(OVERFLOW)?);
    }
    if count == 0 {
        return Ok(reader.position());
    }
    let data = reader.position().next_multiple_of(alignment);
    data.checked_add(end).ok_or(OVERFLOW)
}

/// Elements in a block of the type, and its bytes, as in `ggml.h`.
fn block(kind: u32) -> Option<(u64, u64)> {
    Some(match kind {
        // Plain numbers.
        0 | 26 => (1, 4),
        1 | 25 | 30 => (1, 2),
        24 => (1, 1),
        27 | 28 => (1, 8),
        // Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q8_1, IQ4_NL, MXFP4.
        2 | 20 => (32, 18),
        3 => (32, 20),
        6 => (32, 22),
        7 => (32, 24),
        8 => (32, 34),
        9 => (32, 36),
        39 => (32, 17),
        // Q2_K to Q8_K.
        10 => (256, 84),
        11 => (256, 110),
        12 => (256, 144),
        13 => (256, 176),
        14 => (256, 210),
        15 => (256, 292),
        // The IQ family.
        16 | 35 => (256, 66),
        17 => (256, 74),
        18 => (256, 98),
        19 => (256, 50),
        21 => (256, 110),
        22 => (256, 82),
        23 => (256, 136),
        29 => (256, 56),
        34 => (256, 54),
        _ => return None,
    })
}
