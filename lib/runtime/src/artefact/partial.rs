//! A download under way: the part of the file that is there, and its hash so far.
//!
//! Everything here blocks; [`super::fetch`] calls it from the compute pool. A partial file is
//! removed when its download ends without success. One whose process was killed stays, and is
//! swept by whoever downloads something into the same folder later.
//!
//! Invariants
//! - Only plain files of this module's own naming are ever swept: `.HASH.RANDOM.part`.
//! - A file that somebody still writes to is not swept: its age is that of its last byte.

use super::is_artefact_hash;
use crate::discovery::ArtefactRef;
use std::fs::{self, DirEntry};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// How long nobody has written to a file whose process is taken for dead. A download that lives
/// gets a chunk, or gives up its source, within seconds: an hour also covers a machine that
/// slept, and whoever is wrong about it all the same costs one download and no data.
const ABANDONED_AFTER: Duration = Duration::from_secs(3600);

/// Entries of the folder that one sweep looks at: far more than a machine has models, and a few
/// milliseconds. What is left over is for the next sweep.
const ENTRIES_PER_SWEEP: usize = 4096;

/// Random characters in a name, so that processes that fetch the same artefact do not meet.
const RANDOM_CHARACTERS: usize = 8;

const SUFFIX: &str = ".part";

/// The part of an artefact that is there.
pub(super) struct Partial {
    file: tempfile::NamedTempFile,
    hasher: blake3::Hasher,
    written: u64,
}

// === impl Partial ===

impl Partial {
    /// Begins with nothing, in a folder that is made if need be.
    pub(super) fn create(folder: &Path, artefact: &ArtefactRef) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let file = tempfile::Builder::new()
            .prefix(&format!(".{}.", artefact.blake3))
            .rand_bytes(RANDOM_CHARACTERS)
            .suffix(SUFFIX)
            .tempfile_in(folder)?;
        Ok(Self {
            file,
            hasher: blake3::Hasher::new(),
            written: 0,
        })
    }

    /// Bytes that are there.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn append(mut self, chunk: &[u8]) -> io::Result<Self> {
        self.file.write_all(chunk)?;
        self.hasher.update(chunk);
        self.written += chunk.len() as u64;
        Ok(self)
    }

    /// Whether what is there has this hash.
    pub(super) fn has_hash(&self, blake3: &str) -> bool {
        self.hasher.finalize().to_hex().as_str() == blake3
    }

    /// Lets the file be seen under its final name.
    pub(super) fn keep(self, path: PathBuf) -> io::Result<PathBuf> {
        self.file.as_file().sync_all()?;
        self.file.persist(&path).map_err(|error| error.error)?;
        Ok(path)
    }
}

/// Removes what downloads of killed processes left in the folder, and says how many there were.
/// `now` is the time of day, as the file system counts it.
pub(super) fn sweep(folder: &Path, now: Duration) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut swept = 0;
    for entry in entries.take(ENTRIES_PER_SWEEP) {
        let entry = entry?;
        let ours = entry.file_name().to_str().is_some_and(is_part);
        if ours && is_abandoned(&entry, now).unwrap_or(false) {
            match fs::remove_file(entry.path()) {
                Ok(()) => swept += 1,
                // Another process sweeps too.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(swept)
}

/// Whether it is a plain file, and old.
fn is_abandoned(entry: &DirEntry, now: Duration) -> io::Result<bool> {
    // Does not follow a link.
    let metadata = entry.metadata()?;
    let written = metadata.modified()?.duration_since(UNIX_EPOCH);
    // A time before 1970 is one that the file system does not know.
    Ok(metadata.is_file() && written.is_ok_and(|written| written + ABANDONED_AFTER < now))
}

/// Whether [`Partial::create`] gives such names.
fn is_part(name: &str) -> bool {
    let Some((hash, random)) = name
        .strip_prefix('.')
        .and_then(|name| name.strip_suffix(SUFFIX))
        .and_then(|name| name.split_once('.'))
    else {
        return false;
    };
    is_artefact_hash(hash)
        && random.len() == RANDOM_CHARACTERS
        && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::SystemTime;

    fn artefact() -> ArtefactRef {
        ArtefactRef {
            name: "tokenizer.json".to_owned(),
            size: 1,
            blake3: blake3::hash(b"x").to_hex().to_string(),
        }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    fn since_epoch(time: SystemTime) -> Duration {
        time.duration_since(UNIX_EPOCH).unwrap()
    }

    /// What the kernel leaves of a download whose process was killed.
    fn killed(folder: &Path) -> PathBuf {
        let partial = Partial::create(folder, &artefact()).unwrap();
        partial.append(b"half").unwrap().file.keep().unwrap().1
    }

    #[test]
    fn what_a_killed_process_left_is_swept_when_it_is_old_and_not_before() {
        let folder = tempfile::tempdir().unwrap();
        let left = killed(folder.path());
        let written = since_epoch(fs::metadata(&left).unwrap().modified().unwrap());
        assert_eq!(sweep(folder.path(), written).unwrap(), 0);
        let later = written + ABANDONED_AFTER;
        assert_eq!(sweep(folder.path(), later).unwrap(), 0);
        // A clock that was set back makes nothing old.
        assert_eq!(sweep(folder.path(), Duration::ZERO).unwrap(), 0);
        let much_later = later + Duration::from_secs(1);
        assert_eq!(sweep(folder.path(), much_later).unwrap(), 1);
        assert_eq!(names(folder.path()), [""; 0]);
        assert_eq!(sweep(&folder.path().join("none"), much_later).unwrap(), 0);
    }

    #[test]
    fn a_download_that_is_still_written_to_is_not_swept() {
        let folder = tempfile::tempdir().unwrap();
        let partial = Partial::create(folder.path(), &artefact()).unwrap();
        let begun = SystemTime::now() - 2 * ABANDONED_AFTER;
        partial.file.as_file().set_modified(begun).unwrap();
        let partial = partial.append(b"x").unwrap();
        let now = since_epoch(SystemTime::now());
        assert_eq!(sweep(folder.path(), now).unwrap(), 0);
        let path = partial.keep(folder.path().join("kept")).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"x");
    }

    #[test]
    fn nothing_but_our_own_partial_files_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let hash = artefact().blake3;
        let others = [
            hash.clone(),
            format!("{hash}.part"),
            format!(".{hash}.part"),
            format!(".{hash}.abcd-fgh.part"),
            format!(".{hash}.abcdefgh.part.txt"),
            format!(".{}.abcdefgh.part", &hash[1..]),
            ".tmpabcdef.part".to_owned(),
            "model.gguf.part".to_owned(),
        ];
        let long_ago = SystemTime::now() - 2 * ABANDONED_AFTER;
        for name in &others {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let old = others[0].clone();
        let link = folder.path().join(format!(".{hash}.abcdefgh.part"));
        std::os::unix::fs::symlink(folder.path().join(old), link).unwrap();
        fs::create_dir(folder.path().join(format!(".{hash}.ABCDEFGH.part"))).unwrap();
        let before = names(folder.path());
        let far = since_epoch(SystemTime::now()) + 2 * ABANDONED_AFTER;
        assert_eq!(sweep(folder.path(), far).unwrap(), 0);
        assert_eq!(names(folder.path()), before);
    }
}
