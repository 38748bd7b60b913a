//! The folder of the `file` backend: whose it is, and which process holds which id.
//!
//! Per process two files, named by its id in hexadecimal:
//!
//! - `ID.lock`, on which the process holds an exclusive lock for as long as it lives. The kernel
//!   frees the lock on any death, kill -9 included: whoever can take it knows that the owner is
//!   gone. Nothing depends on time, so a busy machine declares nobody dead.
//! - `ID.json`, the record, written beside and renamed into place ([`super::file_record`]).
//!
//! How the races end
//! - A reader opens `ID.json` by name and never trusts the listing for it: listing a folder while
//!   a file is renamed over may miss it, opening gives the record before or after.
//! - Whoever finds a free lock takes it, sees that the file still has its name, removes the
//!   record, then the lock file, and lets go. Of two sweepers one gets the lock; the other takes
//!   the process for alive until its next look.
//! - An owner creates its lock file and then locks it. A sweeper may come in between: the owner
//!   then fails to lock, or finds that its file lost its name, and tries again.
//! - A record without lock file is swept by taking its id like an owner, so that two never work
//!   on one id.
//! - A record that cannot be read though its owner lives (a newer format, no permission) is left
//!   alone and not shown.
//!
//! Everything here blocks; [`super::file`] calls it from the compute pool. A child process that
//! was forked without exec keeps the lock: such children must exec or end before their parent.

use super::file_record::{self, ScanCache};
use super::view::Processes;
use super::{ProcessId, ProcessRecord};
use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Processes of one folder that are looked at; the rest is ignored and reported. Ten times what
/// one machine can sensibly run.
const MAX_PROCESSES: usize = 4096;

/// Tries to look at one id while others keep replacing its files.
const LOOKS: usize = 3;

