//! Engines and models of this process: from a model argument and an output form to something
//! that can be served.

use crate::forms::Output;
use crate::memory;
use crate::output::{complain, print_line};
use crate::process::Process;
use anyhow::bail;
use dynamo_llm::card::{GgufVocabulary, LocalModel, TemplateSource};
use dynamo_llm::config::{ArtefactOptions, EchoEngineOptions, ModelOptions};
use dynamo_llm::echo::{EchoEngine, EchoOptions};
use dynamo_llm::echo_model::echo_model;
use dynamo_llm::hub::{FileProgress, Hub, HubOptions, Wanted};
use dynamo_llm::model::ServedModel;
use dynamo_llm::model_watch::SharedVocabulary;
use dynamo_llm::worker::Offer;
use dynamo_protocols::engine::Engine;
use dynamo_runtime::shutdown::ExitStatus;
use indicatif::{ProgressBar, ProgressStyle};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the model that `out=echo` serves without a model.
const ECHO_NAME: &str = "echo";

/// An engine of this process with its model.
pub(crate) struct Local {
    pub(crate) name: String,
    pub(crate) served: ServedModel,
    /// The model's files, if it has any.
    model: Option<LocalModel>,
}

/// Reads GGUF vocabularies, where this build can.
#[cfg(feature = "llamacpp")]
pub(crate) fn vocabulary() -> SharedVocabulary {
    use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
    let open = |path: &Path| -> Result<Arc<dyn Tokenizer>, TokenizerError> {
        let opened = dynamo_llamacpp::GgufTokenizer::open(path);
        let opened = opened.map_err(|error| TokenizerError::Load(error.to_string()))?;
        Ok(Arc::new(opened))
    };
    Some(Arc::new(open) as Arc<dyn GgufVocabulary>)
}

#[cfg(not(feature = "llamacpp"))]
pub(crate) fn vocabulary() -> SharedVocabulary {
    None
}

/// Builds the engine of an output form that is computed in this process.
pub(crate) async fn build(
    process: &Process,
    output: &Output,
    model: Option<&str>,
) -> anyhow::Result<Local> {
    let options: &ModelOptions = process.options.get();
    let echo = || EchoOptions {
        delay: process.options.get::<EchoEngineOptions>().token_echo_delay,
    };
    let Some(model) = model.or(options.model_path.as_deref()) else {
        if *output != Output::Echo {
            bail!("the llama.cpp engine needs a model: give a GGUF file or a Hugging Face id");
        }
        let name = options
            .model_name
            .clone()
            .unwrap_or_else(|| ECHO_NAME.to_owned());
        return Ok(Local {
            served: echo_model(&name, echo())?,
            name,
            model: None,
        });
    };
    let wanted = match output {
        Output::Echo => Wanted::WithoutWeights,
        Output::Llamacpp
        | Output::Auto
        | Output::Endpoint(_)
        | Output::Servers(_)
        | Output::Python(_) => Wanted::Everything,
    };
    let model = open(process, model, wanted).await?;
    if model.card().chat_template == Some(TemplateSource::Plain) {
        tracing::warn!(
            model = model.card().name,
            "the model brings no chat template: chat is rendered as plain text; \
             --custom-jinja-template gives it one"
        );
    }
    let (model, assets) = load_assets(process, model).await?;
    let (model, engine): (LocalModel, Arc<dyn Engine>) = match output {
        Output::Echo => (model, Arc::new(EchoEngine::new(echo()))),
        Output::Llamacpp
        | Output::Auto
        | Output::Endpoint(_)
        | Output::Servers(_)
        | Output::Python(_) => start_llamacpp(process, model).await?,
    };
    Ok(Local {
        name: model.card().name.clone(),
        served: ServedModel {
            card: model.card().clone(),
            tokenizer: assets.tokenizer,
            template: assets.template,
            engine,
            router: None,
        },
        model: Some(model),
    })
}

impl Local {
    /// What a worker announces of it.
    pub(crate) fn offer(&self, process: &Process) -> anyhow::Result<Offer> {
        let artefacts = match &self.model {
            Some(model) => model.artefacts(&artefact_cache(process))?,
            None => Vec::new(),
        };
        Ok(Offer {
            name: self.name.clone(),
            card: serde_json::to_value(&self.served.card)?,
            artefacts,
            embeds: self.served.card.model_types.embeddings,
            ..Offer::default()
        })
    }
}

/// Folder for fetched and made artefacts.
pub(crate) fn artefact_cache(process: &Process) -> PathBuf {
    let options: &ArtefactOptions = process.options.get();
    let own = options.artefact_cache.clone();
    own.unwrap_or_else(|| process.surroundings.cache_dir().join("artefacts"))
}

