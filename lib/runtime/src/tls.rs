//! TLS on the connections of a process: who it is, whom it lets in, whom it trusts.
//!
//! Invariants
//! - Certificates are renewed under a running process: files that changed are read again, and
//!   connections made from then on use them. Files that cannot be used are reported once per
//!   change, and what was read before stays.
//! - A handshake holds up its own connection and no other: it is made by whoever reads or writes
//!   first, within their time limits.
//!
//! What it does not do: bound the handshake's time. Those who accept and dial bound what they
//! wait for already.
//!
//! - [`config`]: the options
//! - [`files`]: certificates and keys in PEM
//! - [`listener`]: connections that come in
//! - [`network`]: those that go out

pub mod config;
pub mod files;
pub mod listener;
pub mod network;

pub use config::{HttpTlsOptions, TcpTlsOptions};
pub use files::{FileError, NamedFile};
pub use listener::{ServerTls, TlsListener};
pub use network::{ClientTls, TlsNetwork};

use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// How often files are looked at, at most: often enough for whoever renews them, and nothing beside
/// a handshake.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Certificate and key do not belong together, or cannot be used for TLS.
    #[error("{certificate} and {key} cannot be used: {source}")]
    Identity {
        /// The option that names the certificate.
        certificate: &'static str,
        /// The option that names the key.
        key: &'static str,
        /// What the TLS library says.
        source: rustls::Error,
    },
    /// The certificates to judge others by are none.
    #[error("{option} cannot be used: {reason}")]
    Authority {
        /// The option.
        option: &'static str,
        /// What is wrong with them.
        reason: String,
    },
    /// One option makes no sense without another.
    #[error("{given} needs {missing} as well")]
    Missing {
        /// The option that was given.
        given: &'static str,
        /// What was not.
        missing: &'static str,
    },
    /// The TLS library does not take the settings.
    #[error("tls cannot be set up: {0}")]
    Setup(#[from] rustls::Error),
}

/// What was made of files, and made again when they change.
struct Reloaded<T> {
    files: Vec<NamedFile>,
    make: Box<dyn Fn() -> Result<Arc<T>, TlsError> + Send + Sync>,
    current: Mutex<Current<T>>,
}

struct Current<T> {
    value: Arc<T>,
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
}

/// What tells one version of a file from the next: time of change and length.
type Stamp = (SystemTime, u64);

impl<T> Reloaded<T> {
    fn new(
        files: Vec<NamedFile>,
        make: impl Fn() -> Result<Arc<T>, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is read again.
        let stamps = stamps(&files);
        Ok(Self {
            current: Mutex::new(Current {
                value: make()?,
                stamps,
                looked: Instant::now(),
            }),
            files,
            make: Box::new(make),
        })
    }

    /// What the files say now, or said when they could be used last. Reads a few small files once
    /// after each change, and looks at them once a second at most.
    fn get(&self) -> Arc<T> {
        let mut current = self.current.lock();
        let now = Instant::now();
        if now.saturating_duration_since(current.looked) < LOOK_INTERVAL {
            return Arc::clone(&current.value);
        }
        current.looked = now;
        let stamps = stamps(&self.files);
        if stamps != current.stamps {
            current.stamps = stamps;
            match (self.make)() {
                Ok(value) => {
                    tracing::info!(files = ?self.paths(), "certificates were read again");
                    current.value = value;
                }
                Err(error) => {
                    tracing::warn!(%error, "changed certificates cannot be used; those before stay");
                }
            }
        }
        Arc::clone(&current.value)
    }

    fn paths(&self) -> Vec<&std::path::Path> {
        self.files.iter().map(|file| &*file.path).collect()
    }
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

fn stamps(files: &[NamedFile]) -> Vec<Option<Stamp>> {
    let stamp = |file: &NamedFile| {
        let metadata = std::fs::metadata(&file.path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    };
    files.iter().map(stamp).collect()
}

/// Named, because another crate may bring another provider into the same program.
fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test(start_paused = true)]
    async fn files_that_change_are_read_again_and_what_cannot_be_used_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("number");
        let write = |text: &str| fs::write(&path, text).unwrap();
        write("1");
        let read = path.clone();
        let files = vec![NamedFile::new("--number", &path)];
        let reloaded = Reloaded::new(files.clone(), move || {
            let text = fs::read_to_string(&read).unwrap_or_default();
            let number = text.parse::<u32>().map_err(|error| TlsError::Authority {
                option: "--number",
                reason: error.to_string(),
            });
            Ok(Arc::new(number?))
        });
        let reloaded = reloaded.unwrap();
        let later = async || {
            tokio::time::advance(LOOK_INTERVAL).await;
            *reloaded.get()
        };
        assert_eq!(*reloaded.get(), 1);
        write("22");
        assert_eq!(*reloaded.get(), 1, "it was looked at a moment ago");
        assert_eq!(later().await, 22);
        write("nothing");
        assert_eq!(later().await, 22);
        fs::remove_file(&path).unwrap();
        assert_eq!(later().await, 22);
        write("333");
        assert_eq!(later().await, 333);
    }
}
