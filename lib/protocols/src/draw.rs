//! Counter-based random numbers for sampling.
//!
//! A draw is a pure function of `(seed, choice, position)`, so that a sequence continued on
//! another worker, or replayed, draws exactly what it would have drawn. There is no generator
//! state to carry along.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A number in `[0, 1)` for the token at `position` (0 is the first generated token) of a choice.
pub fn uniform(seed: u64, choice: u32, position: u64) -> f64 {
    let mut counter = [0_u8; 12];
    counter[..4].copy_from_slice(&choice.to_le_bytes());
    counter[4..].copy_from_slice(&position.to_le_bytes());
    let bits = xxh3_64_with_seed(&counter, seed);
    // The 53 high bits fill a double's mantissa exactly.
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_each_part_of_the_counter_and_on_nothing_else() {
        let draw = uniform(7, 1, 42);
        assert_eq!(draw.to_bits(), uniform(7, 1, 42).to_bits());
        assert_ne!(draw.to_bits(), uniform(8, 1, 42).to_bits());
        assert_ne!(draw.to_bits(), uniform(7, 2, 42).to_bits());
        assert_ne!(draw.to_bits(), uniform(7, 1, 43).to_bits());
    }

    #[test]
    fn draws_fill_the_unit_interval_evenly() {
        let mut buckets = [0_u32; 16];
        for position in 0..16_000 {
            let draw = uniform(1, 0, position);
            assert!((0.0..1.0).contains(&draw));
            buckets[(draw * 16.0) as usize] += 1;
        }
        // Each bucket expects 1,000 with a standard deviation of 31: five of them allow for
        // nothing but a broken generator.
        assert!(
            buckets.iter().all(|n| (845..=1155).contains(n)),
            "{buckets:?}"
        );
    }
}
