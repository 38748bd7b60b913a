//! A look at a GGUF file before llama.cpp sees it: is it one, and is all of it there.
//!
//! llama.cpp asserts on some damaged input, which would take the process down; this reader only
//! ever returns an error. It also gives the fingerprint under which KV state is exchanged.
//!
//! What it does not do: understand metadata. Values are skipped, all but the alignment.

use crate::error::LoadError;
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Metadata entries, tensors and array elements of any real model stay far below; a damaged
/// count must not make the reader run for hours.
const MAX_COUNT: u64 = 1 << 26;

/// Longest string: a chat template or a merges list entry; whole tokenizers are arrays.
const MAX_STRING: u64 = 1 << 26;

/// Arrays in arrays are allowed by the format and used by nobody at depth.
const MAX_DEPTH: u32 = 4;

/// Samples of the weights that go into the fingerprint: models that share a header (fine-tunes)
/// differ in all of their weights, so few places are enough.
const FINGERPRINT_SAMPLES: u64 = 64;

/// Bytes per sample.
const SAMPLE_BYTES: usize = 4_096;

const DEFAULT_ALIGNMENT: u64 = 32;

/// What the look found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GgufFile {
    /// Identifies header and weights.
    pub(crate) fingerprint: u64,
}

/// Checks the file.
pub(crate) fn inspect(path: &Path) -> Result<GgufFile, LoadError> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => LoadError::Missing { path: path.into() },
        _ => LoadError::Unreadable {
            path: path.into(),
            error,
        },
    };
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(LoadError::NotGguf { path: path.into() });
    }
    let mut header = Header {
        path,
        reader: BufReader::new(file),
        position: 0,
        size: metadata.len(),
        alignment: DEFAULT_ALIGNMENT,
    };
    header.check()?;
    let mut file = header.reader.into_inner();
    let fingerprint = fingerprint(&mut file, metadata.len()).map_err(unreadable)?;
    Ok(GgufFile { fingerprint })
}

fn fingerprint(file: &mut File, size: u64) -> std::io::Result<u64> {
    let mut hasher = Xxh3::new();
    hasher.update(&size.to_le_bytes());
    let mut sample = vec![0; SAMPLE_BYTES];
    for index in 0..FINGERPRINT_SAMPLES {
        let last = size.saturating_sub(SAMPLE_BYTES as u64);
        file.seek(SeekFrom::Start(last / FINGERPRINT_SAMPLES * index))?;
        let read = file.read(&mut sample)?;
        hasher.update(&sample[..read]);
    }
    Ok(hasher.digest())
}

/// Reads the header from front to back.
struct Header<'a> {
    path: &'a Path,
    reader: BufReader<File>,
    position: u64,
    size: u64,
    alignment: u64,
}

