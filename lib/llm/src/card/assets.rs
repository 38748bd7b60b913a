//! A card and its files made into what the pipeline works with.

use super::{ModelCard, ModelError, TemplateSource, TokenizerSource, gguf, hugging_face};
use crate::byte_tokenizer::ByteTokenizer;
use crate::template::ChatTemplate;
use crate::tokenizer::HuggingFaceTokenizer;
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
use dynamo_runtime::discovery::ArtefactRef;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A conversation as a base model may have seen it in texts. The special token is undefined, and
/// thereby empty, for models without it.
const PLAIN_TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\
    {{ message.role|capitalize }}: {{ message.content or '' }}\n{% endfor %}\
    {% if add_generation_prompt %}Assistant:{% endif %}";

/// What is echoed of a conversation.
const LAST_MESSAGE_TEMPLATE: &str = "{{ messages[-1].content or '' }}";

/// Reads the vocabulary of a GGUF file. The engine that runs such files implements it, so that
/// text becomes the same tokens here and there.
pub trait GgufVocabulary: Send + Sync {
    /// Loads the vocabulary. The file may have no tensors.
    fn load(&self, file: &Path) -> Result<Arc<dyn Tokenizer>, TokenizerError>;
}

impl<F> GgufVocabulary for F
where
    F: Fn(&Path) -> Result<Arc<dyn Tokenizer>, TokenizerError> + Send + Sync,
{
    fn load(&self, file: &Path) -> Result<Arc<dyn Tokenizer>, TokenizerError> {
        self(file)
    }
}

/// What turns messages into token ids and ids into text.
#[derive(Debug, Clone)]
pub struct ModelAssets {
    /// Text to tokens and back.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Messages to text; none for a base model.
    pub template: Option<Arc<ChatTemplate>>,
}

impl ModelAssets {
    /// Loads what the card names. `locate` gives the local file of an artefact, fetched and
    /// verified by then. Reads large files and compiles: not for an async thread.
    pub fn load(
        card: &ModelCard,
        locate: impl Fn(&ArtefactRef) -> Result<PathBuf, ModelError>,
        vocabulary: Option<&dyn GgufVocabulary>,
    ) -> Result<Self, ModelError> {
        let tokenizer: Arc<dyn Tokenizer> = match &card.tokenizer {
            // Where there is none, nobody asks for it: texts go by.
            TokenizerSource::Byte | TokenizerSource::None => Arc::new(ByteTokenizer),
            TokenizerSource::HuggingFace(artefact) => {
                Arc::new(HuggingFaceTokenizer::from_file(&locate(artefact)?)?)
            }
            TokenizerSource::Gguf(artefact) => {
                let vocabulary = vocabulary.ok_or(ModelError::NoGgufVocabulary)?;
                vocabulary.load(&locate(artefact)?)?
            }
        };
        Ok(Self {
            tokenizer,
            template: template(card, locate)?.map(Arc::new),
        })
    }
}

/// The chat template that a card names.
pub(super) fn template(
    card: &ModelCard,
    locate: impl Fn(&ArtefactRef) -> Result<PathBuf, ModelError>,
) -> Result<Option<ChatTemplate>, ModelError> {
    let Some(source) = &card.chat_template else {
        return Ok(None);
    };
    let (path, templates) = match source {
        TemplateSource::Jinja(artefact) => {
            let path = locate(artefact)?;
            let text = hugging_face::read_text(&path)?;
            (path, vec![("default".to_owned(), text)])
        }
        TemplateSource::TokenizerConfig(artefact) => {
            let path = locate(artefact)?;
            let templates = hugging_face::read_templates(&path)?;
            (path, templates)
        }
        TemplateSource::Gguf(artefact) => {
            let path = locate(artefact)?;
            let templates = gguf::read_templates(&path)?;
            (path, templates)
        }
        TemplateSource::Plain => built_in("the plain template", PLAIN_TEMPLATE),
        TemplateSource::LastMessage => built_in("the echo template", LAST_MESSAGE_TEMPLATE),
    };
    if templates.is_empty() {
        return Err(ModelError::NoTemplate { path });
    }
    ChatTemplate::named(templates, card.special_tokens.clone())
        .map(Some)
        .map_err(|source| ModelError::Template { path, source })
}

/// A template of ours, as if it came from a file.
fn built_in(name: &str, text: &str) -> (PathBuf, Vec<(String, String)>) {
    let templates = vec![("default".to_owned(), text.to_owned())];
    (PathBuf::from(name), templates)
}
