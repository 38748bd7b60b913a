//! How images and other media enter a block's hash.
//!
//! A medium is known by an identifier that the preprocessor or the engine chose. Its 64-bit hash
//! joins the hash of every block that holds a part of it, and for routing its place in the prompt
//! is filled with a placeholder token derived from that hash.

use xxhash_rust::xxh3::xxh3_64;

/// Length of an identifier that is a 256-bit digest in hexadecimal.
const DIGEST_DIGITS: usize = 64;

/// Digits of such a digest that become the hash.
const HASH_DIGITS: usize = 16;

/// First placeholder: above the vocabulary of every model in use.
const PLACEHOLDER_BASE: u32 = 1_000_000;

/// Bits of the hash that a placeholder keeps: base and mask together stay below 2^31, so that
/// engines with signed token ids take them.
const PLACEHOLDER_MASK: u64 = (1 << 30) - 1;

/// Hash of a medium by its identifier: the first 64 bits of a 256-bit hexadecimal digest, or the
/// xxh3-64 of any other text.
pub fn media_hash(identifier: &str) -> u64 {
    digest_prefix(identifier).unwrap_or_else(|| xxh3_64(identifier.as_bytes()))
}

fn digest_prefix(identifier: &str) -> Option<u64> {
    let is_digest = identifier.len() == DIGEST_DIGITS
        && identifier.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !is_digest {
        return None;
    }
    u64::from_str_radix(identifier.get(..HASH_DIGITS)?, 16).ok()
}

/// The token that stands for each position of a medium when a prompt is hashed for routing.
pub fn placeholder_token(hash: u64) -> u32 {
    PLACEHOLDER_BASE + (hash & PLACEHOLDER_MASK) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hexadecimal_digest_gives_its_first_64_bits() {
        let digest = "0123456789abcdef".repeat(4);
        assert_eq!(media_hash(&digest), 0x0123_4567_89ab_cdef);
        assert_eq!(media_hash(&digest.to_uppercase()), 0x0123_4567_89ab_cdef);
    }

    #[test]
    fn any_other_identifier_is_hashed() {
        let short = "0123456789abcdef".repeat(3);
        let not_hexadecimal = "g".repeat(64);
        let signed = format!("+{}", "0".repeat(63));
        // 64 bytes with a character across the cut.
        let wide = format!("{}é{}", "a".repeat(15), "a".repeat(47));
        for identifier in ["", "image-1", &short, &not_hexadecimal, &signed, &wide] {
            assert_eq!(media_hash(identifier), xxh3_64(identifier.as_bytes()));
        }
    }

    #[test]
    fn placeholders_keep_thirty_bits_above_the_vocabulary() {
        assert_eq!(placeholder_token(0), 1_000_000);
        assert_eq!(placeholder_token(123), 1_000_123);
        assert_eq!(placeholder_token(1 << 30), 1_000_000);
        assert_eq!(placeholder_token(u64::MAX), 1_000_000 + (1 << 30) - 1);
    }
}