impl Header<'_> {
    fn check(&mut self) -> Result<(), LoadError> {
        if self.size < 4 || &self.bytes::<4>()? != b"GGUF" {
            return Err(LoadError::NotGguf {
                path: self.path.into(),
            });
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(LoadError::Version {
                path: self.path.into(),
                version,
            });
        }
        let tensors = self.count("tensors")?;
        let entries = self.count("metadata entries")?;
        for _ in 0..entries {
            self.entry()?;
        }
        let mut last = 0;
        for _ in 0..tensors {
            last = self.tensor()?.max(last);
        }
        let data = self.position.next_multiple_of(self.alignment);
        self.needs(
            data.saturating_add(last)
                .saturating_add(u64::from(tensors > 0)),
        )
    }

    fn entry(&mut self) -> Result<(), LoadError> {
        let key = self.string()?;
        let kind = self.u32()?;
        if key == b"general.alignment" && kind == 4 {
            self.alignment = u64::from(self.u32()?);
            if !self.alignment.is_power_of_two() {
                return Err(self.damaged("its alignment is not a power of two"));
            }
            return Ok(());
        }
        self.skip_value(kind, 0)
    }

    fn skip_value(&mut self, kind: u32, depth: u32) -> Result<(), LoadError> {
        match kind {
            0 | 1 | 7 => self.skip(1),
            2 | 3 => self.skip(2),
            4..=6 => self.skip(4),
            10..=12 => self.skip(8),
            8 => self.string().map(drop),
            9 if depth < MAX_DEPTH => {
                let element = self.u32()?;
                let count = self.count("array elements")?;
                for _ in 0..count {
                    self.skip_value(element, depth + 1)?;
                }
                Ok(())
            }
            _ => Err(self.damaged("a metadata value has an unknown type")),
        }
    }

    /// Where the tensor's data starts, relative to the data section.
    fn tensor(&mut self) -> Result<u64, LoadError> {
        self.string()?;
        let dimensions = self.u32()?;
        if dimensions > 8 {
            return Err(self.damaged("a tensor has too many dimensions"));
        }
        self.skip(u64::from(dimensions) * 8 + 4)?;
        self.u64()
    }

    fn count(&mut self, what: &str) -> Result<u64, LoadError> {
        let count = self.u64()?;
        if count > MAX_COUNT {
            return Err(self.damaged(&format!("it claims {count} {what}")));
        }
        Ok(count)
    }

    fn string(&mut self) -> Result<Vec<u8>, LoadError> {
        let length = self.u64()?;
        if length > MAX_STRING {
            return Err(self.damaged(&format!("it claims a string of {length} bytes")));
        }
        self.needs(self.position + length)?;
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32, LoadError> {
        self.bytes().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, LoadError> {
        self.bytes().map(u64::from_le_bytes)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], LoadError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn skip(&mut self, bytes: u64) -> Result<(), LoadError> {
        let mut rest = [0; 72];
        let count = usize::try_from(bytes).unwrap_or(usize::MAX);
        match rest.get_mut(..count) {
            Some(rest) => self.fill(rest),
            None => Err(self.damaged("a fixed-size value is too large")),
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), LoadError> {
        let end = self.position + bytes.len() as u64;
        self.needs(end)?;
        self.reader
            .read_exact(bytes)
            .map_err(|error| LoadError::Unreadable {
                path: self.path.into(),
                error,
            })?;
        self.position = end;
        Ok(())
    }

    fn needs(&self, need: u64) -> Result<(), LoadError> {
        if self.size >= need {
            return Ok(());
        }
        Err(LoadError::CutOff {
            path: self.path.into(),
            have: self.size,
            need,
        })
    }

    fn damaged(&self, detail: &str) -> LoadError {
        LoadError::Damaged {
            path: self.path.into(),
            detail: detail.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// A header with one string entry and one tensor, and its data.
    fn tiny() -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3_u32.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        file.extend(1_u64.to_le_bytes());
        for text in ["general.architecture", "llama"] {
            file.extend((text.len() as u64).to_le_bytes());
            file.extend(text.as_bytes());
            if text == "general.architecture" {
                file.extend(8_u32.to_le_bytes());
            }
        }
        file.extend(1_u64.to_le_bytes());
        file.push(b't');
        file.extend(1_u32.to_le_bytes());
        file.extend(4_u64.to_le_bytes());
        file.extend(0_u32.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
        let padded = file.len().next_multiple_of(32);
        file.resize(padded + 16, 0);
        file
    }

    fn inspect_bytes(bytes: &[u8]) -> Result<GgufFile, LoadError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        inspect(file.path())
    }

    #[test]
    fn a_whole_file_passes_and_every_cut_of_its_header_is_named() {
        let whole = tiny();
        assert!(inspect_bytes(&whole).is_ok());
        for len in 4..whole.len() - 16 {
            let error = inspect_bytes(&whole[..len]).unwrap_err();
            assert!(matches!(error, LoadError::CutOff { .. }), "{len}: {error}");
        }
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        assert!(matches!(inspect_bytes(b""), Err(LoadError::NotGguf { .. })));
        assert!(matches!(
            inspect_bytes(b"{\"a\": 1}"),
            Err(LoadError::NotGguf { .. })
        ));
        assert!(matches!(
            inspect_bytes(b"GGUF\x09\0\0\0"),
            Err(LoadError::Version { version: 9, .. })
        ));
        assert!(matches!(
            inspect(Path::new("no/such.gguf")),
            Err(LoadError::Missing { .. })
        ));
        assert!(matches!(
            inspect(Path::new(".")),
            Err(LoadError::NotGguf { .. })
        ));
    }

    #[test]
    fn weights_change_the_fingerprint() {
        let one = tiny();
        let mut other = one.clone();
        *other.last_mut().unwrap() = 1;
        let print = |bytes: &[u8]| inspect_bytes(bytes).unwrap().fingerprint;
        assert_eq!(print(&one), print(&one));
        assert_ne!(print(&one), print(&other));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..150, byte in any::<u8>()) {
            let mut file = tiny();
            let len = file.len();
            file[at % len] = byte;
            drop(inspect_bytes(&file));
        }
    }
}
