//! Models that Python workers serve: what is announced of them.

use crate::home::trouble;
use crate::runtime::Endpoint;
use crate::worker_type::{self, WorkerType};
use dynamo_llm::card::{self, ModelCard, ModelTypes};
use dynamo_llm::remote::EMBED_ENDPOINT;
use dynamo_llm::role::{self, Role};
use dynamo_llm::worker::Offer;
use dynamo_protocols::engine::BootstrapAddress;
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::structured::StructuredSupport;
use dynamo_run::embedded::ModelSource;
use dynamo_runtime::discovery::ArtefactRef;
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::Arc;

/// What goes to the worker.
#[pyclass(frozen, eq, eq_int, module = "dynamo._core", from_py_object)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ModelInput {
    /// The client's request as it is.
    Text,
    /// Token ids.
    Tokens,
    /// Tensors.
    Tensor,
}

impl ModelInput {
    /// The same in a card's words, where it is served. With a `template` there is text to make.
    fn served(self, template: bool) -> PyResult<card::ModelInput> {
        let message = match self {
            Self::Tokens => return Ok(card::ModelInput::Tokens),
            Self::Text if !template => return Ok(card::ModelInput::Text),
            Self::Text => {
                "custom_template_path goes with ModelInput.Tokens: a worker that takes text renders \
                 messages itself"
            }
            Self::Tensor => {
                "ModelInput.Tensor is not served: use ModelInput.Tokens or ModelInput.Text"
            }
        };
        Err(PyValueError::new_err(message))
    }
}

/// What a model can be asked for; kinds are combined by `|`.
#[pyclass(frozen, eq, hash, module = "dynamo._core", from_py_object)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ModelType(u16);

#[pymethods]
impl ModelType {
    #[classattr]
    #[pyo3(name = "Chat")]
    const CHAT: Self = Self(1);
    #[classattr]
    #[pyo3(name = "Completions")]
    const COMPLETIONS: Self = Self(2);
    #[classattr]
    #[pyo3(name = "Embedding")]
    const EMBEDDING: Self = Self(4);
    #[classattr]
    #[pyo3(name = "TensorBased")]
    const TENSOR: Self = Self(8);
    #[classattr]
    #[pyo3(name = "Prefill")]
    const PREFILL: Self = Self(16);
    /// Chat and completions: what workers of early versions said.
    #[classattr]
    #[pyo3(name = "Backend")]
    const BACKEND: Self = Self(3);

    fn __or__(&self, other: &Self) -> Self {
        Self(self.0 | other.0)
    }

    fn supports_chat(&self) -> bool {
        self.has(Self::CHAT)
    }

    fn __repr__(&self) -> String {
        let names = [
            (Self::CHAT, "Chat"),
            (Self::COMPLETIONS, "Completions"),
            (Self::EMBEDDING, "Embedding"),
            (Self::TENSOR, "TensorBased"),
            (Self::PREFILL, "Prefill"),
        ];
        let mine = names.into_iter().filter(|(kind, _)| self.has(*kind));
        let mine: Vec<_> = mine.map(|(_, name)| name).collect();
        format!("ModelType({})", mine.join(" | "))
    }
}

impl ModelType {
    /// Whether such a model can be served at the endpoint.
    fn check(self, endpoint: &Endpoint, worker_type: role::WorkerType) -> PyResult<()> {
        if self == Self::PREFILL && worker_type == role::WorkerType::Prefill {
            return Ok(());
        }
        let is_known = self.has(Self::BACKEND) || self.has(Self::EMBEDDING);
        if !is_known || self.0 & !(Self::BACKEND.0 | Self::EMBEDDING.0) != 0 {
            return Err(PyValueError::new_err(format!(
                "{} cannot be served: use ModelType.Chat, ModelType.Completions, \
                 ModelType.Embedding, or several of them; ModelType.Prefill is a prefill worker's",
                self.__repr__()
            )));
        }
        if self.has(Self::EMBEDDING) && endpoint.id().endpoint() == EMBED_ENDPOINT {
            return Err(PyValueError::new_err(format!(
                "{} is where embeddings are served beside a model's own endpoint: give that another \
                 name, such as generate",
                endpoint.id()
            )));
        }
        Ok(())
    }

