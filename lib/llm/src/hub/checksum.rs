//! The checksums that the hub gives: SHA-256 for large files, git's blob SHA-1 for small ones.
//!
//! SHA-1 is no protection from an attacker; it is what git has. It finds what a broken network
//! or disk did, and the small files came over TLS from the hub itself.

use super::reference::is_lower_hex;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::fmt::Write as _;

/// A file's announced checksum, which is also its name among the blobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Checksum {
    hex: String,
    is_git: bool,
}

/// Computes a checksum of the kind that was announced.
#[derive(Clone)]
pub(super) struct Hasher(Context);

impl Checksum {
    /// From the value of an `etag` header, if it is a checksum.
    pub(super) fn from_etag(value: &str) -> Option<Self> {
        let hex = value.strip_prefix("W/").unwrap_or(value).trim_matches('"');
        let is_git = is_lower_hex(hex, 40);
        (is_git || is_lower_hex(hex, 64)).then(|| Self {
            hex: hex.to_owned(),
            is_git,
        })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.hex
    }

    /// A hasher for a file of this size.
    pub(super) fn hasher(&self, size: u64) -> Hasher {
        if !self.is_git {
            return Hasher(Context::new(&SHA256));
        }
        let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {size}\0").as_bytes());
        Hasher(context)
    }
}

impl Hasher {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum as the hub writes it.
    pub(super) fn finish(self) -> String {
        let mut hex = String::new();
        for byte in self.0.finish().as_ref() {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        hex
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(etag: &str, content: &str) -> String {
        let mut hasher = Checksum::from_etag(etag)
            .unwrap()
            .hasher(content.len() as u64);
        hasher.update(content.as_bytes());
        hasher.finish()
    }

    #[test]
    fn the_known_digests_come_out() {
        // `git hash-object` and `sha256sum` of "hello\n".
        let git = "ce013625030ba8dba906f756967f9e9ca394464a";
        let sha = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
        assert_eq!(digest(&format!("\"{git}\""), "hello\n"), git);
        assert_eq!(digest(&format!("W/\"{sha}\""), "hello\n"), sha);
    }

    #[test]
    fn what_is_no_checksum_is_not_taken_for_one() {
        for etag in [
            "",
            "\"\"",
            "\"../../x\"",
            "\"abc\"",
            "5891B5B522D5DF086D0FF0B110FBD9D21BB4FC71",
        ] {
            assert_eq!(Checksum::from_etag(etag), None, "{etag}");
        }
    }
}
