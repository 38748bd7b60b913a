//! A GGUF file with the metadata of another and no tensors: all that a process needs which turns
//! text into tokens, some megabytes instead of the weights.
//!
//! The entries are copied byte by byte, so that an engine reads the same vocabulary from it. Only
//! `split.*` is left out: it would send the reader to look for the other parts of the weights.

use crate::error::GgufError;
use crate::header::GgufHeader;
use std::io::{self, Read, Seek, SeekFrom, Write};

/// Keys that speak of the tensors' files.
const SPLIT_PREFIX: &str = "split.";

impl GgufHeader {
    /// Writes the header's metadata as a GGUF file of its own. `source` is the file that the
    /// header was read from. Equal input gives equal bytes.
    pub fn write_vocabulary<R: Read + Seek, W: Write>(
        &self,
        mut source: R,
        mut to: W,
    ) -> Result<(), GgufError> {
        let kept: Vec<_> = self
            .entries
            .iter()
            .filter(|entry| !entry.key.starts_with(SPLIT_PREFIX))
            .collect();
        to.write_all(b"GGUF")?;
        to.write_all(&self.version.to_le_bytes())?;
        to.write_all(&0u64.to_le_bytes())?;
        to.write_all(&(kept.len() as u64).to_le_bytes())?;
        let mut written: u64 = 24;
        for entry in kept {
            source.seek(SeekFrom::Start(entry.start))?;
            let bytes = entry.end - entry.start;
            let copied = io::copy(&mut (&mut source).take(bytes), &mut to)?;
            if copied != bytes {
                return Err(GgufError::Truncated {
                    what: "a metadata entry",
                    len: self.file_len,
                });
            }
            written += bytes;
        }
        // Readers step over the padding before the tensor data, even when there is none.
        let padding = written.next_multiple_of(self.alignment()?) - written;
        io::copy(&mut io::repeat(0).take(padding), &mut to)?;
        Ok(to.flush()?)
    }
}
