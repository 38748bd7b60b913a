//! Certificates and keys in PEM files, each with the option that names it.

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::PathBuf;

/// A file, and the option that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The option.
    pub option: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option} {} cannot be used: {reason}", path.display())]
pub struct FileError {
    /// The option that names it.
    pub option: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

impl NamedFile {
    /// The file that an option names.
    pub fn new(option: &'static str, path: impl Into<PathBuf>) -> Self {
        Self {
            option,
            path: path.into(),
        }
    }

    /// The certificates in the file, one's own first. Blocks.
    pub fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let read = CertificateDer::pem_file_iter(&self.path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let certificates = read.map_err(|error| self.wrong(&error))?;
        if certificates.is_empty() {
            return Err(self.wrong(&"there is no certificate in it"));
        }
        Ok(certificates)
    }

    /// The private key in the file. Blocks.
    pub fn key(&self) -> Result<PrivateKeyDer<'static>, FileError> {
        PrivateKeyDer::from_pem_file(&self.path).map_err(|error| self.wrong(&error))
    }

    /// The authorities in the file. Blocks.
    pub fn authorities(&self) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.wrong(&error))?;
        }
        Ok(roots)
    }

    fn wrong(&self, reason: &dyn std::fmt::Display) -> FileError {
        FileError {
            option: self.option,
            path: self.path.clone(),
            reason: reason.to_string(),
        }
    }
}
