//! A model on this machine: its card, and where its files are.

use super::{
    GgufVocabulary, ModelAssets, ModelCard, ModelError, TemplateSource, assets, gguf, hugging_face,
};
use crate::template::ChatTemplate;
use dynamo_protocols::tokenizer::Tokenizer;
use dynamo_runtime::discovery::ArtefactRef;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model on this machine. Weights are not looked at, but for a GGUF file's length.
#[derive(Debug, Clone)]
pub struct LocalModel {
    card: ModelCard,
    path: PathBuf,
    /// Local files of the card's artefacts. A GGUF file stands for the vocabulary file made of it.
    files: Vec<(ArtefactRef, PathBuf)>,
}

impl LocalModel {
    /// Opens a GGUF file or a Hugging Face model folder. The card's name is the file's.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let metadata = fs::metadata(path).map_err(|error| ModelError::io(path, error))?;
        let (card, files) = match metadata.is_dir() {
            true => hugging_face::read(path)?,
            false => gguf::read(path)?,
        };
        Ok(Self {
            card: card.sealed(),
            path: path.to_owned(),
            files,
        })
    }

    /// The model with a changed card: another name, a shorter context, what the worker can hold.
    #[must_use]
    pub fn with_card(mut self, change: impl FnOnce(&mut ModelCard)) -> Self {
        change(&mut self.card);
        self.card.seal();
        self
    }

    /// The model with another chat template, from a Jinja file.
    pub fn with_template(mut self, file: &Path) -> Result<Self, ModelError> {
        let artefact = describe(file)?;
        self.card.chat_template = Some(TemplateSource::Jinja(artefact.clone()));
        self.card.model_types.chat = true;
        self.card.seal();
        self.files.push((artefact, file.to_owned()));
        Ok(self)
    }

    /// The card.
    pub fn card(&self) -> &ModelCard {
        &self.card
    }

    /// Where the model was opened: the GGUF file or the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads the tokenizer. A GGUF file needs `vocabulary`.
    pub fn tokenizer(
        &self,
        vocabulary: Option<&dyn GgufVocabulary>,
    ) -> Result<Arc<dyn Tokenizer>, ModelError> {
        Ok(self.assets(vocabulary)?.tokenizer)
    }

    /// Compiles the chat template; none for a base model.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, ModelError> {
        assets::template(&self.card, |artefact| self.locate(artefact))
    }

    /// Loads tokenizer and chat template.
    pub fn assets(
        &self,
        vocabulary: Option<&dyn GgufVocabulary>,
    ) -> Result<ModelAssets, ModelError> {
        ModelAssets::load(&self.card, |artefact| self.locate(artefact), vocabulary)
    }

    /// The card's artefacts as files to serve to others. What has to be made for that (the
    /// vocabulary file of a GGUF model) is written to `folder`, once: files are named by content.
    pub fn artefacts(&self, folder: &Path) -> Result<Vec<(ArtefactRef, PathBuf)>, ModelError> {
        let mut files = Vec::new();
        for artefact in self.card.artefacts() {
            let path = self.locate(artefact)?;
            let made = path == self.path;
            let path = if made {
                write_vocabulary(&path, artefact, folder)?
            } else {
                path
            };
            files.push((artefact.clone(), path));
        }
        Ok(files)
    }

    fn locate(&self, artefact: &ArtefactRef) -> Result<PathBuf, ModelError> {
        let found = self.files.iter().find(|(known, _)| known == artefact);
        found
            .map(|(_, path)| path.clone())
            .ok_or_else(|| ModelError::MissingArtefact {
                name: artefact.name.clone(),
                reason: "it is not part of the model that was opened".to_owned(),
            })
    }
}

/// Size and hash of a file.
pub(super) fn describe(path: &Path) -> Result<ArtefactRef, ModelError> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let described = describe_bytes(name, |sink| {
        io::copy(&mut File::open(path)?, sink)?;
        Ok::<(), io::Error>(())
    });
    described.map_err(|error| ModelError::io(path, error))
}

/// Size and hash of what is written.
pub(super) fn describe_bytes<E>(
    name: String,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E>,
) -> Result<ArtefactRef, E> {
    let mut sink = HashingSink {
        hasher: blake3::Hasher::new(),
        size: 0,
    };
    write(&mut sink)?;
    let blake3 = sink.hasher.finalize().to_hex().to_string();
    Ok(ArtefactRef {
        name,
        size: sink.size,
        blake3,
    })
}

struct HashingSink {
    hasher: blake3::Hasher,
    size: u64,
}

impl Write for HashingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_vocabulary(
    model: &Path,
    artefact: &ArtefactRef,
    folder: &Path,
) -> Result<PathBuf, ModelError> {
    let path = folder.join(format!("{}.gguf", artefact.blake3));
    if fs::metadata(&path).is_ok_and(|metadata| metadata.len() == artefact.size) {
        return Ok(path);
    }
    fs::create_dir_all(folder).map_err(|error| ModelError::io(folder, error))?;
    // Written aside and renamed: whoever sees the name sees the whole file.
    let aside = folder.join(format!("{}.{}.tmp", artefact.blake3, std::process::id()));
    let file = File::create(&aside).map_err(|error| ModelError::io(&aside, error))?;
    gguf::write_vocabulary(model, BufWriter::new(file))?;
    fs::rename(&aside, &path).map_err(|error| ModelError::io(&path, error))?;
    Ok(path)
}
