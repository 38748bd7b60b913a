//! TLS to etcd: whom to trust, and how to show who one is. Files are read at each connection, so
//! that certificates can be renewed under a running process.

use crate::tls::{FileError, NamedFile};
use rustls::{ClientConfig, RootCertStore};
use std::path::PathBuf;
use std::sync::Arc;

/// Files with certificates and keys, in PEM.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// Authorities to trust, instead of those that the system trusts.
    pub ca: Option<PathBuf>,
    /// A certificate of one's own, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why a certificate or a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The system trusts nobody.
    #[error("the system has no certificates to trust: name etcd's own with --etcd-ca")]
    NoCertificates,
    /// Certificate and key do not belong together, or cannot be used for TLS.
    #[error("--etcd-client-cert and --etcd-client-key cannot be used: {0}")]
    Client(rustls::Error),
    /// The TLS library does not take the settings.
    #[error("tls cannot be set up: {0}")]
    Setup(rustls::Error),
}

// === impl TlsFiles ===

impl TlsFiles {
    /// Reads the files. Blocks.
    pub(super) fn config(&self) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(path) => NamedFile::new("--etcd-ca", path).authorities()?,
            None => trusted_by_the_system()?,
        };
        // Named here because another crate may bring another provider into the same program.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots);
        let mut config = match &self.client {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = NamedFile::new("--etcd-client-cert", certificate).certificates()?;
                let key = NamedFile::new("--etcd-client-key", key).key()?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(TlsError::Client)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn trusted_by_the_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoCertificates);
    }
    Ok(roots)
}
