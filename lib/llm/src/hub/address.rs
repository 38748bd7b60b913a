//! Addresses: whose they are, where a redirect leads, names as parts of a path. Pure.
//!
//! Invariants
//! - A redirect never leads from a secure address to one that is not.
//! - An endpoint that cannot be used is refused without repeating it: it may hold a password.

use super::error::HubError;
use hyper::Uri;
use std::fmt::Write as _;

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) secure: bool,
    host: String,
    port: u16,
}

// === impl Origin ===

impl Origin {
    pub(super) fn of(url: &Uri) -> Option<Self> {
        let secure = match url.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        Some(Self {
            secure,
            host: url.host()?.to_ascii_lowercase(),
            port: url.port_u16().unwrap_or(if secure { 443 } else { 80 }),
        })
    }
}

/// Whose address the endpoint is, if it can be used.
pub(super) fn endpoint_origin(endpoint: &str) -> Result<Origin, HubError> {
    let refuse = |reason| HubError::Endpoint { reason };
    let url: Uri = endpoint
        .parse()
        .map_err(|_| refuse("it is not an address"))?;
    // Its value is not repeated here: it may have a password in it.
    let authority = url.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') || url.query().is_some() {
        return Err(refuse("it has a user name or a query in it"));
    }
    Origin::of(&url).ok_or_else(|| refuse("it does not begin with https:// or http://"))
}

/// Where a redirect leads, or why it is not followed.
pub(super) fn redirected(from: &Uri, location: &str) -> Result<Uri, &'static str> {
    const NO_ADDRESS: &str = "it redirects to something that is no address";
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let folder = from
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    let to: Uri = absolute.parse().map_err(|_| NO_ADDRESS)?;
    match (Origin::of(from), Origin::of(&to)) {
        (Some(from), Some(to)) if from.secure && !to.secure => {
            Err("it redirects to an address that is not secure")
        }
        (_, None) => Err(NO_ADDRESS),
        _ => Ok(to),
    }
}

/// The text as part of a path; slashes stay where they separate folders.
pub(super) fn percent_encoded(text: &str, keep_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (byte == b'/' && keep_slashes)
        {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_and_never_lose_security() {
        let from: Uri = "https://hub.test/a/b?c=d".parse().unwrap();
        let cases = [
            ("/x/y", "https://hub.test/x/y"),
            ("x", "https://hub.test/a/x"),
            ("//cdn.test/x", "https://cdn.test/x"),
            ("https://cdn.test/x?s=1", "https://cdn.test/x?s=1"),
        ];
        for (location, expected) in cases {
            assert_eq!(redirected(&from, location).unwrap(), expected, "{location}");
        }
        for location in ["http://hub.test/x", "ftp://hub.test/x", "https://"] {
            assert!(redirected(&from, location).is_err(), "{location}");
        }
    }

    #[test]
    fn an_origin_has_its_default_port_and_no_case() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap());
        assert_eq!(
            origin("https://Hub.test/a"),
            origin("https://hub.test:443/b")
        );
        assert_ne!(origin("https://hub.test"), origin("http://hub.test"));
        assert_ne!(origin("https://hub.test"), origin("https://hub.test:8443"));
        assert_ne!(
            origin("https://hub.test"),
            origin("https://hub.test.evil.test")
        );
    }

    #[test]
    fn endpoints_that_cannot_be_used_are_refused_without_repeating_them() {
        for endpoint in [
            "",
            "hub.test",
            "ftp://hub.test",
            "https://me:pass@hub.test",
            "https://h/?k=pass",
        ] {
            let error = endpoint_origin(endpoint).unwrap_err();
            assert!(!error.to_string().contains("pass"), "{error}");
        }
        assert!(endpoint_origin("http://127.0.0.1:80/mirror").is_ok());
    }

    #[test]
    fn names_are_encoded_for_a_path() {
        assert_eq!(percent_encoded("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(percent_encoded("a b/ü.gguf", true), "a%20b/%C3%BC.gguf");
    }
}
