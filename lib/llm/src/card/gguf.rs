//! A card from the metadata of a GGUF file.

use super::local::describe_bytes;
use super::{
    DEFAULT_KV_BLOCK_SIZE, GenerationDefaults, ModelCard, ModelError, ModelInput, ModelTypes,
    RuntimeInfo, TemplateSource, TokenizerSource,
};
use crate::role::WorkerType;
use crate::template::SpecialTokens;
use dynamo_gguf::{GgufError, GgufHeader};
use dynamo_protocols::engine::TokenId;
use dynamo_runtime::discovery::ArtefactRef;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Key of the vocabulary.
const TOKENS: &str = "tokenizer.ggml.tokens";
/// Key of the chat template; named ones follow after a dot.
const TEMPLATE: &str = "tokenizer.chat_template";

/// Ids in the metadata, and what templates call the token.
const SPECIAL: &[(&str, &str)] = &[
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
    ("tokenizer.ggml.seperator_token_id", "sep_token"),
];

/// Keys of tokens that end an answer.
const END_KEYS: &[&str] = &[
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];

/// Tokens that end an answer in every vocabulary that has them. Converters often leave the keys
/// out, and llama.cpp knows these by their text too.
const END_TOKENS: &[&str] = &[
    "<|eot_id|>",
    "<|eom_id|>",
    "<|im_end|>",
    "<|return|>",
    "<|call|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
];

/// Reads card and files of a GGUF model.
pub(super) fn read(path: &Path) -> Result<(ModelCard, Vec<(ArtefactRef, PathBuf)>), ModelError> {
    let failed = |error| ModelError::gguf(path, error);
    let header = GgufHeader::open(path).map_err(failed)?;
    header.check_tensors().map_err(failed)?;
    let card = card(path, &header).map_err(failed)?;
    let TokenizerSource::Gguf(artefact) = &card.tokenizer else {
        return Err(failed(GgufError::MissingKey {
            key: TOKENS.to_owned(),
        }));
    };
    let files = vec![(artefact.clone(), path.to_owned())];
    Ok((card, files))
}

fn card(path: &Path, header: &GgufHeader) -> Result<ModelCard, GgufError> {
    let missing = |key: &str| GgufError::MissingKey {
        key: key.to_owned(),
    };
    let architecture = header
        .string("general.architecture")?
        .ok_or_else(|| missing("general.architecture"))?
        .to_owned();
    let of_architecture = |key: &str| format!("{architecture}.{key}");
    let context_key = of_architecture("context_length");
    let context_length = header
        .u32(&context_key)?
        .ok_or_else(|| missing(&context_key))?;
    let tokens = header.array(TOKENS)?.ok_or_else(|| missing(TOKENS))?;
    let vocab_size = u32::try_from(tokens.len).map_err(|_| GgufError::Malformed {
        what: "the vocabulary is too large",
    })?;

    let vocabulary = vocabulary(path, header)?;
    let artefact = artefact(path, header)?;
    let has_template = header.get(TEMPLATE).is_some();
    let encodes = header
        .u32(&of_architecture("pooling_type"))?
        .is_some_and(|kind| kind != 0);
    Ok(ModelCard {
        name: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        slug: String::new(),
        model_types: ModelTypes {
            chat: !encodes,
            completions: !encodes,
            embeddings: encodes,
        },
        architecture,
        context_length,
        kv_block_size: DEFAULT_KV_BLOCK_SIZE,
        vocab_size,
        eos_ids: vocabulary.eos_ids,
        bos_id: header.u32("tokenizer.ggml.bos_token_id")?,
        special_tokens: vocabulary.special_tokens,
        generation: generation(header)?,
        tokenizer: TokenizerSource::Gguf(artefact.clone()),
        chat_template: Some(if has_template {
            TemplateSource::Gguf(artefact)
        } else {
            TemplateSource::Plain
        }),
        input: ModelInput::Tokens,
        lora: None,
        worker_type: WorkerType::default(),
        needs: Vec::new(),
        runtime: RuntimeInfo::default(),
        checksum: String::new(),
    })
}

struct Vocabulary {
    eos_ids: Vec<TokenId>,
    special_tokens: SpecialTokens,
}

/// The special tokens' written forms and the ends of answers.
fn vocabulary(path: &Path, header: &GgufHeader) -> Result<Vocabulary, GgufError> {
    let mut names = Vec::new();
    for &(key, name) in SPECIAL {
        if let Some(id) = header.u32(key)? {
            names.push((id, name));
        }
    }
    let mut eos_ids: Vec<TokenId> = Vec::new();
    for key in END_KEYS {
        eos_ids.extend(header.u32(key)?);
    }
    let mut special_tokens = SpecialTokens::new();
    header.for_each_string(File::open(path)?, TOKENS, |id, text| {
        for (_, name) in names.iter().filter(|(named, _)| *named == id) {
            special_tokens.insert((*name).to_owned(), text.to_owned());
        }
        if END_TOKENS.contains(&text) {
            eos_ids.push(id);
        }
    })?;
    let mut seen = Vec::new();
    eos_ids.retain(|id| {
        !seen.contains(id) && {
            seen.push(*id);
            true
        }
    });
    Ok(Vocabulary {
        eos_ids,
        special_tokens,
    })
}

fn generation(header: &GgufHeader) -> Result<GenerationDefaults, GgufError> {
    let float = |key| -> Result<Option<f32>, GgufError> {
        Ok(header.float(key)?.map(|value| value as f32))
    };
    Ok(GenerationDefaults {
        temperature: float("general.sampling.temp")?,
        top_p: float("general.sampling.top_p")?,
        top_k: header.u32("general.sampling.top_k")?,
        min_p: float("general.sampling.min_p")?,
        repetition_penalty: float("general.sampling.penalty_repeat")?,
    })
}

/// The vocabulary file that would be made of the model.
fn artefact(path: &Path, header: &GgufHeader) -> Result<ArtefactRef, GgufError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = format!("{stem}-vocabulary.gguf");
    describe_bytes(name, |sink| {
        header.write_vocabulary(File::open(path)?, sink)
    })
}

/// Writes the vocabulary file of a model.
pub(super) fn write_vocabulary(model: &Path, to: impl Write) -> Result<(), ModelError> {
    let failed = |error| ModelError::gguf(model, error);
    let header = GgufHeader::open(model).map_err(failed)?;
    let source = File::open(model).map_err(|error| ModelError::io(model, error))?;
    header.write_vocabulary(source, to).map_err(failed)
}

/// The chat templates in a GGUF file, by name.
pub(super) fn read_templates(path: &Path) -> Result<Vec<(String, String)>, ModelError> {
    let failed = |error| ModelError::gguf(path, error);
    let header = GgufHeader::open(path).map_err(failed)?;
    let mut templates = Vec::new();
    for key in header.keys() {
        let name = match key.strip_prefix(TEMPLATE) {
            Some("") => "default",
            Some(rest) if rest.starts_with('.') => &rest[1..],
            _ => continue,
        };
        if let Some(source) = header.string(key).map_err(failed)? {
            templates.push((name.to_owned(), source.to_owned()));
        }
    }
    Ok(templates)
}
