//! Where a server is: `http://HOST:PORT`, with a path in front of `/v1` if need be.

use std::fmt;
use std::str::FromStr;

/// A server's address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BackendAddress {
    authority: String,
    has_port: bool,
    /// Empty, or begins with a slash and ends without one.
    prefix: String,
}

/// Why a server cannot be reached under its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Encrypted connections are not spoken.
    #[error(
        "{0} asks for https, which this version does not speak to servers; use http://HOST:PORT"
    )]
    Https(String),
    /// Anything else.
    #[error("{0} is not the address of a server; write http://HOST:PORT")]
    Malformed(String),
}

impl BackendAddress {
    /// `host:port`, as sockets take it.
    pub fn socket(&self) -> String {
        match self.has_port {
            true => self.authority.clone(),
            false => format!("{}:80", self.authority),
        }
    }

    /// What the `Host` header says.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// The path of a request for `path`, which begins with a slash.
    pub fn path(&self, path: &str) -> String {
        format!("{}{path}", self.prefix)
    }
}

impl FromStr for BackendAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || AddressError::Malformed(text.to_owned());
        if text.starts_with("https://") {
            return Err(AddressError::Https(text.to_owned()));
        }
        let rest = text.strip_prefix("http://").ok_or_else(malformed)?;
        let uri: http::Uri = format!("http://{rest}").parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?;
        let is_bare = uri.query().is_none() && !authority.as_str().contains('@');
        let port = authority.as_str().strip_prefix(authority.host());
        let is_port = |text: &str| {
            text.strip_prefix(':')?
                .parse::<u16>()
                .ok()
                .filter(|it| *it > 0)
        };
        let has_port = port.is_some_and(|text| is_port(text).is_some());
        if !is_bare || authority.host().is_empty() || (!has_port && port != Some("")) {
            return Err(malformed());
        }
        let path = uri.path().trim_end_matches('/');
        // People copy the base URL of an SDK.
        let prefix = path
            .strip_suffix("/v1")
            .unwrap_or(path)
            .trim_end_matches('/');
        Ok(Self {
            authority: authority.as_str().to_owned(),
            has_port,
            prefix: prefix.to_owned(),
        })
    }
}

impl fmt::Display for BackendAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_and_without_port_and_path() {
        for (text, shown, socket, path) in [
            ("http://a:1", "http://a:1", "a:1", "/v1/x"),
            ("http://a", "http://a", "a:80", "/v1/x"),
            ("http://a:1/", "http://a:1", "a:1", "/v1/x"),
            ("http://a:1/v1/", "http://a:1", "a:1", "/v1/x"),
            ("http://a:1/llm/v1", "http://a:1/llm", "a:1", "/llm/v1/x"),
            (
                "http://[::1]:8000",
                "http://[::1]:8000",
                "[::1]:8000",
                "/v1/x",
            ),
        ] {
            let address: BackendAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(address.socket(), socket);
            assert_eq!(address.path("/v1/x"), path);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_a_hint() {
        for text in [
            "",
            "a:1",
            "http://",
            "http://:1",
            "http://a:0",
            "http://a:99999",
            "http://u@a:1",
            "http://a:1/?q",
            "http://a b",
            "tcp://a:1",
        ] {
            let error = text.parse::<BackendAddress>().unwrap_err();
            assert_eq!(error, AddressError::Malformed(text.to_owned()), "{text}");
        }
        let error = "https://a:1".parse::<BackendAddress>().unwrap_err();
        assert!(matches!(error, AddressError::Https(_)));
    }
}
