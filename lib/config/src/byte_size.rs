//! Sizes in human form: `64KiB`, `45MB`, `1GiB`, or plain bytes.

use crate::decimal::{scaled, split_number};
use crate::value::{Kind, Scalar};
use std::fmt;

const KIB: u64 = 1024;
const KB: u64 = 1000;

/// Canonical units, in the order in which printing tries them: a size is printed in the largest
/// binary unit that divides it, else in the largest decimal one.
const UNITS: [(&str, u64); 9] = [
    ("TiB", KIB.pow(4)),
    ("GiB", KIB.pow(3)),
    ("MiB", KIB.pow(2)),
    ("KiB", KIB),
    ("TB", KB.pow(4)),
    ("GB", KB.pow(3)),
    ("MB", KB.pow(2)),
    ("KB", KB),
    ("B", 1),
];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteSize(u64);

impl ByteSize {
    /// A size in bytes.
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// A size in units of 1024 bytes.
    pub const fn kib(count: u64) -> Self {
        Self(count * KIB)
    }

    /// A size in units of 1024 KiB.
    pub const fn mib(count: u64) -> Self {
        Self(count * KIB.pow(2))
    }

    /// A size in units of 1024 MiB.
    pub const fn gib(count: u64) -> Self {
        Self(count * KIB.pow(3))
    }

    /// The number of bytes.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The number of bytes; a size beyond the address space is as large as that.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) = UNITS
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit))
            .unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Scalar for ByteSize {
    const KIND: Kind = Kind::Size;
    const FORM: &'static str = "a size in bytes";
    const EXAMPLE: &'static str = "64KiB, 45MB or 1024";

    fn parse(text: &str) -> Result<Self, Option<String>> {
        let (number, unit) = split_number(text.trim());
        let unit = unit_bytes(number, unit.trim())?;
        scaled(number, u128::from(unit))
            .and_then(|bytes| u64::try_from(bytes).ok())
            .map(Self)
            .ok_or(None)
    }

    fn print(&self) -> String {
        self.to_string()
    }
}

fn unit_bytes(number: &str, name: &str) -> Result<u64, Option<String>> {
    if name.is_empty() {
        return Ok(1);
    }
    if name.len() == 1 && "kKmMgGtT".contains(name) {
        let letter = name.to_ascii_uppercase();
        return Err(Some(format!(
            "write {number}{letter}iB for powers of 1024 or {number}{letter}B for powers of 1000"
        )));
    }
    UNITS
        .into_iter()
        .find(|(unit, _)| {
            // Kubernetes writes Ki, Mi, Gi and Ti.
            let is_kubernetes = unit.len() == 3 && unit[..2].eq_ignore_ascii_case(name);
            is_kubernetes || unit.eq_ignore_ascii_case(name)
        })
        .map(|(_, bytes)| bytes)
        .ok_or(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_binary_and_decimal_units() {
        for (text, expected) in [
            ("0", 0),
            ("1024", 1024),
            ("10B", 10),
            ("64KiB", 65_536),
            ("64kib", 65_536),
            ("64Ki", 65_536),
            ("45MB", 45_000_000),
            ("1 GiB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(
                ByteSize::parse(text),
                Ok(ByteSize::bytes(expected)),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_lone_letter_is_refused_with_both_readings() {
        assert_eq!(
            ByteSize::read("64m").unwrap_err().to_string(),
            "is not a size in bytes, such as 64KiB, 45MB or 1024; \
             write 64MiB for powers of 1024 or 64MB for powers of 1000"
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "B",
            "-1",
            "1.5",
            "1.5B",
            "1XB",
            "1 Gi B",
            "0.3KiB",
            "20000000TiB",
            "é",
        ] {
            assert!(ByteSize::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn print_prefers_the_largest_whole_unit() {
        for (size, text) in [
            (ByteSize::kib(64), "64KiB"),
            (ByteSize::mib(1), "1MiB"),
            (ByteSize::gib(3), "3GiB"),
            (ByteSize::bytes(45_000_000), "45MB"),
            (ByteSize::bytes(1023), "1023B"),
            (ByteSize::bytes(0), "0B"),
        ] {
            assert_eq!(size.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn printed_sizes_read_back(bytes: u64, shift in 0_u32..64) {
            for size in [ByteSize(bytes), ByteSize((bytes >> shift) << shift)] {
                prop_assert_eq!(ByteSize::parse(&size.print()), Ok(size));
            }
        }
    }
}
