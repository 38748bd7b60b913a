//! Models on disk: what their cards say, and what is wrong with broken ones.

use crate::families::{FAMILIES, family, model_file};
use dynamo_gguf::{GgufError, GgufHeader};
use dynamo_llm::byte_tokenizer::ByteTokenizer;
use dynamo_llm::card::{
    GenerationDefaults, GgufVocabulary, LocalModel, ModelAssets, ModelCard, ModelError,
    TokenizerSource,
};
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;

const GGUF: &str = "gemma-3-270m-q4_k_m.gguf";

/// Stands for the engine that reads GGUF vocabularies.
fn vocabulary(_: &Path) -> Result<Arc<dyn Tokenizer>, TokenizerError> {
    Ok(Arc::new(ByteTokenizer))
}

/// A model folder with the given files.
fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn small_tokenizer() -> String {
    json!({"version": "1.0", "added_tokens": [
            {"id": 2, "content": "<s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false},
            {"id": 3, "content": "</s>", "special": true, "normalized": false, "single_word": false, "lstrip": false, "rstrip": false}],
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "Whitespace"}, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}})
    .to_string()
}

fn config() -> (&'static str, String) {
    let config = json!({"model_type": "tiny", "vocab_size": 4, "max_position_embeddings": 128,
        "eos_token_id": 7, "bos_token_id": 2});
    ("config.json", config.to_string())
}

#[test]
fn a_hugging_face_folder_gives_its_card() {
    let folder = folder(&[
        config(),
        ("tokenizer.json", small_tokenizer()),
        ("generation_config.json", json!({"eos_token_id": [5, 6], "temperature": 0.5, "top_k": 20, "do_sample": true}).to_string()),
        ("tokenizer_config.json", json!({"bos_token": "<s>", "eos_token": {"content": "</s>"},
            "add_bos_token": true, "chat_template": [{"name": "default", "template": "{{ eos_token }}"}]}).to_string()),
    ]);
    let model = LocalModel::open(folder.path()).unwrap();
    let card = model.card();
    assert_eq!(
        (card.context_length, card.vocab_size, card.bos_id),
        (128, 4, Some(2))
    );
    assert_eq!(
        card.eos_ids,
        [5, 6, 3],
        "the generation's ids, and the tokenizer's own"
    );
    assert_eq!(card.architecture, "tiny");
    let expected = GenerationDefaults {
        temperature: Some(0.5),
        top_k: Some(20),
        ..Default::default()
    };
    assert_eq!(card.generation, expected);
    assert!(card.model_types.chat && card.model_types.completions);
    assert_eq!(card.artefacts().len(), 2);
    assert_eq!(
        model.tokenizer(None).unwrap().encode("a b", false).unwrap(),
        [0, 1]
    );

    // The file of its own wins over the configuration.
    fs::write(folder.path().join("chat_template.jinja"), "own").unwrap();
    let other = LocalModel::open(folder.path()).unwrap();
    assert_eq!(other.card().artefacts()[1].name, "chat_template.jinja");
    assert_ne!(
        other.card().checksum,
        card.checksum,
        "other files, other checksum"
    );
}

#[test]
fn what_a_folder_lacks_is_named() {
    let open = |files: &[(&str, String)]| {
        let folder = folder(files);
        LocalModel::open(folder.path()).unwrap_err()
    };
    assert!(open(&[]).to_string().contains("config.json"));
    assert!(open(&[config()]).to_string().contains("tokenizer.json"));
    let no_context = ("config.json", json!({"vocab_size": 4}).to_string());
    let error = open(&[no_context, ("tokenizer.json", small_tokenizer())]);
    assert!(
        error.to_string().contains("max_position_embeddings"),
        "{error}"
    );
    let error = open(&[
        ("config.json", "{".to_owned()),
        ("tokenizer.json", small_tokenizer()),
    ]);
    assert!(matches!(error, ModelError::Json { .. }), "{error}");
    let error = open(&[
        (
            "config.json",
            json!({"vocab_size": 4, "n_ctx": 8, "eos_token_id": "x"}).to_string(),
        ),
        ("tokenizer.json", small_tokenizer()),
    ]);
    assert!(error.to_string().contains("eos_token_id"), "{error}");
    let error = LocalModel::open(Path::new("/no/such/model")).unwrap_err();
    assert!(matches!(error, ModelError::NotFound { .. }), "{error}");
}

