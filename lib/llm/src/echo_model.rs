//! A model of nothing: bytes as tokens, and an engine that gives the prompt back. It needs no
//! file, so that the whole path can be tried and measured without a model.

use crate::byte_tokenizer::ByteTokenizer;
use crate::card::ModelCard;
use crate::echo::{EchoEngine, EchoOptions};
use crate::model::ServedModel;
use crate::template::{ChatTemplate, SpecialTokens, TemplateError};
use std::sync::Arc;

/// Context of the model, in bytes: room for a long document.
pub const ECHO_CONTEXT_LENGTH: u32 = 128 * 1024;

/// What is echoed of a conversation: its last message.
const LAST_MESSAGE: &str = "{{ messages[-1].content }}";

/// The model, under this name.
pub fn echo_model(name: &str, options: EchoOptions) -> Result<ServedModel, TemplateError> {
    Ok(ServedModel {
        card: ModelCard::byte_level(name, ECHO_CONTEXT_LENGTH),
        tokenizer: Arc::new(ByteTokenizer),
        template: Some(Arc::new(ChatTemplate::new(
            LAST_MESSAGE,
            SpecialTokens::new(),
        )?)),
        engine: Arc::new(EchoEngine::new(options)),
    })
}
