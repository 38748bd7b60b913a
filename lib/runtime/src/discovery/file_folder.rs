//! The folder of the `file` backend: whose it is, which process holds which id, and what they say.
//!
//! Per process two files, named by its id in hexadecimal:
//!
//! - `ID.lock`, on which the process holds an exclusive lock for as long as it lives. The kernel
//!   frees the lock on any death, kill -9 included: whoever can take it knows that the owner is
//!   gone. Nothing depends on time, so a busy machine declares nobody dead.
//! - `ID.json`, the record, written beside and renamed into place.
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

use super::view::Processes;
use super::{MAX_RECORD_BYTES, ProcessId, ProcessRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Version of the file's form. A reader leaves newer ones alone.
const FORMAT: u32 = 1;

/// Largest file that is read: a record and what is written around it.
const MAX_FILE_BYTES: u64 = MAX_RECORD_BYTES as u64 + 1024;

/// Processes of one folder that are looked at; the rest is ignored and reported. Ten times what
/// one machine can sensibly run.
const MAX_PROCESSES: usize = 4096;

/// A file that was written so shortly before it was read may be written again within the same
/// tick of the file system's clock (at most 10 ms, 2 s on FAT) and look unchanged: it is read again.
const RACY_WINDOW: Duration = Duration::from_secs(2);

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

/// What earlier scans read, to read unchanged files once.
#[derive(Debug, Default)]
pub struct ScanCache {
    read: BTreeMap<ProcessId, Cached>,
    /// Records that were reported as unreadable, so that they are reported once.
    reported: BTreeSet<ProcessId>,
}

#[derive(Debug)]
struct Cached {
    stamp: Stamp,
    /// The file cannot change again without its stamp changing.
    settled: bool,
    /// `None`: it cannot be read.
    record: Option<Arc<ProcessRecord>>,
}

/// What tells one state of a file from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: Duration,
}

/// What is in a record's file.
#[derive(Serialize, Deserialize)]
struct Written<R> {
    format: u32,
    /// The writer's process id on this machine, for people who look.
    #[serde(default)]
    pid: u32,
    record: R,
}