    fn has(self, kind: Self) -> bool {
        self.0 & kind.0 != 0
    }
}

/// What a worker can hold.
#[pyclass(frozen, module = "dynamo._core")]
#[derive(Default)]
pub(crate) struct ModelRuntimeConfig(Mutex<Limits>);

#[derive(Debug, Default, Clone)]
struct Limits {
    context_length: Option<u32>,
    total_kv_blocks: Option<u64>,
    max_num_seqs: Option<u32>,
    max_num_batched_tokens: Option<u32>,
    structured_output: Option<String>,
    cannot_continue: bool,
    bootstrap: Option<BootstrapAddress>,
}

#[pymethods]
impl ModelRuntimeConfig {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Longest sequence, prompt and output together, in tokens.
    #[getter]
    fn context_length(&self) -> Option<u32> {
        self.0.lock().context_length
    }
    #[setter]
    fn set_context_length(&self, value: Option<u32>) {
        self.0.lock().context_length = value;
    }

    /// KV blocks in the worker's cache.
    #[getter]
    fn total_kv_blocks(&self) -> Option<u64> {
        self.0.lock().total_kv_blocks
    }
    #[setter]
    fn set_total_kv_blocks(&self, value: Option<u64>) {
        self.0.lock().total_kv_blocks = value;
    }

    /// Sequences that run at once.
    #[getter]
    fn max_num_seqs(&self) -> Option<u32> {
        self.0.lock().max_num_seqs
    }
    #[setter]
    fn set_max_num_seqs(&self, value: Option<u32>) {
        self.0.lock().max_num_seqs = value;
    }

    /// Tokens that one step computes.
    #[getter]
    fn max_num_batched_tokens(&self) -> Option<u32> {
        self.0.lock().max_num_batched_tokens
    }
    #[setter]
    fn set_max_num_batched_tokens(&self, value: Option<u32>) {
        self.0.lock().max_num_batched_tokens = value;
    }

    /// How far the engine keeps to structured output: `None`, "from_start" or "replayed".
    #[getter]
    fn structured_output(&self) -> Option<String> {
        self.0.lock().structured_output.clone()
    }
    #[setter]
    fn set_structured_output(&self, value: Option<String>) -> PyResult<()> {
        if let Some(word) = &value {
            support(word)?;
        }
        self.0.lock().structured_output = value;
        Ok(())
    }

    /// Its engine cannot go on with an answer that another worker has begun.
    #[getter]
    fn cannot_continue(&self) -> bool {
        self.0.lock().cannot_continue
    }
    #[setter]
    fn set_cannot_continue(&self, value: bool) {
        self.0.lock().cannot_continue = value;
    }

    /// Where decode workers find this prefill worker's engine to fetch KV state: requests then go to
    /// both at once, with a room in which they meet (`bootstrap_info`).
    fn set_disaggregated_endpoint(
        &self,
        bootstrap_host: String,
        bootstrap_port: u16,
    ) -> PyResult<()> {
        if bootstrap_host.is_empty() || bootstrap_port == 0 {
            return Err(PyValueError::new_err(
                "bootstrap_host and bootstrap_port need to be an address that decode workers reach",
            ));
        }
        self.0.lock().bootstrap = Some(BootstrapAddress {
            host: bootstrap_host.into(),
            port: bootstrap_port,
        });
        Ok(())
    }

    /// Host of that address.
    #[getter]
    fn bootstrap_host(&self) -> Option<String> {
        let limits = self.0.lock();
        Some(limits.bootstrap.as_ref()?.host.to_string())
    }

