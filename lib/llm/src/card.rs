//! The model card: everything about a model that whoever serves it has to know, small enough for
//! a discovery record.
//!
//! A card names files (tokenizer, chat template) by size and BLAKE3 and never by path: paths differ
//! between machines and stay with [`LocalModel`]. [`ModelAssets`] turns a card and its files into a
//! tokenizer and a template, in the process that has the model and in one that fetched them.

mod assets;
mod error;
mod gguf;
mod hugging_face;
mod local;

pub use assets::{GgufVocabulary, ModelAssets};
pub use error::ModelError;
pub use local::LocalModel;

use crate::byte_tokenizer::ByteTokenizer;
use crate::role::WorkerType;
use crate::template::SpecialTokens;
use dynamo_protocols::engine::TokenId;
use dynamo_runtime::discovery::ArtefactRef;
use serde::{Deserialize, Serialize};

/// Tokens per KV block where nothing else is asked for; also the unit in which prefixes are shared.
pub const DEFAULT_KV_BLOCK_SIZE: u32 = 16;

/// What a model is, as announced to the rest of the system.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The name clients ask for.
    pub name: String,
    /// The name in lower case with unsafe characters replaced, for paths and record keys.
    pub slug: String,
    /// What the model can be asked for.
    pub model_types: ModelTypes,
    /// The architecture's name, such as `qwen3` or `gemma3`.
    pub architecture: String,
    /// Longest sequence, prompt and output together, in tokens.
    pub context_length: u32,
    /// Tokens per KV block.
    pub kv_block_size: u32,
    /// Number of token ids.
    pub vocab_size: u32,
    /// Token ids that end an answer.
    pub eos_ids: Vec<TokenId>,
    /// Token id that begins a sequence.
    pub bos_id: Option<TokenId>,
    /// Written forms of the special tokens, for the chat template.
    pub special_tokens: SpecialTokens,
    /// Sampling defaults from the model's author.
    #[serde(default)]
    pub generation: GenerationDefaults,
    /// Where token ids come from.
    pub tokenizer: TokenizerSource,
    /// Where the chat template comes from; none for a base model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<TemplateSource>,
    /// What its workers get.
    #[serde(default, skip_serializing_if = "ModelInput::is_tokens")]
    pub input: ModelInput,
    /// The LoRA adapter that its requests are served with; none for a model as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<String>,
    /// What its workers do of a request.
    #[serde(default, skip_serializing_if = "WorkerType::is_aggregated")]
    pub worker_type: WorkerType,
    /// Whom they need for that: one of these groups, all of it. Nobody if there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<Vec<WorkerType>>,
    /// What the worker that announced the card can hold.
    #[serde(default)]
    pub runtime: RuntimeInfo,
    /// BLAKE3 over what two workers of the same name must agree on: everything above except
    /// `runtime`. Kept up to date by [`ModelCard::seal`].
    pub checksum: String,
}

/// What a model's workers get.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelInput {
    /// Token ids: frontends render, tokenise, and make text of the answer.
    #[default]
    Tokens,
    /// The client's request as it is: workers write the chunks of the answer.
    Text,
}

impl ModelInput {
    /// Whether it is token ids, as with every card that does not say.
    pub fn is_tokens(&self) -> bool {
        *self == Self::Tokens
    }
}

/// What a model can be asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelTypes {
    /// Chat completions: there is a chat template.
    pub chat: bool,
    /// Completions of a raw prompt.
    pub completions: bool,
    /// Embeddings.
    pub embeddings: bool,
}

/// Sampling defaults (`generation_config.json`); what is absent is left to the engine's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationDefaults {
    /// Softmax temperature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    /// Nucleus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Number of most likely tokens to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Least probability relative to the most likely token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Repetition penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
}

/// Where token ids come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "artefact")]
pub enum TokenizerSource {
    /// A Hugging Face `tokenizer.json`.
    HuggingFace(ArtefactRef),
    /// The vocabulary in a GGUF header: a file of metadata without tensors.
    Gguf(ArtefactRef),
    /// Bytes are tokens; needs no file.
    Byte,
    /// There is none: workers take text. Frontends that know of no such workers cannot read the card,
    /// and leave the model alone.
    None,
}

