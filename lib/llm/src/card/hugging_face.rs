//! A card from a Hugging Face model folder. The weights need not be there.

use super::local::describe;
use super::{
    DEFAULT_KV_BLOCK_SIZE, GenerationDefaults, ModelCard, ModelError, ModelInput, ModelTypes,
    RuntimeInfo, TemplateSource, TokenizerSource,
};
use crate::role::WorkerType;
use crate::template::SpecialTokens;
use dynamo_protocols::engine::TokenId;
use dynamo_runtime::discovery::ArtefactRef;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::fs;
use std::path::{Path, PathBuf};

/// Size of configuration files and templates. The largest known has 1.2 MB.
const MAX_CONFIG_BYTES: u64 = 32 << 20;

/// Keys for the longest sequence, in the order of preference.
const CONTEXT_KEYS: &[&str] = &[
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "n_ctx",
];

/// Files that only sentence-embedding models have.
const EMBEDDING_FILES: &[&str] = &["modules.json", "sentence_bert_config.json"];

/// The part of `tokenizer.json` that is needed for a card.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: TokenId,
    content: String,
}

/// Reads card and files of a model folder.
pub(super) fn read(folder: &Path) -> Result<(ModelCard, Vec<(ArtefactRef, PathBuf)>), ModelError> {
    let missing = |file, hint| ModelError::MissingFile {
        folder: folder.to_owned(),
        file,
        hint,
    };
    let config_path = folder.join("config.json");
    let config: Map<String, Value> = optional_json(&config_path)?
        .ok_or(missing("config.json", "it comes with the model's weights"))?;
    let generation: Map<String, Value> =
        optional_json(&folder.join("generation_config.json"))?.unwrap_or_default();
    let tokenizer_config: Map<String, Value> =
        optional_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let tokenizer_path = folder.join("tokenizer.json");
    let tokenizer_file: TokenizerFile = optional_json(&tokenizer_path)?.ok_or(missing(
        "tokenizer.json",
        "save the tokenizer with transformers, or use a GGUF file of the model",
    ))?;

    let special_tokens = special_tokens(&tokenizer_config);
    let id_of = |name: &str| {
        let content = special_tokens.get(name)?;
        tokenizer_file
            .added_tokens
            .iter()
            .find(|token| &token.content == content)
            .map(|t| t.id)
    };
    let mut eos_ids = token_ids(&config_path, &generation, &config)?;
    eos_ids.extend(id_of("eos_token").filter(|id| !eos_ids.contains(id)));

    let tokenizer = describe(&tokenizer_path)?;
    let mut files = vec![(tokenizer.clone(), tokenizer_path)];
    let chat_template = find_template(folder, &tokenizer_config)?.map(|(source, path)| {
        files.extend(source.artefact().map(|artefact| (artefact.clone(), path)));
        source
    });
    let embeds = EMBEDDING_FILES
        .iter()
        .any(|file| folder.join(file).exists());
    let card = ModelCard {
        name: folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        slug: String::new(),
        model_types: ModelTypes {
            chat: chat_template.is_some() && !embeds,
            completions: !embeds,
            embeddings: embeds,
        },
        architecture: architecture(&config),
        context_length: CONTEXT_KEYS
            .iter()
            .find_map(|key| number(&config, key))
            .ok_or_else(|| not_a_number(&config_path, CONTEXT_KEYS[0]))?,
        kv_block_size: DEFAULT_KV_BLOCK_SIZE,
        vocab_size: number(&config, "vocab_size")
            .ok_or_else(|| not_a_number(&config_path, "vocab_size"))?,
        eos_ids,
        bos_id: number(&config, "bos_token_id").or_else(|| id_of("bos_token")),
        special_tokens,
        generation: defaults(&generation),
        tokenizer: TokenizerSource::HuggingFace(tokenizer),
        chat_template,
        input: ModelInput::Tokens,
        lora: None,
        worker_type: WorkerType::default(),
        needs: Vec::new(),
        runtime: RuntimeInfo::default(),
        checksum: String::new(),
    };
    Ok((card, files))
}

/// The text of a small file.
pub(super) fn read_text(path: &Path) -> Result<String, ModelError> {
    let failed = |error| ModelError::io(path, error);
    let size = fs::metadata(path).map_err(failed)?.len();
    if size > MAX_CONFIG_BYTES {
        let limit = MAX_CONFIG_BYTES;
        return Err(ModelError::TooLarge {
            path: path.to_owned(),
            size,
            limit,
        });
    }
    fs::read_to_string(path).map_err(failed)
}