/// Why a folder may not be used for discovery.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It is a file, or a link that somebody else may have put there.
    #[error(
        "the discovery folder {0} is not a folder: remove it, or name another with DYN_FILE_KV"
    )]
    NotAFolder(PathBuf),
    /// It belongs to another user.
    #[error(
        "the discovery folder {path} belongs to user {owner}, not to user {user} who runs this: \
         name another with DYN_FILE_KV"
    )]
    NotOurs {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who asks.
        user: u32,
    },
    /// Others may look into it or write to it.
    #[error(
        "the discovery folder {path} is open to other users (mode {mode:o}): \
         run chmod 700 {path}, or name another with DYN_FILE_KV"
    )]
    Open {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused to create it or look at it.
    #[error("cannot use the discovery folder {path}: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A folder that was checked.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

/// An id that this process holds.
#[derive(Debug)]
pub struct Claim {
    folder: Folder,
    id: ProcessId,
    lock: File,
}

/// What a look at one lock file says.
enum Look {
    Alive,
    Gone,
}

/// The folder to use when none is given: in the user's runtime folder if there is one, else in
/// the folder for temporary files, by user.
pub fn default_folder(runtime_dir: Option<&Path>, temp_dir: &Path) -> PathBuf {
    match runtime_dir {
        Some(runtime_dir) => runtime_dir.join("dynamo"),
        None => temp_dir.join(format!("dynamo-{}", own_user())),
    }
}

fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

// === impl Folder ===

impl Folder {
    /// Creates the folder with mode 0700 unless it is there, and checks that it is this user's
    /// and closed to others: who can write to it can send requests anywhere.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Io {
            path: path.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .or_else(|error| match error.kind() {
                // Something is there that is no folder: the check names it.
                io::ErrorKind::AlreadyExists => Ok(()),
                _ => Err(failed(error)),
            })?;
        Self::existing(path)
    }

    /// Checks the folder, and does not create it.
    pub fn existing(path: &Path) -> Result<Self, FolderError> {
        let metadata = fs::symlink_metadata(path).map_err(|source| FolderError::Io {
            path: path.to_owned(),
            source,
        })?;
        check(path, &metadata, own_user())?;
        Ok(Self {
            path: path.to_owned(),
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes an id, or gives `None` if another process holds it or its files are there.
    pub fn claim(&self, id: ProcessId) -> io::Result<Option<Claim>> {
        let path = self.file(id, "lock");
        let lock = match create_new(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let claim = Claim {
            folder: self.clone(),
            id,
            lock,
        };
        Ok(claim.is_held()?.then_some(claim))
    }

    /// All living processes. Sweeps what the dead left behind.
    ///
    /// `now` is the time of day, as the file system counts it. An error means that the folder
    /// itself cannot be read; what goes wrong with one process keeps what was known of it.
    pub fn scan(&self, cache: &mut ScanCache, now: Duration) -> io::Result<Processes> {
        let ids = self.list()?;
        cache.retain(&ids);
        let mut living = Processes::new();
        for id in ids {
            match self.look(id) {
                Ok(Look::Alive) => cache.refresh(id, &self.file(id, "json"), now),
                Ok(Look::Gone) => cache.forget(id),
                Err(error) => cache.report(id, &error),
            }
            if let Some(record) = cache.record(id) {
                living.insert(id, Arc::clone(record));
            }
        }
        Ok(living)
    }

    fn file(&self, id: ProcessId, extension: &str) -> PathBuf {
        self.path.join(format!("{id}.{extension}"))
    }

    fn list(&self) -> io::Result<BTreeSet<ProcessId>> {
        let mut ids = BTreeSet::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some((id, "lock" | "json")) = name.to_str().and_then(|n| n.split_once('.')) else {
                continue;
            };
            ids.extend(u64::from_str_radix(id, 16).ok().and_then(ProcessId::new));
        }
        if ids.len() > MAX_PROCESSES {
            tracing::warn!(
                processes = ids.len(),
                limit = MAX_PROCESSES,
                "too many processes in the discovery folder, ignoring the rest"
            );
            while ids.len() > MAX_PROCESSES {
                ids.pop_last();
            }
        }
        Ok(ids)
    }

    /// Whether the process lives; sweeps its files if not.
    fn look(&self, id: ProcessId) -> io::Result<Look> {
        for _ in 0..LOOKS {
            match File::open(self.file(id, "lock")) {
                Ok(lock) => match lock.try_lock() {
                    Err(TryLockError::WouldBlock) => return Ok(Look::Alive),
                    Err(TryLockError::Error(error)) => return Err(error),
                    Ok(()) => {
                        let claim = Claim {
                            folder: self.clone(),
                            id,
                            lock,
                        };
                        if claim.is_held()? {
                            claim.release()?;
                            return Ok(Look::Gone);
                        }
                        // Swept by another, and maybe taken again: look again.
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if !fs::exists(self.file(id, "json"))? {
                        return Ok(Look::Gone);
                    }
                    if let Some(claim) = self.claim(id)? {
                        claim.release()?;
                        return Ok(Look::Gone);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        // Its files keep changing hands, so somebody is there.
        Ok(Look::Alive)
    }
}

/// Whether a folder with this metadata may be used by `user`.
fn check(path: &Path, metadata: &Metadata, user: u32) -> Result<(), FolderError> {
    let path = path.to_owned();
    if !metadata.is_dir() {
        return Err(FolderError::NotAFolder(path));
    }
    let owner = metadata.uid();
    if owner != user {
        return Err(FolderError::NotOurs { path, owner, user });
    }
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FolderError::Open { path, mode });
    }
    Ok(())
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

// === impl Claim ===

impl Claim {
    /// The id that is held.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether the lock file still has its name, so that others see the lock.
    pub fn is_held(&self) -> io::Result<bool> {
        match fs::symlink_metadata(self.folder.file(self.id, "lock")) {
            Ok(named) => {
                let held = self.lock.metadata()?;
                Ok((named.dev(), named.ino()) == (held.dev(), held.ino()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether the record's file is there.
    pub fn has_record(&self) -> io::Result<bool> {
        fs::exists(self.folder.file(self.id, "json"))
    }

    /// Replaces the record.
    pub fn write(&self, record: &ProcessRecord) -> io::Result<()> {
        let text = file_record::encode(record)?;
        let beside = self.folder.file(self.id, "tmp");
        // What a writer that failed half-way left is in the way of `create_new`.
        remove(&beside)?;
        create_new(&beside)?.write_all(&text)?;
        fs::rename(beside, self.folder.file(self.id, "json"))
    }

    /// Takes the record away and keeps the id.
    pub fn clear(&self) -> io::Result<()> {
        remove(&self.folder.file(self.id, "json"))
    }

    /// Gives the id back: the record goes first, so that nobody sees it without its lock.
    pub fn release(self) -> io::Result<()> {
        self.clear()?;
        remove(&self.folder.file(self.id, "tmp"))?;
        remove(&self.folder.file(self.id, "lock"))
    }
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

#[cfg(test)]
mod tests;
