//! The loaded model and what the engine must know about it.

use crate::error::LoadError;
use crate::fingerprint;
use crate::logs;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::model::params::LlamaModelParams;
use std::path::Path;
use std::sync::OnceLock;

/// Value of `*.pooling_type` for models that leave pooling to their user.
const POOLING_NONE: &str = "0";

/// llama.cpp is initialised once per process.
static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();

/// Facts of the model's metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ModelFacts {
    pub(crate) architecture: String,
    /// Identifies header and weights.
    pub(crate) fingerprint: u64,
    /// Tokens the model was trained for.
    pub(crate) context_length: usize,
    pub(crate) vocab_size: usize,
    /// Tokens that some layers' attention is limited to.
    pub(crate) window: Option<usize>,
    /// State that cannot be cut back to a prefix.
    pub(crate) recurrent: bool,
    /// The model says itself how embeddings are pooled.
    pub(crate) pooling: bool,
}

/// Weights (or the vocabulary alone), and facts.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) llama: LlamaModel,
    pub(crate) facts: ModelFacts,
}

/// llama.cpp, initialised.
pub(crate) fn backend() -> Result<&'static LlamaBackend, LoadError> {
    logs::redirect();
    BACKEND
        .get_or_init(|| LlamaBackend::init().map_err(|error| error.to_string()))
        .as_ref()
        .map_err(|error| LoadError::Thread(error.clone()))
}

impl Model {
    /// Loads a GGUF file. It is checked first, so that damage is an error and not an abort.
    pub(crate) fn load(path: &Path, vocab_only: bool) -> Result<Self, LoadError> {
        let fingerprint = fingerprint::of_checked(path)?;
        let backend = backend()?;
        let params = LlamaModelParams::default().with_vocab_only(vocab_only);
        let llama = LlamaModel::load_from_file(backend, path, &params).map_err(|error| {
            LoadError::Refused {
                path: path.into(),
                detail: error.to_string(),
            }
        })?;
        let facts = facts(&llama, fingerprint);
        Ok(Self { llama, facts })
    }
}

fn facts(llama: &LlamaModel, fingerprint: u64) -> ModelFacts {
    let architecture = llama
        .meta_val_str("general.architecture")
        .unwrap_or_default();
    let value = |key: &str| llama.meta_val_str(&format!("{architecture}.{key}")).ok();
    let window = value("attention.sliding_window")
        .and_then(|text| text.parse().ok())
        .filter(|&window: &usize| window > 0);
    let pooling = value("pooling_type").is_some_and(|kind| kind != POOLING_NONE);
    ModelFacts {
        fingerprint,
        context_length: llama.n_ctx_train() as usize,
        vocab_size: usize::try_from(llama.n_vocab()).unwrap_or_default(),
        window,
        recurrent: llama.is_recurrent() || llama.is_hybrid(),
        pooling,
        architecture,
    }
}