/// The chat templates under the key `chat_template` of a JSON file, by name.
pub(super) fn read_templates(path: &Path) -> Result<Vec<(String, String)>, ModelError> {
    let config: Map<String, Value> = parse(path, &read_text(path)?)?;
    let bad = || ModelError::Key {
        path: path.to_owned(),
        key: "chat_template",
        expected: "a template or a list of named templates",
    };
    match config.get("chat_template") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Value::Array(named)) => named
            .iter()
            .map(|entry| {
                let part = |key| entry.get(key).and_then(Value::as_str).map(str::to_owned);
                part("name").zip(part("template")).ok_or_else(bad)
            })
            .collect(),
        Some(_) => Err(bad()),
    }
}

/// Where the template is: a file of its own before the tokenizer's configuration.
fn find_template(
    folder: &Path,
    tokenizer_config: &Map<String, Value>,
) -> Result<Option<(TemplateSource, PathBuf)>, ModelError> {
    let jinja = folder.join("chat_template.jinja");
    if jinja.exists() {
        return Ok(Some((TemplateSource::Jinja(describe(&jinja)?), jinja)));
    }
    let json = folder.join("chat_template.json");
    if json.exists() {
        return Ok(Some((
            TemplateSource::TokenizerConfig(describe(&json)?),
            json,
        )));
    }
    if tokenizer_config
        .get("chat_template")
        .is_some_and(|template| !template.is_null())
    {
        let path = folder.join("tokenizer_config.json");
        return Ok(Some((
            TemplateSource::TokenizerConfig(describe(&path)?),
            path,
        )));
    }
    Ok(None)
}

fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ModelError> {
    serde_json::from_str(text).map_err(|source| ModelError::Json {
        path: path.to_owned(),
        source,
    })
}

/// The content of a file that need not be there.
fn optional_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ModelError> {
    match path.exists() {
        true => Ok(Some(parse(path, &read_any(path)?)?)),
        false => Ok(None),
    }
}

/// `tokenizer.json` is larger than a configuration and bounded where it is loaded.
fn read_any(path: &Path) -> Result<String, ModelError> {
    match path.ends_with("tokenizer.json") {
        true => fs::read_to_string(path).map_err(|error| ModelError::io(path, error)),
        false => read_text(path),
    }
}

/// A number of the configuration, or of that of its language model.
fn number(config: &Map<String, Value>, key: &str) -> Option<u32> {
    let value = config
        .get(key)
        .or_else(|| config.get("text_config")?.get(key))?;
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

fn not_a_number(path: &Path, key: &'static str) -> ModelError {
    ModelError::Key {
        path: path.to_owned(),
        key,
        expected: "a 32-bit number",
    }
}

fn architecture(config: &Map<String, Value>) -> String {
    let class = || config.get("architectures")?.get(0)?.as_str();
    let name = config
        .get("model_type")
        .and_then(Value::as_str)
        .or_else(class);
    name.unwrap_or("unknown").to_owned()
}

/// `eos_token_id`: a number or a list, of the generation's configuration before the model's.
fn token_ids(
    config_path: &Path,
    generation: &Map<String, Value>,
    config: &Map<String, Value>,
) -> Result<Vec<TokenId>, ModelError> {
    const KEY: &str = "eos_token_id";
    let of_text = || config.get("text_config")?.get(KEY);
    let found = generation.get(KEY).filter(|value| !value.is_null());
    let Some(value) = found.or_else(|| config.get(KEY)).or_else(of_text) else {
        return Ok(Vec::new());
    };
    let ids = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(ids) => ids.iter().map(token_id).collect(),
        one => token_id(one).map(|id| vec![id]),
    };
    ids.ok_or_else(|| ModelError::Key {
        path: config_path.to_owned(),
        key: KEY,
        expected: "a token id or a list of them",
    })
}

fn token_id(value: &Value) -> Option<TokenId> {
    value.as_u64().and_then(|id| TokenId::try_from(id).ok())
}

/// `*_token` keys: a text, or an object with one.
fn special_tokens(config: &Map<String, Value>) -> SpecialTokens {
    let named = config.iter().filter(|(key, _)| key.ends_with("_token"));
    named
        .filter_map(|(key, value)| {
            let text = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((key.clone(), text.to_owned()))
        })
        .collect()
}

fn defaults(generation: &Map<String, Value>) -> GenerationDefaults {
    let float = |key: &str| {
        generation
            .get(key)
            .and_then(Value::as_f64)
            .map(|value| value as f32)
    };
    // Without sampling the other values are left over from a template and mean nothing.
    if generation.get("do_sample") == Some(&Value::Bool(false)) {
        return GenerationDefaults {
            temperature: Some(0.0),
            repetition_penalty: float("repetition_penalty"),
            ..GenerationDefaults::default()
        };
    }
    GenerationDefaults {
        temperature: float("temperature"),
        top_p: float("top_p"),
        top_k: number(generation, "top_k"),
        min_p: float("min_p"),
        repetition_penalty: float("repetition_penalty"),
    }
}
