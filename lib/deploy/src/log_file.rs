//! Following a log file that processes append to: whole lines as they come, bounded in length,
//! and the file bounded in size.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Longest line that is shown as one.
const MAX_LINE: usize = 8 << 10;

/// Most that is read in one look: what a terminal shows in that time is far less.
const MAX_READ: u64 = 256 << 10;

/// Longest log; then it becomes `NAME.log.1`, and begins anew.
const MAX_LOG: u64 = 128 << 20;

/// A file that is followed.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    position: u64,
    /// The beginning of a line whose end has not come.
    rest: Vec<u8>,
}

impl LogFile {
    /// Follows a file from where it begins.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            position: 0,
            rest: Vec::new(),
        }
    }

    /// Follows a file from its last lines on.
    pub(crate) fn last_lines(path: PathBuf, lines: usize) -> Self {
        let text = fs::read(&path).unwrap_or_default();
        let body = text.strip_suffix(b"\n").unwrap_or(&text);
        let mut breaks = body
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n');
        let start = match lines {
            0 => text.len(),
            lines => breaks.nth(lines - 1).map_or(0, |(index, _)| index + 1),
        };
        Self {
            path,
            position: start as u64,
            rest: Vec::new(),
        }
    }

    /// Opens the file for a process to append to.
    pub(crate) fn append(path: &Path) -> io::Result<File> {
        File::options().create(true).append(true).open(path)
    }

    /// Lines that have come since the last look, without control characters.
    pub(crate) fn read(&mut self) -> Vec<String> {
        let Ok(mut file) = File::open(&self.path) else {
            return Vec::new();
        };
        let length = file.metadata().map_or(0, |it| it.len());
        if length < self.position {
            // It began anew.
            self.position = 0;
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(self.position)).is_ok() {
            // What cannot be read now is read at the next look.
            file.take(MAX_READ).read_to_end(&mut bytes).ok();
        }
        self.position += bytes.len() as u64;
        self.bound(length);
        self.lines(&bytes)
    }

    fn lines(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' || self.rest.len() >= MAX_LINE {
                lines.push(shown(&self.rest));
                self.rest.clear();
            }
            if *byte != b'\n' {
                self.rest.push(*byte);
            }
        }
        lines
    }

    /// Processes append, so that the file can be cut under them. What they write between the copy
    /// and the cut is lost, once in 128 MiB.
    fn bound(&mut self, length: u64) {
        if length <= MAX_LOG || self.position < length {
            return;
        }
        let kept = self.path.with_extension("log.1");
        let cut = fs::copy(&self.path, kept)
            .and_then(|_| File::options().write(true).open(&self.path))
            .and_then(|file| file.set_len(0));
        if cut.is_ok() {
            self.position = 0;
        }
    }
}

/// A line as it may be shown in a terminal: nothing of it moves the cursor. Colours stay.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    // A progress bar rewrites its line: what it said last counts.
    let text = text.rsplit('\r').next().unwrap_or_default();
    text.chars()
        .filter(|char| !char.is_control() || matches!(char, '\t' | '\x1b'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn lines_come_whole_and_a_file_that_begins_anew_is_read_anew() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.log");
        let mut log = LogFile::new(path.clone());
        assert_eq!(log.read(), [""; 0]);
        let mut file = LogFile::append(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(log.read(), ["one"]);
        file.write_all(b"o\r\n10%\r20%\nx\x07y\n").unwrap();
        assert_eq!(log.read(), ["two", "20%", "xy"]);
        file.set_len(0).unwrap();
        assert_eq!(log.read(), [""; 0]);
        file.write_all(b"new\n").unwrap();
        assert_eq!(log.read(), ["new"]);
        file.write_all(&vec![b'a'; MAX_LINE + 5]).unwrap();
        assert_eq!(log.read()[0].len(), MAX_LINE);
    }

    #[test]
    fn the_last_lines_are_found() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("a.log");
        fs::write(&path, "1\n2\n3\n").unwrap();
        for (lines, expected) in [
            (0, &[][..]),
            (1, &["3"][..]),
            (2, &["2", "3"]),
            (9, &["1", "2", "3"]),
        ] {
            assert_eq!(LogFile::last_lines(path.clone(), lines).read(), expected);
        }
    }
}