    /// Port of that address.
    #[getter]
    fn bootstrap_port(&self) -> Option<u16> {
        Some(self.0.lock().bootstrap.as_ref()?.port)
    }
}

fn support(word: &str) -> PyResult<StructuredSupport> {
    match word {
        "from_start" => Ok(StructuredSupport::FromStart),
        "replayed" => Ok(StructuredSupport::Replayed),
        _ => Err(PyValueError::new_err(format!(
            "structured_output {word:?} is not known; use None, \"from_start\" or \"replayed\""
        ))),
    }
}

/// A model with what its endpoint needs to serve it.
pub(crate) struct Registration {
    pub(crate) offer: Offer,
    pub(crate) input: card::ModelInput,
    pub(crate) types: ModelTypes,
    pub(crate) limits: LoadReport,
    pub(crate) structured: StructuredSupport,
}

/// Announces that an endpoint serves a model. The model is listed when the endpoint is served as
/// well, whichever comes first. A future of the event loop.
#[pyfunction]
#[pyo3(signature = (
    model_input, model_type, endpoint, model_path, model_name=None, *,
    context_length=None, kv_cache_block_size=None, runtime_config=None,
    custom_template_path=None, lora_name=None, base_model_path=None, max_gpu_lora_count=None,
    migration_limit=None, worker_type=None, needs=None, user_data=None
))]
#[expect(clippy::too_many_arguments, reason = "the published signature")]
fn register_model<'py>(
    py: Python<'py>,
    model_input: ModelInput,
    model_type: ModelType,
    endpoint: &Bound<'py, Endpoint>,
    model_path: String,
    model_name: Option<String>,
    context_length: Option<u32>,
    kv_cache_block_size: Option<u32>,
    runtime_config: Option<&Bound<'py, ModelRuntimeConfig>>,
    custom_template_path: Option<PathBuf>,
    lora_name: Option<String>,
    base_model_path: Option<String>,
    max_gpu_lora_count: Option<u32>,
    migration_limit: Option<u32>,
    worker_type: Option<WorkerType>,
    needs: Option<&Bound<'py, PyAny>>,
    user_data: Option<&Bound<'py, PyDict>>,
) -> PyResult<Bound<'py, PyAny>> {
    let input = model_input.served(custom_template_path.is_some())?;
    let prefills = model_type == ModelType::PREFILL;
    let (worker_type, needs) = worker_type::role(worker_type, needs, prefills)?;
    model_type.check(endpoint.get(), worker_type)?;
    if input == card::ModelInput::Text && worker_type != role::WorkerType::Aggregated {
        return Err(PyValueError::new_err(
            "what prefill workers hand over are prompts in tokens: use ModelInput.Tokens, or leave \
             worker_type out",
        ));
    }
    // How often answers move is the frontend's; how many adapters fit is the engine's.
    let _ = (migration_limit, user_data, max_gpu_lora_count);
    let limits = runtime_config.map(|it| it.get().0.lock().clone());
    let limits = limits.unwrap_or_default();
    let structured = match &limits.structured_output {
        Some(word) => support(word)?,
        None => StructuredSupport::No,
    };
    let (home, serving) = {
        let endpoint = endpoint.get();
        (Arc::clone(endpoint.home()), Arc::clone(endpoint.serving()))
    };
    let (adapter, bootstrap) = (lora_name.clone(), limits.bootstrap.clone());
    let change = move |card: &mut ModelCard| {
        card.lora = lora_name;
        let chats = card.model_types.chat;
        card.model_types.chat = chats && model_type.has(ModelType::CHAT);
        card.model_types.completions = model_type.has(ModelType::COMPLETIONS);
        card.model_types.embeddings = model_type.has(ModelType::EMBEDDING);
        card.worker_type = worker_type;
        card.needs = needs;
        if let Some(length) = context_length.or(limits.context_length) {
            card.context_length = length;
        }
        if let Some(size) = kv_cache_block_size {
            card.kv_block_size = size;
        }
        card.runtime.total_kv_blocks = limits.total_kv_blocks;
        card.runtime.max_num_seqs = limits.max_num_seqs;
        card.runtime.max_num_batched_tokens = limits.max_num_batched_tokens;
        card.runtime.cannot_continue |= limits.cannot_continue;
    };
    let source = ModelSource {
        // An adapter speaks with its model's tokenizer.
        path: base_model_path.unwrap_or(model_path),
        name: adapter.clone().or(model_name),
        template: custom_template_path,
    };
    let at = Arc::clone(&home);
    home.promise_nothing(py, "register model", async move {
        let cache = at.embedded.artefact_cache();
        let (card, artefacts) = match input {
            card::ModelInput::Tokens => {
                let model = at.embedded.model(source, false).await.map_err(trouble)?;
                let model = model.with_card(change);
                (
                    model.card().clone(),
                    model.artefacts(&cache).map_err(trouble)?,
                )
            }
            card::ModelInput::Text => (text_card(source, change), Vec::new()),
        };
        let registration = registration(&card, artefacts, structured, bootstrap)?;
        match adapter {
            None => serving.register(registration).await.map_err(trouble),
            Some(_) => serving.add_adapter(registration).await.map_err(trouble),
        }
    })
}

