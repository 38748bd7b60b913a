//! The record's file of the `file` backend: its form, and when it has to be read again.
//!
//! A file says the version of its form before anything else, so that a reader can leave alone
//! what a newer writer wrote. A folder is looked at many times a second and its files hardly ever
//! change: [`ScanCache`] keeps what was read, and knows which files cannot have changed since.
//!
//! Which files there are, whose they are and who may write them is [`super::file_folder`]'s.

use super::{MAX_RECORD_BYTES, ProcessId, ProcessRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Version of the file's form. A reader leaves newer ones alone.
const FORMAT: u32 = 1;

/// Largest file that is read: a record and what is written around it.
const MAX_FILE_BYTES: u64 = MAX_RECORD_BYTES as u64 + 1024;

/// A file that was written so shortly before it was read may be written again within the same
/// tick of the file system's clock (at most 10 ms, 2 s on FAT) and look unchanged: it is read again.
const RACY_WINDOW: Duration = Duration::from_secs(2);

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

/// The content of the record's file.
pub(super) fn encode(record: &ProcessRecord) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(&Written {
        format: FORMAT,
        pid: std::process::id(),
        record,
    })?;
    Ok(text)
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

// === impl ScanCache ===

impl ScanCache {
    /// What is known of the process.
    pub(super) fn record(&self, id: ProcessId) -> Option<&Arc<ProcessRecord>> {
        self.read.get(&id)?.record.as_ref()
    }

    /// Reads the process's file unless it is known to be unchanged. `now` is the time of day, as
    /// the file system counts it.
    pub(super) fn refresh(&mut self, id: ProcessId, path: &Path, now: Duration) {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.forget(id),
            Err(error) => return self.report(id, &error),
        };
        let stamp = Stamp::of(&metadata);
        if self
            .read
            .get(&id)
            .is_some_and(|cached| cached.settled && cached.stamp == stamp)
        {
            return;
        }
        let record = match read(path) {
            Ok(record) => Some(Arc::new(record)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                self.report(id, &error);
                None
            }
            Err(error) => return self.report(id, &error),
        };
        let cached = Cached {
            stamp,
            settled: stamp.modified + RACY_WINDOW < now,
            record,
        };
        self.read.insert(id, cached);
    }

    /// The process has no record.
    pub(super) fn forget(&mut self, id: ProcessId) {
        self.read.remove(&id);
    }

    /// Only these processes are left.
    pub(super) fn retain(&mut self, ids: &BTreeSet<ProcessId>) {
        self.read.retain(|id, _| ids.contains(id));
        self.reported.retain(|id| ids.contains(id));
    }

    /// Says once that something about the process cannot be read; what was known stays.
    pub(super) fn report(&mut self, id: ProcessId, error: &io::Error) {
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
    use std::path::PathBuf;
    use tempfile::TempDir;

    fn id() -> ProcessId {
        ProcessId::from_bits(1)
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

    /// A file with the content, and a time at which nobody can have written to it any more.
    fn file(content: &[u8]) -> (TempDir, PathBuf, Duration) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("1.json");
        fs::write(&path, content).unwrap();
        let written = Stamp::of(&fs::metadata(&path).unwrap()).modified;
        (folder, path, written + 2 * RACY_WINDOW)
    }

    #[test]
    fn settled_files_are_read_once_and_fresh_ones_again() {
        let (_folder, path, later) = file(&encode(&record(1)).unwrap());
        let mut cache = ScanCache::default();
        let mut look = |now| {
            cache.refresh(id(), &path, now);
            Arc::clone(cache.record(id()).unwrap())
        };
        let fresh = look(Duration::ZERO);
        let again = look(later);
        assert!(!Arc::ptr_eq(&fresh, &again));
        assert!(Arc::ptr_eq(&again, &look(later)));
        let beside = path.with_extension("tmp");
        fs::write(&beside, encode(&record(2)).unwrap()).unwrap();
        fs::rename(beside, &path).unwrap();
        assert_eq!(*look(later), record(2));
    }

    #[test]
    fn what_cannot_be_a_record_is_not_read_and_replaces_what_was_known() {
        let good = encode(&record(1)).unwrap();
        let padding = " ".repeat(usize::try_from(MAX_FILE_BYTES).unwrap());
        let too_large = [good.clone(), padding.into_bytes()].concat();
        let newer = br#"{"format": 2, "record": "in another form"}"#.to_vec();
        let cut = good[..good.len() / 2].to_vec();
        for bad in [too_large, newer, cut, Vec::new()] {
            let (_folder, path, later) = file(&good);
            let mut cache = ScanCache::default();
            cache.refresh(id(), &path, later);
            assert!(cache.record(id()).is_some());
            fs::write(&path, bad).unwrap();
            cache.refresh(id(), &path, later);
            assert!(cache.record(id()).is_none());
        }
    }

    #[test]
    fn a_file_that_is_gone_is_forgotten() {
        let (_folder, path, later) = file(&encode(&record(1)).unwrap());
        let mut cache = ScanCache::default();
        cache.refresh(id(), &path, later);
        fs::remove_file(&path).unwrap();
        cache.refresh(id(), &path, later);
        assert!(cache.record(id()).is_none());
    }
}
