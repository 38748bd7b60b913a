//! A look at a model file before llama.cpp sees it: is all of it there, and which one is it.
//!
//! llama.cpp asserts on some damaged input, which would take the process down; the header's reader
//! only ever returns an error. The fingerprint is the name under which KV state is exchanged.

use crate::error::LoadError;
use dynamo_gguf::{GgufError, GgufHeader};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Samples of the weights that go into the fingerprint: models that share a header (fine-tunes)
/// differ in all of their weights, so few places are enough.
const SAMPLES: u64 = 64;

/// Bytes per sample.
const SAMPLE_BYTES: usize = 4_096;

/// Checks that the file is a whole GGUF file; answers what identifies its header and weights.
pub(crate) fn of_checked(path: &Path) -> Result<u64, LoadError> {
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => LoadError::Missing { path: path.into() },
        _ => LoadError::Unreadable {
            path: path.into(),
            error,
        },
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(LoadError::Folder { path: path.into() });
    }
    GgufHeader::read(&file)
        .and_then(|header| header.check_tensors())
        .map_err(|error| match error {
            GgufError::Io(error) => unreadable(error),
            error => LoadError::Gguf {
                path: path.into(),
                error,
            },
        })?;
    fingerprint(&mut file, metadata.len()).map_err(unreadable)
}

fn fingerprint(file: &mut File, size: u64) -> std::io::Result<u64> {
    let mut hasher = Xxh3::new();
    hasher.update(&size.to_le_bytes());
    let mut sample = vec![0; SAMPLE_BYTES];
    for index in 0..SAMPLES {
        let last = size.saturating_sub(SAMPLE_BYTES as u64);
        file.seek(SeekFrom::Start(last / SAMPLES * index))?;
        let read = file.read(&mut sample)?;
        hasher.update(&sample[..read]);
    }
    Ok(hasher.digest())
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

    fn check(bytes: &[u8]) -> Result<u64, LoadError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        of_checked(file.path())
    }

    #[test]
    fn a_whole_file_passes_and_every_cut_of_it_is_named() {
        let whole = tiny();
        assert!(check(&whole).is_ok());
        for len in 0..whole.len() {
            let error = check(&whole[..len]).unwrap_err();
            let cut = matches!(
                error,
                LoadError::Gguf {
                    error: GgufError::Truncated { .. } | GgufError::TensorsTruncated { .. },
                    ..
                }
            );
            assert!(cut, "{len}: {error}");
        }
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let refusal = |bytes: &[u8]| match check(bytes) {
            Err(LoadError::Gguf { error, .. }) => error,
            other => panic!("{other:?}"),
        };
        assert!(matches!(refusal(b"{\"a\": 1}"), GgufError::NotGguf { .. }));
        assert!(matches!(
            refusal(b"GGUF\x09\0\0\0"),
            GgufError::Version { version: 9 }
        ));
        assert!(matches!(
            of_checked(Path::new("no/such.gguf")),
            Err(LoadError::Missing { .. })
        ));
        assert!(matches!(
            of_checked(Path::new(".")),
            Err(LoadError::Folder { .. })
        ));
    }

    #[test]
    fn weights_change_the_fingerprint() {
        let one = tiny();
        let mut other = one.clone();
        *other.last_mut().unwrap() = 1;
        let print = |bytes: &[u8]| check(bytes).unwrap();
        assert_eq!(print(&one), print(&one));
        assert_ne!(print(&one), print(&other));
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic(at in 0_usize..150, byte in any::<u8>()) {
            let mut file = tiny();
            let len = file.len();
            file[at % len] = byte;
            drop(check(&file));
        }
    }
}
