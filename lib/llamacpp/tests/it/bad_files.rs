//! Files that are no model: errors that say what to do, and no crash.

use crate::support::{model_path, options};
use dynamo_gguf::GgufError;
use dynamo_llamacpp::{GgufTokenizer, LlamacppEngine, LoadError};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// The first `len` bytes of the model, changed by `change`.
fn beginning(len: u64, change: impl Fn(&mut Vec<u8>)) -> tempfile::NamedTempFile {
    let mut bytes = Vec::new();
    let model = File::open(model_path()).unwrap();
    model.take(len).read_to_end(&mut bytes).unwrap();
    change(&mut bytes);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file
}

fn refusal(path: &Path) -> LoadError {
    let error = GgufTokenizer::open(path).unwrap_err();
    let again = LlamacppEngine::load(path, &options()).unwrap_err();
    assert_eq!(error.to_string(), again.to_string());
    error
}

/// A refusal before llama.cpp saw the file.
fn gguf_error(path: &Path) -> GgufError {
    match refusal(path) {
        LoadError::Gguf { error, .. } => error,
        other => panic!("{other}"),
    }
}

#[test]
fn a_model_cut_in_half_is_named_as_such() {
    let half = std::fs::metadata(model_path()).unwrap().len() / 2;
    let error = gguf_error(beginning(half, |_| {}).path());
    assert!(
        matches!(error, GgufError::TensorsTruncated { .. }),
        "{error}"
    );
    let error = gguf_error(beginning(100_000, |_| {}).path());
    assert!(matches!(error, GgufError::Truncated { .. }), "{error}");
}

#[test]
fn missing_files_and_other_files_are_named() {
    let error = refusal(Path::new("no/such/model.gguf"));
    assert!(error.to_string().contains("no/such/model.gguf"), "{error}");
    let error = gguf_error(beginning(5_000, |bytes| bytes[0] = b'X').path());
    assert!(matches!(error, GgufError::NotGguf { .. }), "{error}");
}

#[test]
fn an_architecture_that_llama_cpp_does_not_know_is_refused_and_not_fatal() {
    let whole = std::fs::metadata(model_path()).unwrap().len();
    let file = beginning(whole, |bytes| {
        let name = bytes.windows(6).position(|w| w == b"gemma3").unwrap();
        bytes[name..name + 6].copy_from_slice(b"zemma9");
    });
    let error = refusal(file.path());
    assert!(matches!(error, LoadError::Refused { .. }), "{error}");
}
