//! The result file of a batch: appended to line by line, read back to go on after a kill.
//!
//! Invariants
//! - A result is one write of one line: after a kill the file holds whole lines and at most one
//!   torn one at its end, which is cut off when the file is opened again.
//! - A file whose results belong to another input is refused, not appended to.

use super::line::ResultLine;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// An open result file.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// Fingerprints of the lines that have results, by line number.
    done: BTreeMap<u64, String>,
}

/// Why a result file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("cannot use the result file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line in the middle is no result.
    #[error("line {line} of {path} is not a batch result; give another --batch-output")]
    NotAResult {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// Another process is writing to it.
    #[error(
        "{0} is being written by another batch run; wait for it or give another --batch-output"
    )]
    InUse(PathBuf),
}

impl Journal {
    /// Opens or makes the file, and learns what is done.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let at = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(at)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(JournalError::InUse(path.to_owned()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(at(error)),
        }
        let mut journal = Self {
            file,
            path: path.to_owned(),
            done: BTreeMap::new(),
        };
        let whole = journal.read_back()?;
        journal.file.set_len(whole).map_err(at)?;
        journal.file.seek(SeekFrom::End(0)).map_err(at)?;
        Ok(journal)
    }

    /// Number of results that are there.
    pub fn done(&self) -> usize {
        self.done.len()
    }

    /// The fingerprint under which a line's result was written, if it is there.
    pub fn fingerprint(&self, line: u64) -> Option<&str> {
        self.done.get(&line).map(String::as_str)
    }

    /// Appends a result.
    pub fn append(&mut self, result: &ResultLine) -> Result<(), JournalError> {
        let mut text = serde_json::to_vec(result)
            .map_err(io::Error::from)
            .map_err(|source| self.io(source))?;
        text.push(b'\n');
        self.file
            .write_all(&text)
            .map_err(|source| self.io(source))?;
        self.done.insert(result.line, result.fingerprint.clone());
        Ok(())
    }

    /// Makes sure that everything appended is on disk.
    pub fn sync(&self) -> Result<(), JournalError> {
        self.file.sync_all().map_err(|source| self.io(source))
    }

    /// Reads all whole lines; gives back their length in bytes.
    fn read_back(&mut self) -> Result<u64, JournalError> {
        let mut reader = BufReader::new(self.file.try_clone().map_err(|source| self.io(source))?);
        let mut whole = 0;
        let mut text = Vec::new();
        for number in 1.. {
            text.clear();
            let length = reader
                .read_until(b'\n', &mut text)
                .map_err(|source| self.io(source))?;
            if length == 0 || text.last() != Some(&b'\n') {
                break;
            }
            let result: ResultLine =
                serde_json::from_slice(&text).map_err(|_| JournalError::NotAResult {
                    path: self.path.clone(),
                    line: number,
                })?;
            self.done.insert(result.line, result.fingerprint);
            whole += length as u64;
        }
        Ok(whole)
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(line: u64) -> ResultLine {
        ResultLine {
            line,
            fingerprint: format!("f{line}"),
            result: serde_json::Map::new(),
        }
    }

    #[test]
    fn results_are_found_again_and_a_torn_one_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&result(2)).unwrap();
        journal.append(&result(1)).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn.extend_from_slice(b"{\"line\":3,\"finge");
        std::fs::write(&path, torn).unwrap();

        let mut journal = Journal::open(&path).unwrap();
        assert_eq!(journal.done(), 2);
        assert_eq!(journal.fingerprint(2), Some("f2"));
        assert_eq!(journal.fingerprint(3), None);
        journal.append(&result(3)).unwrap();
        drop(journal);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.as_bytes().starts_with(&whole));
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_file_of_something_else_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "dear diary\nmore\n").unwrap();
        let refused = Journal::open(&path);
        assert!(matches!(
            refused,
            Err(JournalError::NotAResult { line: 1, .. })
        ));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            "dear diary\nmore\n"
        );
    }

    #[test]
    fn two_runs_do_not_share_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("output.jsonl");
        let _first = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(JournalError::InUse(_))));
    }
}