/// The card of a model that takes text. There is nothing to read: its name may be any path's.
fn text_card(source: ModelSource, change: impl FnOnce(&mut ModelCard)) -> ModelCard {
    let name = source.name.unwrap_or(source.path);
    let all = ModelTypes {
        chat: true,
        completions: true,
        embeddings: true,
    };
    let mut card = ModelCard::text(&name, all);
    change(&mut card);
    card.sealed()
}

/// What is known of a model that takes text in this process.
pub(crate) fn text_registration(card: &ModelCard) -> PyResult<Registration> {
    registration(card, Vec::new(), StructuredSupport::No, None)
}

fn registration(
    card: &ModelCard,
    artefacts: Vec<(ArtefactRef, PathBuf)>,
    structured: StructuredSupport,
    bootstrap: Option<BootstrapAddress>,
) -> PyResult<Registration> {
    Ok(Registration {
        offer: Offer {
            name: card.name.clone(),
            card: serde_json::to_value(card).map_err(trouble)?,
            artefacts,
            embeds: card.model_types.embeddings,
            role: Role {
                worker_type: card.worker_type,
                bootstrap,
            },
        },
        input: card.input,
        types: card.model_types,
        limits: LoadReport {
            total_blocks: card.runtime.total_kv_blocks.unwrap_or(0),
            block_size: card.kv_block_size,
            max_sequences: card.runtime.max_num_seqs.unwrap_or(0),
            max_batched_tokens: card.runtime.max_num_batched_tokens.unwrap_or(0),
            ..LoadReport::default()
        },
        structured,
    })
}

/// The endpoint serves no model any more, or one adapter less. A future of the event loop.
#[pyfunction]
#[pyo3(signature = (endpoint, lora_name=None))]
fn unregister_model<'py>(
    py: Python<'py>,
    endpoint: &Bound<'py, Endpoint>,
    lora_name: Option<String>,
) -> PyResult<Bound<'py, PyAny>> {
    let endpoint = endpoint.get();
    let serving = Arc::clone(endpoint.serving());
    endpoint
        .home()
        .promise_nothing(py, "unregister model", async move {
            match lora_name {
                None => serving.unregister().await.map_err(trouble),
                Some(name) => serving.remove_adapter(&name).await.map_err(trouble),
            }
        })
}

/// What this module has for Python.
pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ModelInput>()?;
    module.add_class::<ModelType>()?;
    module.add_class::<WorkerType>()?;
    module.add_class::<ModelRuntimeConfig>()?;
    module.add_function(wrap_pyfunction!(register_model, module)?)?;
    module.add_function(wrap_pyfunction!(unregister_model, module)?)
}