/// Reads the format alone, whatever else a newer writer wrote.
#[derive(Deserialize)]
struct Format {
    format: u32,
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
        cache.read.retain(|id, _| ids.contains(id));
        cache.reported.retain(|id| ids.contains(id));
        let mut living = Processes::new();
        for id in ids {
            match self.look(id) {
                Ok(Look::Alive) => self.read_if_changed(id, cache, now),
                Ok(Look::Gone) => drop(cache.read.remove(&id)),
                Err(error) => cache.report(id, &error),
            }
            if let Some(record) = cache
                .read
                .get(&id)
                .and_then(|cached| cached.record.as_ref())
            {
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

    fn read_if_changed(&self, id: ProcessId, cache: &mut ScanCache, now: Duration) {
        let path = self.file(id, "json");
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                cache.read.remove(&id);
                return;
            }
            Err(error) => return cache.report(id, &error),
        };
        let stamp = Stamp::of(&metadata);
        if cache
            .read
            .get(&id)
            .is_some_and(|cached| cached.settled && cached.stamp == stamp)
        {
            return;
        }
        let record = match read(&path) {
            Ok(record) => Some(Arc::new(record)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                cache.report(id, &error);
                None
            }
            Err(error) => return cache.report(id, &error),
        };
        let settled = stamp.modified + RACY_WINDOW < now;
        cache.read.insert(
            id,
            Cached {
                stamp,
                settled,
                record,
            },
        );
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

fn read(path: &Path) -> io::Result<ProcessRecord> {
    let invalid = |error: serde_json::Error| io::Error::new(io::ErrorKind::InvalidData, error);
    let mut text = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too large"));
    }
    let Format { format } = serde_json::from_slice(&text).map_err(invalid)?;
    if format > FORMAT {
        let newer = format!("format {format} of a newer version");
        return Err(io::Error::new(io::ErrorKind::InvalidData, newer));
    }
    let written: Written<ProcessRecord> = serde_json::from_slice(&text).map_err(invalid)?;
    Ok(written.record)
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
        let text = serde_json::to_vec(&Written {
            format: FORMAT,
            pid: std::process::id(),
            record,
        })?;
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

// === impl ScanCache ===

impl ScanCache {
    fn report(&mut self, id: ProcessId, error: &io::Error) {
        if self.reported.insert(id) {
            tracing::warn!(instance_id = %id, %error, "cannot read a discovery record");
        }
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        let seconds = u64::try_from(metadata.mtime()).unwrap_or_default();
        let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or_default();
        Self {
            inode: metadata.ino(),
            len: metadata.len(),
            modified: Duration::new(seconds, nanoseconds),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::{EndpointId, InstanceRecord};
    use std::os::unix::fs::PermissionsExt;
    use tempfile::TempDir;

    const NOW: Duration = Duration::ZERO;

    fn folder() -> (TempDir, Folder) {
        let temp = tempfile::tempdir().unwrap();
        let folder = Folder::open(&temp.path().join("discovery")).unwrap();
        (temp, folder)
    }

    fn id(id: u64) -> ProcessId {
        ProcessId::new(id).unwrap()
    }

    fn record(port: u16) -> ProcessRecord {
        ProcessRecord {
            instances: vec![InstanceRecord {
                endpoint: EndpointId::new("ns", "comp", "ep").unwrap(),
                address: format!("tcp://127.0.0.1:{port}"),
                metadata: BTreeMap::new(),
            }],
            ..ProcessRecord::default()
        }
    }

    fn names(folder: &Folder) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    /// What the kernel does on any death: the lock goes, the files stay.
    fn die(claim: Claim) {
        drop(claim);
    }

    #[test]
    fn a_new_folder_is_closed_to_others() {
        let (_temp, folder) = folder();
        let mode = fs::metadata(folder.path()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        Folder::open(folder.path()).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_reach_is_refused_with_the_way_to_mend_it() {
        let temp = tempfile::tempdir().unwrap();
        let open = temp.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o750)).unwrap();
        let error = Folder::open(&open).unwrap_err().to_string();
        assert!(error.contains("mode 750"), "{error}");
        assert!(error.contains("chmod 700"), "{error}");

        let link = temp.path().join("link");
        std::os::unix::fs::symlink(temp.path(), &link).unwrap();
        let error = Folder::open(&link).unwrap_err();
        assert!(matches!(error, FolderError::NotAFolder(_)), "{error}");

        let metadata = fs::symlink_metadata(temp.path()).unwrap();
        let error = check(temp.path(), &metadata, metadata.uid() + 1).unwrap_err();
        assert!(matches!(error, FolderError::NotOurs { .. }), "{error}");
    }

    #[test]
    fn the_default_folder_is_the_users_own() {
        let temp = Path::new("/tmp");
        let runtime = default_folder(Some(Path::new("/run/user/7")), temp);
        assert_eq!(runtime, Path::new("/run/user/7/dynamo"));
        let fallback = default_folder(None, temp);
        assert_eq!(fallback, temp.join(format!("dynamo-{}", own_user())));
    }

    #[test]
    fn an_id_is_held_by_one_process() {
        let (_temp, folder) = folder();
        let held = folder.claim(id(7)).unwrap().unwrap();
        assert!(folder.claim(id(7)).unwrap().is_none());
        held.release().unwrap();
        assert!(folder.claim(id(7)).unwrap().is_some());
    }

    #[test]
    fn the_living_are_seen_and_the_dead_are_swept() {
        let (_temp, folder) = folder();
        let mut cache = ScanCache::default();
        let (one, two) = (folder.claim(id(1)), folder.claim(id(2)));
        let (one, two) = (one.unwrap().unwrap(), two.unwrap().unwrap());
        one.write(&record(1)).unwrap();
        two.write(&record(2)).unwrap();
        assert_eq!(folder.scan(&mut cache, NOW).unwrap().len(), 2);
        die(one);
        let living = folder.scan(&mut cache, NOW).unwrap();
        assert_eq!(living.keys().copied().collect::<Vec<_>>(), [id(2)]);
        assert_eq!(names(&folder), ["2.json", "2.lock"]);
    }

    #[test]
    fn a_process_without_record_is_not_shown_and_not_swept() {
        let (_temp, folder) = folder();
        let mut cache = ScanCache::default();
        let claim = folder.claim(id(1)).unwrap().unwrap();
        claim.write(&record(1)).unwrap();
        assert_eq!(folder.scan(&mut cache, NOW).unwrap().len(), 1);
        claim.clear().unwrap();
        assert!(folder.scan(&mut cache, NOW).unwrap().is_empty());
        assert!(claim.is_held().unwrap());
    }

    #[test]
    fn leftovers_of_a_writer_that_died_half_way_are_swept() {
        let (_temp, folder) = folder();
        fs::write(folder.file(id(9), "json"), "{\"format\": 1, \"rec").unwrap();
        let claim = folder.claim(id(8)).unwrap().unwrap();
        fs::write(folder.file(id(8), "tmp"), "{\"form").unwrap();
        // A half-written file beside does not keep its owner from writing again.
        claim.write(&record(1)).unwrap();
        fs::write(folder.file(id(8), "tmp"), "{\"form").unwrap();
        die(claim);
        fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        let living = folder.scan(&mut ScanCache::default(), NOW).unwrap();
        assert!(living.is_empty());
        assert_eq!(names(&folder), ["notes.txt"]);
    }

    #[test]
    fn a_record_of_a_newer_version_is_left_alone() {
        let (_temp, folder) = folder();
        let claim = folder.claim(id(1)).unwrap().unwrap();
        let newer = r#"{"format": 2, "record": "in another form"}"#;
        fs::write(folder.file(id(1), "json"), newer).unwrap();
        let living = folder.scan(&mut ScanCache::default(), NOW).unwrap();
        assert!(living.is_empty());
        assert!(claim.has_record().unwrap());
    }

    #[test]
    fn a_file_larger_than_any_record_is_not_read() {
        let (_temp, folder) = folder();
        let claim = folder.claim(id(1)).unwrap().unwrap();
        let padding = " ".repeat(usize::try_from(MAX_FILE_BYTES).unwrap());
        claim.write(&record(1)).unwrap();
        let text = fs::read_to_string(folder.file(id(1), "json")).unwrap();
        fs::write(folder.file(id(1), "json"), text + &padding).unwrap();
        let living = folder.scan(&mut ScanCache::default(), NOW).unwrap();
        assert!(living.is_empty());
    }

    #[test]
    fn settled_files_are_read_once_and_fresh_ones_again() {
        let (_temp, folder) = folder();
        let claim = folder.claim(id(1)).unwrap().unwrap();
        claim.write(&record(1)).unwrap();
        let path = folder.file(id(1), "json");
        let written = Stamp::of(&fs::metadata(&path).unwrap()).modified;
        let mut cache = ScanCache::default();
        let fresh = folder.scan(&mut cache, written).unwrap();
        let again = folder.scan(&mut cache, written + 2 * RACY_WINDOW).unwrap();
        assert!(!Arc::ptr_eq(&fresh[&id(1)], &again[&id(1)]));
        let settled = folder.scan(&mut cache, written + 2 * RACY_WINDOW).unwrap();
        assert!(Arc::ptr_eq(&again[&id(1)], &settled[&id(1)]));
        claim.write(&record(2)).unwrap();
        let changed = folder.scan(&mut cache, written + 2 * RACY_WINDOW).unwrap();
        assert_eq!(*changed[&id(1)], record(2));
    }

    #[test]
    fn many_sweepers_and_writers_do_not_harm_each_other() {
        const ROUNDS: u64 = 200;
        let (_temp, folder) = folder();
        let living = folder.claim(id(1)).unwrap().unwrap();
        living.write(&record(1)).unwrap();
        std::thread::scope(|scope| {
            for sweeper in 0..4 {
                let folder = &folder;
                scope.spawn(move || {
                    let mut cache = ScanCache::default();
                    for _ in 0..ROUNDS {
                        let seen = folder.scan(&mut cache, NOW).unwrap();
                        assert!(seen.contains_key(&id(1)), "sweeper {sweeper}");
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    // An id between creation and lock may be swept: the owner tries another.
                    if let Some(claim) = folder.claim(id(100 + round)).unwrap() {
                        claim.write(&record(2)).unwrap();
                        die(claim);
                    }
                    living.write(&record(3)).unwrap();
                }
            });
        });
        folder.scan(&mut ScanCache::default(), NOW).unwrap();
        assert_eq!(names(&folder), ["1.json", "1.lock"]);
    }
}