#[test]
fn a_card_alone_and_its_files_make_the_same_assets() {
    for name in FAMILIES {
        let model = family(name);
        let card = serde_json::to_string(model.card()).unwrap();
        assert!(
            card.len() < 2_000,
            "{name}: a card is small, not {} bytes",
            card.len()
        );
        let card: ModelCard = serde_json::from_str(&card).unwrap();
        assert_eq!(&card, model.card());
        assert_eq!(
            card.clone().sealed().checksum,
            card.checksum,
            "checksums are stable"
        );
    }
    let model = family("qwen3");
    let scratch = tempfile::tempdir().unwrap();
    let files = model.artefacts(scratch.path()).unwrap();
    let locate = |wanted: &_| {
        Ok(files
            .iter()
            .find(|(known, _)| known == wanted)
            .unwrap()
            .1
            .clone())
    };
    let assets = ModelAssets::load(model.card(), locate, None).unwrap();
    assert_eq!(assets.tokenizer.encode("hello", false).unwrap(), [14990]);
    assert!(assets.template.is_some());
}

#[test]
fn what_workers_must_agree_on_changes_the_checksum() {
    let model = family("qwen3");
    let same = model
        .clone()
        .with_card(|card| card.runtime.total_kv_blocks = Some(7));
    assert_eq!(same.card().checksum, model.card().checksum);
    let shorter = model.clone().with_card(|card| card.context_length = 1);
    assert_ne!(shorter.card().checksum, model.card().checksum);
    let renamed = model.with_card(|card| card.name = "Org/Model 1.5".to_owned());
    assert_eq!(renamed.card().slug, "org_model_1_5");
}

#[test]
fn a_gguf_file_gives_its_card() {
    let model = LocalModel::open(&model_file(GGUF)).unwrap();
    let card = model.card();
    assert_eq!(
        (card.architecture.as_str(), card.context_length),
        ("gemma3", 32_768)
    );
    assert_eq!((card.vocab_size, card.bos_id), (262_144, Some(2)));
    assert_eq!(
        card.eos_ids,
        [1, 106],
        "the end of the text, and the end of a turn"
    );
    assert_eq!(card.special_tokens["bos_token"], "<bos>");
    assert!(matches!(card.tokenizer, TokenizerSource::Gguf(_)));
    assert!(serde_json::to_string(card).unwrap().len() < 2_000);

    let error = model.tokenizer(None).unwrap_err().to_string();
    assert!(error.contains("`llamacpp`"), "{error}");
    let hook: &dyn GgufVocabulary = &vocabulary;
    assert!(model.tokenizer(Some(hook)).is_ok());
}

#[test]
fn the_vocabulary_file_is_small_and_says_the_same() {
    let path = model_file(GGUF);
    let model = LocalModel::open(&path).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let files = model.artefacts(scratch.path()).unwrap();
    let (artefact, file) = &files[0];
    assert_eq!(fs::metadata(file).unwrap().len(), artefact.size);
    assert!(artefact.size < 16 << 20, "{} bytes", artefact.size);
    let hash = blake3::hash(&fs::read(file).unwrap()).to_hex();
    assert_eq!(hash.as_str(), artefact.blake3);
    assert_eq!(
        model.artefacts(scratch.path()).unwrap(),
        files,
        "made once, found again"
    );

    let (whole, small) = (
        GgufHeader::open(&path).unwrap(),
        GgufHeader::open(file).unwrap(),
    );
    assert_eq!(
        whole.keys().collect::<Vec<_>>(),
        small.keys().collect::<Vec<_>>()
    );
    assert_eq!(small.tensor_count(), 0);
    let copy = LocalModel::open(file).unwrap();
    assert_eq!(copy.card().eos_ids, model.card().eos_ids);
    assert_eq!(copy.card().special_tokens, model.card().special_tokens);
}

#[test]
fn a_gguf_file_cut_in_half_says_so() {
    let whole = fs::read(model_file(GGUF)).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("half.gguf");
    for len in [whole.len() / 2, 4 << 20, 1000, 3] {
        fs::write(&path, &whole[..len]).unwrap();
        let error = LocalModel::open(&path).unwrap_err();
        let cut = matches!(
            error,
            ModelError::Gguf {
                source: GgufError::Truncated { .. } | GgufError::TensorsTruncated { .. },
                ..
            }
        );
        assert!(
            cut && error.to_string().contains("fetch it again"),
            "{error}"
        );
    }
}
