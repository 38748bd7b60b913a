//! Cores and memory as graphs write them, which is how Kubernetes does.

use std::fmt;

/// A number of cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cpu {
    thousandths: u64,
}

/// An amount of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Memory {
    bytes: u64,
}

const UNITS: [(&str, u64); 8] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
];

// === impl Cpu ===

impl Cpu {
    /// Reads `500m`, `2` or `0.5`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let thousandths = match text.strip_suffix('m') {
            Some(digits) => whole(digits)?,
            None => thousandths(text)?,
        };
        (thousandths > 0).then_some(Self { thousandths })
    }

    /// Whole cores, rounded up.
    pub fn cores(self) -> u64 {
        self.thousandths.div_ceil(1_000)
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.thousandths % 1_000 {
            0 => write!(f, "{}", self.thousandths / 1_000),
            _ => write!(f, "{}m", self.thousandths),
        }
    }
}

// === impl Memory ===

impl Memory {
    /// Reads `24Gi`, `1.5G` or `1048576`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let unit = UNITS.iter().find(|(suffix, _)| text.ends_with(suffix));
        let (number, unit) = match unit {
            Some((suffix, unit)) => (text.strip_suffix(suffix)?, *unit),
            None => (text, 1),
        };
        let bytes = thousandths(number)?.checked_mul(unit)? / 1_000;
        (bytes > 0).then_some(Self { bytes })
    }

    /// Mebibytes, rounded up.
    pub fn mebibytes(self) -> u64 {
        self.bytes.div_ceil(1 << 20)
    }
}

impl fmt::Display for Memory {
    /// The largest unit that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut units: Vec<(&str, u64)> = UNITS.to_vec();
        units.sort_by_key(|(_, unit)| std::cmp::Reverse(*unit));
        match units
            .iter()
            .find(|(_, unit)| self.bytes.is_multiple_of(*unit))
        {
            Some((suffix, unit)) => write!(f, "{}{suffix}", self.bytes / unit),
            None => write!(f, "{}", self.bytes),
        }
    }
}

fn whole(digits: &str) -> Option<u64> {
    let all_digits = !digits.is_empty() && digits.chars().all(|char| char.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

/// A decimal number with at most three places, times 1000.
fn thousandths(text: &str) -> Option<u64> {
    let (number, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if fraction.len() > 3 {
        return None;
    }
    let places = whole(&format!("{fraction:0<3}"))?;
    let fraction_is_there = !fraction.is_empty();
    whole(number)?
        .checked_mul(1_000)?
        .checked_add(places)
        .filter(|_| fraction_is_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_read_and_written() {
        for (text, shown, cores) in [
            ("500m", "500m", 1),
            ("2", "2", 2),
            ("0.5", "500m", 1),
            ("1500m", "1500m", 2),
            ("2000m", "2", 2),
        ] {
            let cpu = Cpu::parse(text).unwrap();
            assert_eq!((cpu.to_string().as_str(), cpu.cores()), (shown, cores));
        }
        for text in [
            "",
            "0",
            "0m",
            "-1",
            "1.2345",
            "1.",
            "m",
            "2 cores",
            "1e3",
            "99999999999999999999",
        ] {
            assert_eq!(Cpu::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn memory_is_read_and_written() {
        for (text, shown, mebibytes) in [
            ("24Gi", "24Gi", 24 << 10),
            ("1.5Gi", "1536Mi", 1536),
            ("2G", "2G", 1908),
            ("1048576", "1Mi", 1),
            ("512k", "500Ki", 1),
        ] {
            let memory = Memory::parse(text).unwrap();
            assert_eq!(
                (memory.to_string().as_str(), memory.mebibytes()),
                (shown, mebibytes)
            );
        }
        for text in [
            "", "0", "0Gi", "Gi", "24 Gi", "24gb", "24GB", "-1Gi", "1.2345Gi",
        ] {
            assert_eq!(Memory::parse(text), None, "{text:?}");
        }
    }
}