/// Where the chat template comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "artefact")]
pub enum TemplateSource {
    /// A file that is the template (`chat_template.jinja`).
    Jinja(ArtefactRef),
    /// The `chat_template` key of a `tokenizer_config.json`.
    TokenizerConfig(ArtefactRef),
    /// The metadata of a GGUF header.
    Gguf(ArtefactRef),
    /// Role names and colons, for a GGUF file that brings no template of its own: a base model
    /// then continues the conversation as text. A Hugging Face folder without a template serves
    /// no chat.
    Plain,
    /// The last message alone, for an engine that gives the prompt back.
    LastMessage,
}

/// What a worker can hold, for routing and planning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuntimeInfo {
    /// KV blocks in the worker's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_kv_blocks: Option<u64>,
    /// Sequences in flight at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_seqs: Option<u32>,
    /// Tokens computed in one step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_num_batched_tokens: Option<u32>,
    /// Its engine cannot go on with an answer that another worker has begun.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cannot_continue: bool,
    /// It is a router, which passes requests on and wants to know what they ask of that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_router: bool,
}

impl ModelCard {
    /// A card for an engine that needs no model: bytes are tokens, and there is no chat template.
    pub fn byte_level(name: &str, context_length: u32) -> Self {
        Self {
            name: name.to_owned(),
            slug: String::new(),
            model_types: ModelTypes {
                chat: true,
                completions: true,
                embeddings: true,
            },
            architecture: "bytes".to_owned(),
            context_length,
            kv_block_size: DEFAULT_KV_BLOCK_SIZE,
            vocab_size: ByteTokenizer::VOCAB_SIZE as u32,
            eos_ids: vec![ByteTokenizer::EOS],
            bos_id: Some(ByteTokenizer::BOS),
            special_tokens: SpecialTokens::new(),
            generation: GenerationDefaults::default(),
            tokenizer: TokenizerSource::Byte,
            chat_template: None,
            input: ModelInput::Tokens,
            lora: None,
            worker_type: WorkerType::default(),
            needs: Vec::new(),
            runtime: RuntimeInfo::default(),
            checksum: String::new(),
        }
        .sealed()
    }

    /// A card for an engine that takes clients' requests as they are: there is nothing to know of the
    /// model but what it can be asked for.
    pub fn text(name: &str, model_types: ModelTypes) -> Self {
        Self {
            model_types,
            architecture: "text".to_owned(),
            context_length: 0,
            vocab_size: 0,
            eos_ids: Vec::new(),
            bos_id: None,
            tokenizer: TokenizerSource::None,
            input: ModelInput::Text,
            runtime: RuntimeInfo {
                cannot_continue: true,
                ..RuntimeInfo::default()
            },
            ..Self::byte_level(name, 0)
        }
        .sealed()
    }

    /// The card with slug and checksum that fit the rest of it.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.seal();
        self
    }

    /// Brings slug and checksum up to date after a change.
    pub fn seal(&mut self) {
        self.slug = slug(&self.name);
        let what_matters = Self {
            runtime: RuntimeInfo::default(),
            checksum: String::new(),
            ..self.clone()
        };
        // Fields and map keys are in a fixed order, so equal cards give equal bytes.
        let bytes = serde_json::to_vec(&what_matters).expect("a card is plain data");
        self.checksum = blake3::hash(&bytes).to_hex().to_string();
    }

    /// The files that the card names, each once.
    pub fn artefacts(&self) -> Vec<&ArtefactRef> {
        let mut artefacts = Vec::new();
        match &self.tokenizer {
            TokenizerSource::HuggingFace(artefact) | TokenizerSource::Gguf(artefact) => {
                artefacts.push(artefact);
            }
            TokenizerSource::Byte | TokenizerSource::None => {}
        }
        if let Some(artefact) = self
            .chat_template
            .as_ref()
            .and_then(TemplateSource::artefact)
            && !artefacts.contains(&artefact)
        {
            artefacts.push(artefact);
        }
        artefacts
    }
}

impl TemplateSource {
    /// The file that holds the template, if it is in one.
    pub fn artefact(&self) -> Option<&ArtefactRef> {
        match self {
            Self::Jinja(artefact) | Self::TokenizerConfig(artefact) | Self::Gguf(artefact) => {
                Some(artefact)
            }
            Self::Plain | Self::LastMessage => None,
        }
    }
}

/// A name in lower case, with `_` for what is not safe in paths and record keys.
pub fn slug(name: &str) -> String {
    let safe = |character: char| match character {
        'a'..='z' | '0'..='9' | '-' | '_' => character,
        'A'..='Z' => character.to_ascii_lowercase(),
        _ => '_',
    };
    name.chars().map(safe).collect()
}

#[cfg(test)]
mod tests;
