//! API keys: who may ask.
//!
//! Keys are kept and compared as hashes. All known keys are compared, each in constant time, so
//! that the time of an answer says nothing about how much of a key was right.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use dynamo_config::Secret;
use dynamo_protocols::error::{ErrorCode, RequestError};
use std::sync::Arc;

/// The keys that are let in.
#[derive(Clone)]
pub(crate) struct Keys(Vec<blake3::Hash>);

/// Why a file of keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// It would lock everybody out or let everybody in, and neither is said.
    #[error("the file of api keys has no keys; put one on each line")]
    Empty,
    /// A key that no header can carry.
    #[error("line {line} of the file of api keys has characters that a header cannot carry")]
    Malformed {
        /// The line, from 1.
        line: usize,
    },
}

/// Reads a file of keys: one on each line; empty lines and those that begin with `#` do not
/// count.
pub fn parse_key_file(text: &str) -> Result<Vec<Secret>, KeyFileError> {
    let mut keys = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let key = line.trim();
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyFileError::Malformed { line: i + 1 });
        }
        keys.push(Secret::new(key));
    }
    if keys.is_empty() {
        return Err(KeyFileError::Empty);
    }
    Ok(keys)
}

// === impl Keys ===

impl Keys {
    pub(crate) fn new(keys: &[Secret]) -> Self {
        Self(
            keys.iter()
                .map(|key| blake3::hash(key.expose().as_bytes()))
                .collect(),
        )
    }

    /// Lets a request in, or says how to be let in.
    pub(crate) fn check(&self, headers: &HeaderMap) -> Result<(), RequestError> {
        if self.0.is_empty() {
            return Ok(());
        }
        let refused = |message| Err(RequestError::new(ErrorCode::InvalidApiKey, message));
        let Some(given) = bearer(headers) else {
            return refused("no api key; send `Authorization: Bearer KEY`");
        };
        let given = blake3::hash(given);
        // The comparison of two hashes takes constant time; `fold` makes it the same for all.
        let known = self
            .0
            .iter()
            .fold(false, |known, key| (*key == given) | known);
        if known {
            Ok(())
        } else {
            refused("the api key is not known to this service")
        }
    }
}

/// A name for whoever has this key: its hash, cut to what tells tenants apart.
pub(crate) fn tenant_of_key(headers: &HeaderMap) -> Option<Arc<str>> {
    let hash = blake3::hash(bearer(headers)?).to_hex();
    Some(format!("key-{}", &hash[..16]).into())
}

/// The key in an `Authorization: Bearer` header, or in `x-api-key`.
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, key) = value.as_bytes().split_at_checked(7)?;
        return scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then_some(key.trim_ascii());
    }
    headers.get("x-api-key").map(|value| value.as_bytes())
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Keys").field(&self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(keys: &[&str], header: Option<(&'static str, &str)>) -> Result<(), ErrorCode> {
        let keys: Vec<Secret> = keys.iter().map(|key| Secret::new(*key)).collect();
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        Keys::new(&keys).check(&headers).map_err(|error| error.code)
    }

    #[test]
    fn any_of_the_keys_lets_in_and_nothing_else_does() {
        let keys = ["first", "second"];
        for value in ["Bearer first", "bearer second", "Bearer  second "] {
            assert_eq!(
                check(&keys, Some(("authorization", value))),
                Ok(()),
                "{value}"
            );
        }
        assert_eq!(check(&keys, Some(("x-api-key", "first"))), Ok(()));
        for value in [
            "Bearer third",
            "Bearer firs",
            "Bearer ",
            "first",
            "Basic first",
            "",
        ] {
            assert_eq!(
                check(&keys, Some(("authorization", value))),
                Err(ErrorCode::InvalidApiKey),
                "{value}"
            );
        }
        assert_eq!(check(&keys, None), Err(ErrorCode::InvalidApiKey));
        assert_eq!(check(&[], None), Ok(()));
    }

    #[test]
    fn a_file_of_keys_has_one_on_each_line() {
        let keys = parse_key_file("# team a\n one \n\ntwo\n").unwrap();
        let keys: Vec<&str> = keys.iter().map(Secret::expose).collect();
        assert_eq!(keys, ["one", "two"]);
        assert_eq!(parse_key_file("# none\n").unwrap_err(), KeyFileError::Empty);
        assert_eq!(
            parse_key_file("one\nt w o").unwrap_err(),
            KeyFileError::Malformed { line: 2 }
        );
    }
}
