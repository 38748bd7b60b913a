//! TLS to etcd: whom to trust, and how to show who one is. Files are read at each connection, so
//! that certificates can be renewed under a running process.

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
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
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{option} {path} cannot be used: {reason}")]
    File {
        /// The option that names it.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
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
            Some(path) => trusted("--etcd-ca", path)?,
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
                let chain = certificates("--etcd-client-cert", certificate)?;
                let key = PrivateKeyDer::from_pem_file(key)
                    .map_err(|error| wrong("--etcd-client-key", key, &error))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(TlsError::Client)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

fn trusted(option: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(option, path)? {
        roots
            .add(certificate)
            .map_err(|error| wrong(option, path, &error))?;
    }
    Ok(roots)
}

fn trusted_by_the_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(TlsError::NoCertificates);
    }
    Ok(roots)
}

fn certificates(
    option: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| wrong(option, path, &error))?;
    if certificates.is_empty() {
        return Err(wrong(option, path, &"there is no certificate in it"));
    }
    Ok(certificates)
}

fn wrong(option: &'static str, path: &Path, reason: &dyn std::fmt::Display) -> TlsError {
    TlsError::File {
        option,
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}
