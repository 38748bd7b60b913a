//! Connections that go out: the peer must show a certificate that is trusted, for the name that it
//! is reached by.

use super::files::NamedFile;
use super::listener::{ServerTls, TlsListener};
use super::{Reloaded, TlsError, provider};
use crate::environment::{Connection, Listener, Network};
use futures_core::future::BoxFuture;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use tokio_rustls::TlsConnector;

/// The option for the name in peers' certificates.
pub(super) const SERVER_NAME: &str = "--tcp-tls-server-name";

/// Whom a process trusts, and who it is to those whom it connects to.
#[derive(Debug)]
pub struct ClientTls {
    config: Reloaded<ClientConfig>,
    /// The name that peers' certificates are for, where it is not the host's.
    server_name: Option<ServerName<'static>>,
}

/// A network whose connections are encrypted, both ways.
#[derive(Debug)]
pub struct TlsNetwork {
    inner: Arc<dyn Network>,
    server: Arc<ServerTls>,
    client: Arc<ClientTls>,
}

impl ClientTls {
    /// Trusts those whose certificates these authorities signed; shows a certificate of its own,
    /// if there is one.
    pub fn new(
        authorities: NamedFile,
        identity: Option<(NamedFile, NamedFile)>,
        server_name: Option<&str>,
    ) -> Result<Self, TlsError> {
        let server_name = server_name.map(|name| {
            ServerName::try_from(name.to_owned()).map_err(|error| TlsError::Authority {
                option: SERVER_NAME,
                reason: error.to_string(),
            })
        });
        let mut files = vec![authorities.clone()];
        files.extend(
            identity
                .iter()
                .flat_map(|(certificate, key)| [certificate.clone(), key.clone()]),
        );
        let config = Reloaded::new(files, move || {
            let identity = identity.as_ref();
            Ok(Arc::new(config(&authorities, identity)?))
        })?;
        Ok(Self {
            config,
            server_name: server_name.transpose()?,
        })
    }
}

fn config(
    authorities: &NamedFile,
    identity: Option<&(NamedFile, NamedFile)>,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider());
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = builder.with_root_certificates(authorities.authorities()?);
    let Some((certificate, key)) = identity else {
        return Ok(builder.with_no_client_auth());
    };
    let config = builder.with_client_auth_cert(certificate.certificates()?, key.key()?);
    config.map_err(|source| TlsError::Identity {
        certificate: certificate.option,
        key: key.option,
        source,
    })
}

impl TlsNetwork {
    /// Encrypts what goes over `inner`.
    pub fn new(inner: Arc<dyn Network>, server: Arc<ServerTls>, client: Arc<ClientTls>) -> Self {
        Self {
            inner,
            server,
            client,
        }
    }
}

impl Network for TlsNetwork {
    fn connect<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Connection>>> {
        Box::pin(async move {
            let name = match &self.client.server_name {
                Some(name) => name.clone(),
                None => name_of(address)?,
            };
            let connection = self.inner.connect(address).await?;
            let connector = TlsConnector::from(self.client.config.get());
            let stream = connector.connect(name, connection).await?;
            Ok(Box::new(stream) as Box<dyn Connection>)
        })
    }

    fn bind<'a>(&'a self, address: &'a str) -> BoxFuture<'a, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = self.inner.bind(address).await?;
            let listener = TlsListener::new(listener, Arc::clone(&self.server));
            Ok(Box::new(listener) as Box<dyn Listener>)
        })
    }

    fn excuses_silence(&self) -> bool {
        self.inner.excuses_silence()
    }
}

/// The host of `host:port`, by which its certificate is judged.
fn name_of(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).map_err(|error| {
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{host} is no name that a certificate can be for: {error}"),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_judged_by_the_host_of_an_address() {
        for (address, name) in [
            ("worker-7.cluster:9000", "worker-7.cluster"),
            ("127.0.0.1:9000", "127.0.0.1"),
            ("[::1]:9000", "::1"),
        ] {
            let expected = ServerName::try_from(name).unwrap();
            assert_eq!(name_of(address).unwrap(), expected);
        }
        assert!(name_of("no name:9000").is_err());
    }
}
