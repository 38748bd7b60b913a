//! The files that `make models` fetches.

use dynamo_llm::card::LocalModel;
use dynamo_protocols::tokenizer::Tokenizer;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The model families with golden files.
pub(crate) const FAMILIES: [&str; 5] = ["qwen3", "llama3_1", "gemma3", "deepseek_v3", "gptoss"];

/// A file of `.models`. Its absence is a failure, or a test that proves nothing would pass.
pub(crate) fn model_file(path: &str) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let file = workspace.join(".models").join(path);
    assert!(
        file.exists(),
        "{} is not there: run `make models`",
        file.display()
    );
    file
}

/// A golden file.
pub(crate) fn golden_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

/// The folder of a family, opened.
pub(crate) fn family(name: &str) -> LocalModel {
    LocalModel::open(&model_file(&format!("tokenizers/{name}"))).unwrap()
}

/// The tokenizer of a family.
pub(crate) fn tokenizer(name: &str) -> Arc<dyn Tokenizer> {
    family(name).tokenizer(None).unwrap()
}

/// Reads a golden file.
pub(crate) fn golden(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden_file(&format!("{name}.json"))).unwrap()).unwrap()
}
