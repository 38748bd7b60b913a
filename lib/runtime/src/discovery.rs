//! The discovery plane: which processes live, what they serve, and where.
//!
//! A process announces one [`ProcessRecord`], always whole. The backend gives the process its id
//! and judges whether it lives; nobody else does. Everybody watches the set of living processes.
//!
//! The trait is small on purpose: no key-value store, no compare-and-set, no leases in sight. So
//! a folder on one machine, etcd and Kubernetes (one object per pod, readiness instead of leases)
//! fit equally well.
//!
//! Invariants
//! - A record is replaced as a whole: nobody ever sees half of an announcement.
//! - Process ids are unique among the living, not zero, and at most [`ProcessId::MAX`].
//! - Losing the backend does not empty anybody's view: it is kept, and marked stale until the
//!   backend is back. What was announced last is announced again on return.
//! - A watcher that reads too slowly gets a fresh snapshot instead of an unbounded backlog.
//!
//! [`contract`] is the suite that every backend passes.

pub mod contract;
pub mod endpoint_id;
pub mod etcd;
pub mod feed;
pub mod file;
pub mod file_folder;
pub mod file_record;
pub mod k8s_like;
pub mod mem;
pub mod metrics;
pub mod record;
pub mod view;

mod etcd_follower;
mod etcd_keeper;
mod etcd_lease;
mod etcd_mirror;

pub use endpoint_id::{EndpointId, NameError};
pub use feed::DiscoveryWatch;
pub use metrics::DiscoveryMetrics;
pub use record::{
    ArtefactRef, CardRecord, EventChannelRecord, InstanceRecord, MAX_RECORD_BYTES, Metadata,
    ProcessRecord, ProtocolVersions, RecordError,
};
pub use view::{DiscoveryEvent, View};

use crate::config::{DiscoveryBackend, RuntimeOptions};
use crate::etcd::{EtcdSettings, SettingsError};
use crate::{Environment, Tasks};
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

/// A living process, as its discovery backend names it.
///
/// It is also the id of the process's instance of each endpoint: a process has at most one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProcessId(u64);

/// An instance of an endpoint: the id of the process that serves it.
pub type InstanceId = ProcessId;

/// A discovery backend, seen from one process.
///
/// Dropping it is the end of the process as far as the others can tell: its record vanishes.
pub trait Discovery: Send + Sync + fmt::Debug + 'static {
    /// Replaces this process's whole record and gives back the process's id, which stays the
    /// same for as long as the process lives.
    ///
    /// On [`DiscoveryError::Unavailable`] the record is kept, and announced as soon as the
    /// backend is back, unless a later call replaces it.
    fn announce(&self, record: ProcessRecord) -> BoxFuture<'_, Result<ProcessId, DiscoveryError>>;

    /// Takes this process's record away; a later announcement gets the same id.
    ///
    /// On [`DiscoveryError::Unavailable`] the record goes as soon as the backend is back.
    fn withdraw(&self) -> BoxFuture<'_, Result<(), DiscoveryError>>;

    /// Watches all processes, this one included. The first event is a snapshot; a backend that
    /// has never been reached holds it back until it is.
    fn watch(&self) -> DiscoveryWatch;
}

/// Why a discovery backend did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiscoveryError {
    /// The record cannot be announced as it is.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The backend cannot be reached now. The call's wish is kept for its return.
    #[error("the {backend} discovery backend is unavailable: {reason}")]
    Unavailable {
        /// The backend's name, as in `--discovery-backend`.
        backend: &'static str,
        /// What the system said.
        reason: String,
    },
    /// The backend will not do it until somebody changes something: who asks, or what is asked.
    /// The call's wish is kept, as for an unavailable backend.
    #[error("the {backend} discovery backend refuses: {reason}")]
    Refused {
        /// The backend's name, as in `--discovery-backend`.
        backend: &'static str,
        /// What it said, and what may mend it.
        reason: String,
    },
    /// The options of the `etcd` backend make no sense.
    #[error(transparent)]
    Etcd(#[from] SettingsError),
    /// The folder of the `file` backend may not be used.
    #[error(transparent)]
    Folder(#[from] file_folder::FolderError),
}

/// Folders of the system that the binary found in its environment.
#[derive(Debug, Clone)]
pub struct SystemFolders {
    /// The user's folder for runtime files: `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// The folder for temporary files.
    pub temp_dir: PathBuf,
}

/// Opens the backend that the options name. Its tasks run below `tasks`. Only the `etcd` backend
/// fills `metrics`.
pub fn open(
    options: &RuntimeOptions,
    folders: &SystemFolders,
    environment: Environment,
    tasks: &Tasks,
    metrics: &DiscoveryMetrics,
) -> Result<Arc<dyn Discovery>, DiscoveryError> {
    match options.discovery_backend {
        DiscoveryBackend::Mem => Ok(Arc::new(mem::MemRegistry::new().join())),
        DiscoveryBackend::File => {
            let path = options.file_kv.clone().unwrap_or_else(|| {
                file_folder::default_folder(folders.runtime_dir.as_deref(), &folders.temp_dir)
            });
            let timings = file::FileTimings::default();
            let opened = file::FileDiscovery::open(path, environment, tasks, timings)?;
            Ok(Arc::new(opened))
        }
        DiscoveryBackend::Etcd => {
            let settings = EtcdSettings::new(options)?;
            let started = etcd::EtcdDiscovery::start(settings, environment, tasks, metrics);
            Ok(Arc::new(started))
        }
    }
}

impl ProcessId {
    /// The greatest id. Ids have at most 53 bits, so that JSON readers that keep numbers as
    /// doubles do not corrupt them.
    pub const MAX: u64 = (1 << 53) - 1;

    /// The id of this number, unless it is zero or too great.
    pub const fn new(id: u64) -> Option<Self> {
        if id == 0 || id > Self::MAX {
            return None;
        }
        Some(Self(id))
    }

    /// An id made of any 64 bits, such as random ones or a hash.
    pub fn from_bits(bits: u64) -> Self {
        Self((bits & Self::MAX).max(1))
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ProcessId {
    /// Hexadecimal, as in file names and logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl From<DiscoveryError> for RequestError {
    fn from(error: DiscoveryError) -> Self {
        let code = match error {
            DiscoveryError::Unavailable { .. } => ErrorCode::WorkerUnreachable,
            DiscoveryError::Record(_)
            | DiscoveryError::Refused { .. }
            | DiscoveryError::Etcd(_)
            | DiscoveryError::Folder(_) => ErrorCode::Internal,
        };
        Self::new(code, error.to_string())
    }
}
