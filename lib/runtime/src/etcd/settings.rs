//! Where etcd is and who asks: the options, checked once, before anything talks.

use super::error::CallError;
use super::tls::{TlsError, TlsFiles};
use crate::config::RuntimeOptions;
use dynamo_config::Secret;
use hyper::Uri;
use std::fmt;
use std::time::Duration;

/// Etcd's own port for clients.
const DEFAULT_PORT: u16 = 2379;

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct EtcdSettings {
    /// The members of the cluster that may be asked; at least one.
    pub endpoints: Vec<Endpoint>,
    /// Who asks, if etcd wants to know.
    pub user: Option<User>,
    /// Certificates, for endpoints that are `https`.
    pub tls: TlsFiles,
    /// How long a process that falls silent is taken for alive.
    pub lease_ttl: Duration,
}

/// A member of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// Its name or address, as a certificate would have it.
    pub host: String,
    /// `host:port` to connect to.
    pub authority: String,
}

/// A user of etcd.
#[derive(Debug, Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: Secret,
}

/// Why the options for etcd cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// An address is none.
    #[error(
        "etcd endpoint `{endpoint}` cannot be used ({reason}); give --etcd-endpoints (ETCD_ENDPOINTS) \
         addresses such as http://10.0.0.5:2379"
    )]
    Endpoint {
        /// The address.
        endpoint: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// There is no address.
    #[error("no etcd endpoint is given: set --etcd-endpoints (ETCD_ENDPOINTS)")]
    NoEndpoint,
    /// One of two options that belong together.
    #[error("{given} needs {missing}, and it is not given")]
    Half {
        /// The option that is there.
        given: &'static str,
        /// The option that is not.
        missing: &'static str,
    },
    /// Certificates for connections that have none.
    #[error("{given} is given and no etcd endpoint is https: write --etcd-endpoints with https://")]
    TlsUnused {
        /// The option that is there.
        given: &'static str,
    },
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

// === impl EtcdSettings ===

impl EtcdSettings {
    /// The part of the options that is about etcd, if it makes sense.
    pub fn new(options: &RuntimeOptions) -> Result<Self, SettingsError> {
        let endpoints = options.etcd_endpoints.iter();
        let endpoints: Vec<Endpoint> = endpoints
            .map(|text| Endpoint::parse(text))
            .collect::<Result<_, _>>()?;
        if endpoints.is_empty() {
            return Err(SettingsError::NoEndpoint);
        }
        let user = match (&options.etcd_username, &options.etcd_password) {
            (None, None) => None,
            (Some(name), Some(password)) => Some(User {
                name: name.clone(),
                password: password.clone(),
            }),
            (Some(_), None) => return Err(half("--etcd-username", "--etcd-password")),
            (None, Some(_)) => return Err(half("--etcd-password", "--etcd-username")),
        };
        let tls = TlsFiles {
            ca: options.etcd_ca.clone(),
            client: match (&options.etcd_client_cert, &options.etcd_client_key) {
                (None, None) => None,
                (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
                (Some(_), None) => return Err(half("--etcd-client-cert", "--etcd-client-key")),
                (None, Some(_)) => return Err(half("--etcd-client-key", "--etcd-client-cert")),
            },
        };
        if endpoints.iter().any(|endpoint| endpoint.tls) {
            // Read again at each connection; what cannot be read now is said at once.
            tls.config()?;
        } else if tls.ca.is_some() {
            return Err(SettingsError::TlsUnused { given: "--etcd-ca" });
        } else if tls.client.is_some() {
            let given = "--etcd-client-cert";
            return Err(SettingsError::TlsUnused { given });
        }
        Ok(Self {
            endpoints,
            user,
            tls,
            lease_ttl: options.etcd_lease_ttl,
        })
    }

    /// What may mend an error, for people.
    pub fn hint(&self, error: &CallError) -> &'static str {
        error.hint(self.endpoints.iter().any(|endpoint| endpoint.tls))
    }

    /// The endpoints, for people.
    pub fn shown(&self) -> String {
        let shown: Vec<String> = self.endpoints.iter().map(ToString::to_string).collect();
        shown.join(", ")
    }
}

fn half(given: &'static str, missing: &'static str) -> SettingsError {
    SettingsError::Half { given, missing }
}

// === impl Endpoint ===

impl Endpoint {
    /// Reads `http://host:port`, `https://host:port` or `host:port`; the port may be left out.
    pub fn parse(text: &str) -> Result<Self, SettingsError> {
        let wrong = |reason| SettingsError::Endpoint {
            endpoint: text.to_owned(),
            reason,
        };
        let full = if text.contains("://") {
            text.to_owned()
        } else {
            format!("http://{text}")
        };
        let uri: Uri = full.parse().map_err(|_| wrong("it is not a URL"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("it begins with neither http:// nor https://")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(wrong("it has a path"));
        }
        let authority = uri.authority().map_or("", |authority| authority.as_str());
        if authority.contains('@') {
            // Not shown again: there is a password in it.
            return Err(SettingsError::Endpoint {
                endpoint: format!("{}://...@...", uri.scheme_str().unwrap_or_default()),
                reason: "a user is given with --etcd-username and --etcd-password",
            });
        }
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| wrong("it has no host"))?;
        Ok(Self {
            tls,
            host: host.trim_matches(['[', ']']).to_owned(),
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(DEFAULT_PORT)),
        })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut RuntimeOptions)) -> String {
        let mut options = RuntimeOptions::default();
        change(&mut options);
        EtcdSettings::new(&options).unwrap_err().to_string()
    }

    #[test]
    fn endpoints_are_read_with_and_without_scheme_and_port() {
        let shown = |text| Endpoint::parse(text).unwrap().to_string();
        assert_eq!(
            shown("https://etcd.example:4001"),
            "https://etcd.example:4001"
        );
        assert_eq!(shown("10.0.0.5"), "http://10.0.0.5:2379");
        assert_eq!(shown("http://[::1]:7/"), "http://[::1]:7");
        assert_eq!(Endpoint::parse("https://[::1]").unwrap().host, "::1");
    }

    #[test]
    fn what_cannot_be_meant_is_refused_and_named() {
        for wrong in [
            "ftp://host",
            "http://host/path",
            "http://",
            "a b",
            "https://",
        ] {
            let error = Endpoint::parse(wrong).unwrap_err().to_string();
            assert!(
                error.contains(wrong) && error.contains("--etcd-endpoints"),
                "{error}"
            );
        }
        let error = Endpoint::parse("http://me:secret@host")
            .unwrap_err()
            .to_string();
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn options_that_belong_together_are_asked_for_together() {
        let error = refused(|options| options.etcd_username = Some("me".to_owned()));
        assert!(error.contains("--etcd-password"), "{error}");
        let error = refused(|options| options.etcd_client_key = Some("key".into()));
        assert!(error.contains("--etcd-client-cert"), "{error}");
        let error = refused(|options| options.etcd_ca = Some("ca".into()));
        assert!(error.contains("https"), "{error}");
        let error = refused(|options| options.etcd_endpoints = Vec::new());
        assert!(error.contains("--etcd-endpoints"), "{error}");
        let error = refused(|options| {
            options.etcd_endpoints = vec!["https://host".to_owned()];
            options.etcd_ca = Some("/nowhere/ca.pem".into());
        });
        assert!(
            error.contains("/nowhere/ca.pem") && error.contains("--etcd-ca"),
            "{error}"
        );
    }
}