/// `dynamo model fetch`
pub(crate) async fn fetch(process: &Process, model: &str) -> anyhow::Result<ExitStatus> {
    let path = resolve(process, model, Wanted::Everything).await?;
    print_line(&path.display().to_string());
    Ok(ExitStatus::Success)
}

/// `dynamo model show`
pub(crate) async fn show(process: &Process, model: &str) -> anyhow::Result<ExitStatus> {
    let path = resolve(process, model, Wanted::WithoutWeights).await?;
    let opened = process
        .environment
        .compute(move || LocalModel::open(&path))
        .await??;
    print_line(&serde_json::to_string_pretty(opened.card())?);
    Ok(ExitStatus::Success)
}

pub(crate) async fn open(
    process: &Process,
    model: &str,
    wanted: Wanted,
) -> anyhow::Result<LocalModel> {
    let options: &ModelOptions = process.options.get();
    let path = resolve(process, model, wanted).await?;
    let name = options.model_name.clone();
    let template = options.custom_jinja_template.clone();
    let opened = process.environment.compute(move || {
        let mut model = LocalModel::open(&path)?;
        if let Some(file) = template {
            model = model.with_template(&file)?;
        }
        if let Some(name) = name {
            model = model.with_card(|card| card.name = name);
        }
        Ok::<_, dynamo_llm::card::ModelError>(model)
    });
    Ok(opened.await??)
}

pub(crate) async fn load_assets(
    process: &Process,
    model: LocalModel,
) -> anyhow::Result<(LocalModel, dynamo_llm::card::ModelAssets)> {
    let loaded = process.environment.compute(move || {
        let assets = model.assets(vocabulary().as_deref())?;
        memory::give_back();
        Ok::<_, dynamo_llm::card::ModelError>((model, assets))
    });
    Ok(loaded.await??)
}

#[cfg(feature = "llamacpp")]
async fn start_llamacpp(
    process: &Process,
    model: LocalModel,
) -> anyhow::Result<(LocalModel, Arc<dyn Engine>)> {
    use dynamo_llamacpp::{LlamacppEngine, LlamacppOptions};
    let options: LlamacppOptions = process.options.get::<LlamacppOptions>().clone();
    let path = model.path().to_owned();
    if path.is_dir() {
        bail!(
            "{} is a folder; llama.cpp runs GGUF files: give the path of one",
            path.display()
        );
    }
    let loading = options.clone();
    let engine = process
        .environment
        .compute(move || LlamacppEngine::load(&path, &loading))
        .await??;
    tracing::info!(
        threads = engine.threads(),
        context_length = engine.context_length(),
        "llama.cpp engine started"
    );
    let load = engine.load();
    let model = model.with_card(|card| {
        card.context_length = u32::try_from(engine.context_length()).unwrap_or(u32::MAX);
        card.kv_block_size = engine.block_size();
        card.model_types.embeddings = true;
        card.runtime.total_kv_blocks = Some(load.total_blocks);
        card.runtime.max_num_seqs = Some(load.max_sequences);
        card.runtime.max_num_batched_tokens = Some(load.max_batched_tokens);
    });
    Ok((model, Arc::new(engine)))
}

#[cfg(not(feature = "llamacpp"))]
async fn start_llamacpp(
    _process: &Process,
    _model: LocalModel,
) -> anyhow::Result<(LocalModel, Arc<dyn Engine>)> {
    bail!("this build has no llama.cpp engine: build with the cargo feature llamacpp")
}

pub(crate) async fn resolve(
    process: &Process,
    model: &str,
    wanted: Wanted,
) -> anyhow::Result<PathBuf> {
    let options: &HubOptions = process.options.get();
    let home = process.surroundings.home();
    let hub = Hub::new(options, home.as_deref(), &process.tasks)?;
    let bar = process.surroundings.stderr_is_terminal.then(download_bar);
    let show = |progress: FileProgress<'_>| match &bar {
        Some(bar) => {
            bar.set_length(progress.total);
            bar.set_position(progress.done);
            bar.set_message(format!(
                "{} ({}/{})",
                progress.file, progress.number, progress.count
            ));
        }
        None if progress.done == progress.total => {
            complain(&format!(
                "fetched {} ({}/{})",
                progress.file, progress.number, progress.count
            ));
        }
        None => {}
    };
    let resolved = hub.resolve(model, wanted, &show).await?;
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    Ok(resolved.path)
}

fn download_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style =
        ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}
