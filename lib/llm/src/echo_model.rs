//! A model of nothing: bytes as tokens, and an engine that gives the prompt back. It needs no
//! file, so that the whole path can be tried and measured without a model.

use crate::card::{ModelAssets, ModelCard, ModelError, TemplateSource};
use crate::echo::{EchoEngine, EchoOptions};
use crate::model::ServedModel;
use std::path::PathBuf;
use std::sync::Arc;

/// Context of the model, in bytes: room for a long document.
pub const ECHO_CONTEXT_LENGTH: u32 = 128 * 1024;

/// The model, under this name. Of a conversation it echoes the last message.
pub fn echo_model(name: &str, options: EchoOptions) -> Result<ServedModel, ModelError> {
    let card = ModelCard {
        chat_template: Some(TemplateSource::LastMessage),
        ..ModelCard::byte_level(name, ECHO_CONTEXT_LENGTH)
    }
    .sealed();
    // Loaded from the card like anywhere else, which names no files.
    let assets = ModelAssets::load(&card, |_| Ok(PathBuf::new()), None)?;
    Ok(ServedModel {
        card,
        tokenizer: assets.tokenizer,
        template: assets.template,
        engine: Arc::new(EchoEngine::new(options)),
        router: None,
    })
}
