//! Counter-based random numbers: each is a function of a seed, a stream and two counters, so that
//! request 1,000 of a run can be made without making the 999 before it, and two runs with one seed
//! send the same.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What a number is drawn for. Numbers of different streams have nothing to do with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Gaps between arrivals.
    Arrivals,
    /// Prompt lengths.
    InputTokens,
    /// Answer lengths.
    OutputTokens,
    /// Which shared prefix a conversation starts with.
    Prefix,
    /// Words of prompts.
    Words,
    /// Words of shared prefixes.
    PrefixWords,
    /// Words of the blocks of a trace.
    BlockWords,
}

/// 64 random bits.
pub fn bits(seed: u64, stream: Stream, major: u64, minor: u64) -> u64 {
    let mut counter = [0_u8; 17];
    counter[..8].copy_from_slice(&major.to_le_bytes());
    counter[8..16].copy_from_slice(&minor.to_le_bytes());
    counter[16] = stream as u8;
    xxh3_64_with_seed(&counter, seed)
}

/// A number in `[0, 1)`.
pub fn uniform(seed: u64, stream: Stream, major: u64, minor: u64) -> f64 {
    // The 53 high bits fill a double's mantissa exactly.
    (bits(seed, stream, major, minor) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_each_part_and_on_nothing_else() {
        let drawn = bits(1, Stream::Words, 2, 3);
        assert_eq!(drawn, bits(1, Stream::Words, 2, 3));
        for other in [
            bits(0, Stream::Words, 2, 3),
            bits(1, Stream::Prefix, 2, 3),
            bits(1, Stream::Words, 3, 3),
            bits(1, Stream::Words, 2, 2),
        ] {
            assert_ne!(drawn, other);
        }
    }

    #[test]
    fn numbers_fill_the_unit_interval() {
        let mean = (0..10_000)
            .map(|count| uniform(7, Stream::Arrivals, count, 0))
            .inspect(|drawn| assert!((0.0..1.0).contains(drawn)))
            .sum::<f64>()
            / 10_000.0;
        assert!((mean - 0.5).abs() < 0.02, "{mean}");
    }
}
