//! Names: a namespace holds components, a component has endpoints.
//!
//! A name is 1 to [`MAX_NAME_LEN`] characters of `A-Z a-z 0-9 _ -`. It has no dots, because they
//! part the names in `dyn://namespace.component.endpoint`; no slashes or percent signs, so that
//! it goes into paths, subjects and object names unescaped.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest name. Three of them and an id still fit into a file name or a NATS subject.
pub const MAX_NAME_LEN: usize = 128;

/// Namespace of an endpoint that names none.
pub const DEFAULT_NAMESPACE: &str = "dynamo";
/// Component of an endpoint that names none.
pub const DEFAULT_COMPONENT: &str = "backend";
/// Endpoint of a component that names none.
pub const DEFAULT_ENDPOINT: &str = "generate";

const SCHEME: &str = "dyn://";

/// An endpoint's full name. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawEndpointId")]
pub struct EndpointId {
    namespace: Arc<str>,
    component: Arc<str>,
    endpoint: Arc<str>,
}

/// The same before its names were checked.
#[derive(Deserialize)]
struct RawEndpointId {
    namespace: String,
    component: String,
    endpoint: String,
}

/// Why a text is no name or no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A name is empty, too long, or has a character that names do not have.
    #[error(
        "{what} {name:?} is not a name: use 1 to {MAX_NAME_LEN} of the characters A-Z a-z 0-9 _ -"
    )]
    Invalid {
        /// Which of the names: namespace, component or endpoint.
        what: &'static str,
        /// The text, cut to the longest name.
        name: String,
    },
    /// The text does not have three parts.
    #[error("{text:?} is not an endpoint: write dyn://namespace.component.endpoint")]
    Parts {
        /// The text, cut to the longest name.
        text: String,
    },
}

impl EndpointId {
    /// The endpoint of these names.
    pub fn new(namespace: &str, component: &str, endpoint: &str) -> Result<Self, NameError> {
        check_name("namespace", namespace)?;
        check_name("component", component)?;
        check_name("endpoint", endpoint)?;
        Ok(Self {
            namespace: namespace.into(),
            component: component.into(),
            endpoint: endpoint.into(),
        })
    }

    /// Reads `dyn://component`, `dyn://namespace.component` or all three parts; what is missing
    /// is the process's own namespace, [`DEFAULT_COMPONENT`] and [`DEFAULT_ENDPOINT`].
    pub fn parse_with_defaults(text: &str, own_namespace: &str) -> Result<Self, NameError> {
        let names = text.strip_prefix(SCHEME).unwrap_or(text);
        if names.is_empty() {
            return Self::new(own_namespace, DEFAULT_COMPONENT, DEFAULT_ENDPOINT);
        }
        let parts: Vec<&str> = names.splitn(4, '.').collect();
        match parts.as_slice() {
            [component] => Self::new(own_namespace, component, DEFAULT_ENDPOINT),
            [namespace, component] => Self::new(namespace, component, DEFAULT_ENDPOINT),
            [namespace, component, endpoint] => Self::new(namespace, component, endpoint),
            _ => Err(NameError::Parts { text: cut(text) }),
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The component.
    pub fn component(&self) -> &str {
        &self.component
    }

    /// The endpoint's own name.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

impl FromStr for EndpointId {
    type Err = NameError;

    /// Reads `dyn://namespace.component.endpoint`, with or without the scheme.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let names = text.strip_prefix(SCHEME).unwrap_or(text);
        let parts: Vec<&str> = names.splitn(4, '.').collect();
        let [namespace, component, endpoint] = parts.as_slice() else {
            return Err(NameError::Parts { text: cut(text) });
        };
        Self::new(namespace, component, endpoint)
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            namespace,
            component,
            endpoint,
        } = self;
        write!(f, "{SCHEME}{namespace}.{component}.{endpoint}")
    }
}

impl TryFrom<RawEndpointId> for EndpointId {
    type Error = NameError;

    fn try_from(raw: RawEndpointId) -> Result<Self, NameError> {
        Self::new(&raw.namespace, &raw.component, &raw.endpoint)
    }
}

/// Whether the text may name a namespace, component or endpoint; `what` says which, for the error.
pub fn check_name(what: &'static str, name: &str) -> Result<(), NameError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(NameError::Invalid {
        what,
        name: cut(name),
    })
}

/// Enough of an untrusted text to recognise it.
fn cut(text: &str) -> String {
    text.chars().take(MAX_NAME_LEN).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_scheme_is_optional() {
        let written: EndpointId = "dyn://ns.comp.ep".parse().unwrap();
        assert_eq!(written, "ns.comp.ep".parse().unwrap());
        assert_eq!(written, EndpointId::new("ns", "comp", "ep").unwrap());
        assert_eq!(written.to_string(), "dyn://ns.comp.ep");
    }

    #[test]
    fn missing_parts_get_their_defaults() {
        let full = |text| {
            let endpoint = EndpointId::parse_with_defaults(text, "own").unwrap();
            endpoint.to_string()
        };
        assert_eq!(full("dyn://"), "dyn://own.backend.generate");
        assert_eq!(full("comp"), "dyn://own.comp.generate");
        assert_eq!(full("dyn://ns.comp"), "dyn://ns.comp.generate");
        assert_eq!(full("ns.comp.ep"), "dyn://ns.comp.ep");
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for text in ["", "ns", "ns.comp", "a.b.c.d", "dyn://a.b.c.d"] {
            let error = text.parse::<EndpointId>().unwrap_err();
            assert!(matches!(error, NameError::Parts { .. }), "{text}");
        }
        for text in ["..", "a b.c.d", "a/b.c.d", "ä.b.c", "http://a.b.c"] {
            let error = text.parse::<EndpointId>().unwrap_err();
            assert!(matches!(error, NameError::Invalid { .. }), "{text}");
        }
        let long = "x".repeat(MAX_NAME_LEN + 1);
        assert!(EndpointId::new(&long, "b", "c").is_err());
        assert!(EndpointId::new(&long[1..], "b", "c").is_ok());
    }

    #[test]
    fn records_of_others_are_checked_too() {
        let json = r#"{"namespace":"../etc","component":"b","endpoint":"c"}"#;
        assert!(serde_json::from_str::<EndpointId>(json).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            names in proptest::array::uniform3("[A-Za-z0-9_-]{1,128}"),
        ) {
            let id = EndpointId::new(&names[0], &names[1], &names[2]).unwrap();
            prop_assert_eq!(&id.to_string().parse::<EndpointId>().unwrap(), &id);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<EndpointId>(&json).unwrap(), id);
        }
    }
}
