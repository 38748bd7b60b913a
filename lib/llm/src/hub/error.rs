//! Why a model is not there, each with the way to mend it. No token and no signed address.

use super::reference::RepoId;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Names that an error lists; of more it gives the number.
const LISTED: usize = 20;

/// Names of files to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileList(pub Vec<String>);

impl fmt::Display for FileList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0[..self.0.len().min(LISTED)].join(", "))?;
        match self.0.len().saturating_sub(LISTED) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Why a model argument does not lead to a model on this machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The argument is neither a path nor an id.
    #[error(
        "model `{argument}`: {reason}; give a GGUF file, a folder, or a Hugging Face id such as \
         `org/name`, `org/name@revision` or `org/name:FILE.gguf`"
    )]
    Reference {
        /// The argument.
        argument: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Neither the cache's folder nor a home folder is known.
    #[error("no folder to keep models in: there is no home folder, set --hf-home or HF_HOME")]
    NoCacheFolder,
    /// The endpoint is not an address.
    #[error(
        "hub endpoint: {reason}; set HF_ENDPOINT to an address such as `https://huggingface.co`"
    )]
    Endpoint {
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The token cannot be sent.
    #[error("the token in HF_TOKEN has characters that a token cannot have")]
    Token,
    /// The system has no certificates to know the hub by.
    #[error(
        "no root certificates on this system to check {endpoint} with: install them (the package \
         is often called ca-certificates)"
    )]
    NoCertificates {
        /// The endpoint.
        endpoint: String,
    },
    /// The hub knows no such repository or revision.
    #[error("{endpoint} has no model `{repo}` with revision `{revision}`: check the spelling")]
    NotFound {
        /// The endpoint.
        endpoint: String,
        /// The repository.
        repo: RepoId,
        /// The revision.
        revision: String,
    },
    /// The hub does not give it to this caller. It says the same of what does not exist.
    #[error("{endpoint} refuses `{repo}` (status {status}): {}", denied_hint(*.token_sent))]
    Denied {
        /// The endpoint.
        endpoint: String,
        /// The repository.
        repo: RepoId,
        /// The HTTP status.
        status: u16,
        /// Whether a token went with the request.
        token_sent: bool,
    },
    /// The file that was chosen is not in the repository.
    #[error("`{repo}` has no GGUF file `{file}`; it has: {files}")]
    NoSuchFile {
        /// The repository.
        repo: RepoId,
        /// What was asked for.
        file: String,
        /// What there is.
        files: FileList,
    },
    /// There are several models in the repository.
    #[error("`{repo}` has several GGUF files, choose one with `{repo}:FILE`: {files}")]
    SeveralGguf {
        /// The repository.
        repo: RepoId,
        /// What there is.
        files: FileList,
    },
    /// There is no model in the repository.
    #[error("`{repo}` has neither .safetensors nor .gguf files")]
    NoModel {
        /// The repository.
        repo: RepoId,
    },
    /// It is not in the cache, and only the cache may be used.
    #[error(
        "`{repo}` is not in the cache and HF_HUB_OFFLINE (--hf-hub-offline) is set: unset it, or \
         put the model's files into {}", place.display()
    )]
    Offline {
        /// The repository.
        repo: RepoId,
        /// Where its files can be put.
        place: PathBuf,
    },
    /// The hub cannot be reached.
    #[error(
        "cannot reach {endpoint} for `{repo}`: put the model's files into {} and set \
         HF_HUB_OFFLINE=1 (--hf-hub-offline), or set HF_ENDPOINT to a mirror", place.display()
    )]
    Unreachable {
        /// The endpoint.
        endpoint: String,
        /// The repository.
        repo: RepoId,
        /// Where its files can be put.
        place: PathBuf,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The hub answers with a failure, also when asked again.
    #[error("{endpoint} answers with status {status}: try again later")]
    Server {
        /// The endpoint.
        endpoint: String,
        /// The HTTP status.
        status: u16,
    },
    /// The hub's answer makes no sense.
    #[error("{endpoint} gives an answer that cannot be used for `{about}`: {reason}")]
    Response {
        /// The endpoint.
        endpoint: String,
        /// The file or repository it is about.
        about: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The body ended early, also when asked again.
    #[error(
        "the download of `{file}` stopped after {received} of {size} bytes: start again to go on \
         from there"
    )]
    Truncated {
        /// The file.
        file: String,
        /// Bytes that are here.
        received: u64,
        /// Bytes of the whole.
        size: u64,
    },
    /// The server sent nothing more, also when asked again.
    #[error(
        "the server sent next to nothing for {waited:?} after {received} of {size} bytes of \
         `{file}`: see to the network and start again to go on from there, or set HF_ENDPOINT to \
         a mirror"
    )]
    Stalled {
        /// The file.
        file: String,
        /// How long it was waited for more.
        waited: Duration,
        /// Bytes that are here.
        received: u64,
        /// Bytes of the whole.
        size: u64,
    },
    /// The content is not what the hub announced.
    #[error("`{file}` arrived with checksum {actual} instead of {expected} and was thrown away")]
    Checksum {
        /// The file.
        file: String,
        /// What was announced.
        expected: String,
        /// What arrived.
        actual: String,
    },
    /// No room for the file.
    #[error(
        "no room on the disk for {}: it needs {missing} bytes more; make room, or set HF_HOME to \
         another disk; the download goes on from where it is", path.display()
    )]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// Bytes that are still to come.
        missing: u64,
    },
    /// A file of this size may not be written here.
    #[error(
        "{} may not become as large as it has to, {missing} bytes are missing: raise the limit of \
         this process (ulimit -f), or set HF_HOME to a file system that takes larger files; the \
         download goes on from where it is", path.display()
    )]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are still to come.
        missing: u64,
    },
    /// The cache cannot be read or written.
    #[error("cannot write the model cache at {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// Another process holds the file's lock and makes no progress.
    #[error(
        "another process is downloading `{file}` and makes no progress: end it, or wait for it \
         (it holds {})", lock.display()
    )]
    Locked {
        /// The file.
        file: String,
        /// The lock.
        lock: PathBuf,
    },
}

impl HubError {
    /// For a failed operation on the cache, with the bytes that were still to be written.
    pub(super) fn io(path: &Path, source: io::Error, missing: u64) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, missing }
            }
            io::ErrorKind::FileTooLarge => Self::FileTooLarge { path, missing },
            _ => Self::Io { path, source },
        }
    }
}

fn denied_hint(token_sent: bool) -> &'static str {
    if token_sent {
        "check the spelling, and that the owner of the token in HF_TOKEN may read it (its terms \
         may have to be accepted on its page)"
    } else {
        "check the spelling, and set HF_TOKEN if it is not open to everybody"
    }
}
