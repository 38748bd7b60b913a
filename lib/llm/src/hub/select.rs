//! Which files of a repository make the model. Pure.
//!
//! A repository with `.safetensors` is a Hugging Face model: its weights and the small files
//! about it. One with `.gguf` and no `.safetensors` is one model per GGUF file (or per set of
//! split files); which one is the caller's choice. Weights come last and `config.json` directly
//! before them, so that a cache whose weights are there has everything else too.

use super::error::{FileList, HubError};
use super::reference::HubReference;
use std::collections::BTreeMap;

/// Small files that are taken where they exist; the last one is the sign that all are there.
const ABOUT_THE_MODEL: &[&str] = &[
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "tokenizer_config.json",
    "tokenizer.json",
    "preprocessor_config.json",
    "model.safetensors.index.json",
    "config.json",
];

/// Files any one of which is a tokenizer.
const TOKENIZERS: &[&str] = &["tokenizer.json", "tokenizer.model", "vocab.json"];

/// How much of a model is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    Everything,
    /// What it takes to tokenize and to describe the model. A GGUF file is one whole.
    WithoutWeights,
}

/// The files to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    /// In the order in which they are fetched.
    pub(super) files: Vec<String>,
    /// The file that is the model, unless the folder is.
    pub(super) gguf: Option<String>,
    wanted: Wanted,
}

/// Why there is no selection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SelectError {
    /// No model.
    Nothing,
    /// Several, and no choice.
    Several(FileList),
    /// A choice that fits none of these.
    NoSuchFile(FileList),
}

/// The place of a file in a set of split files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Split<'a> {
    set: &'a str,
    of: usize,
}

// === impl Selection ===

impl Selection {
    /// Whether these files are all that the model has, judged by their names alone.
    pub(super) fn is_complete(&self) -> bool {
        let has = |name: &&str| self.files.iter().any(|file| file == name);
        let mut sets: BTreeMap<Split<'_>, usize> = BTreeMap::new();
        for split in self.files.iter().filter_map(|file| split(file)) {
            *sets.entry(split).or_default() += 1;
        }
        let whole = sets.iter().all(|(split, count)| split.of == *count);
        let weights =
            self.wanted == Wanted::WithoutWeights || self.files.iter().any(|file| is_weights(file));
        let described = has(&"config.json") && TOKENIZERS.iter().any(has);
        whole && (self.gguf.is_some() || (weights && described))
    }
}

// === impl SelectError ===

impl SelectError {
    pub(super) fn into_hub_error(self, reference: &HubReference) -> HubError {
        let repo = reference.repo.clone();
        match self {
            Self::Nothing => HubError::NoModel { repo },
            Self::Several(files) => HubError::SeveralGguf { repo, files },
            Self::NoSuchFile(files) => HubError::NoSuchFile {
                repo,
                file: reference.file.clone().unwrap_or_default(),
                files,
            },
        }
    }
}

/// Chooses among the names of a repository or of a folder.
pub(super) fn select(
    names: &[String],
    wanted: Wanted,
    choice: Option<&str>,
) -> Result<Selection, SelectError> {
    let models = gguf_models(names);
    let list = || FileList(models.values().map(|files| files[0].clone()).collect());
    let gguf = |files: &Vec<String>| Selection {
        files: files.clone(),
        gguf: files.first().cloned(),
        wanted,
    };
    if let Some(choice) = choice {
        let exact = models
            .values()
            .find(|files| files.iter().any(|file| file == choice));
        if let Some(files) = exact {
            return Ok(gguf(files));
        }
        let mut alike = models.values().filter(|files| has_word(&files[0], choice));
        return match (alike.next(), alike.next()) {
            (Some(files), None) => Ok(gguf(files)),
            (None, _) => Err(SelectError::NoSuchFile(list())),
            (Some(_), Some(_)) => Err(SelectError::Several(list())),
        };
    }
    let folder = folder(names, wanted);
    let mut each = models.values();
    match (folder, each.next(), each.next()) {
        (Some(folder), ..) => Ok(folder),
        (None, None, _) => Err(SelectError::Nothing),
        (None, Some(files), None) => Ok(gguf(files)),
        (None, Some(_), Some(_)) => Err(SelectError::Several(list())),
    }
}

/// The files of a Hugging Face model, if the names are of one.
fn folder(names: &[String], wanted: Wanted) -> Option<Selection> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let mut weights: Vec<String> = names
        .iter()
        .filter(|name| is_weights(name))
        .cloned()
        .collect();
    // Some repositories hold the same weights a second time in their maker's own layout.
    if weights.iter().any(|name| name.starts_with("model")) {
        weights.retain(|name| !name.starts_with("consolidated"));
    }
    weights.sort();
    let described = has("config.json") && TOKENIZERS.iter().any(|name| has(name));
    let enough = !weights.is_empty() || (wanted == Wanted::WithoutWeights && described);
    if !enough {
        return None;
    }
    let about = ABOUT_THE_MODEL.iter().filter(|name| has(name));
    let mut files: Vec<String> = about.map(|name| (*name).to_owned()).collect();
    if wanted == Wanted::Everything {
        files.extend(weights);
    }
    Some(Selection {
        files,
        gguf: None,
        wanted,
    })
}

/// The GGUF models by name, each with its files in order.
fn gguf_models(names: &[String]) -> BTreeMap<&str, Vec<String>> {
    let mut models: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for name in names.iter().filter(|name| name.ends_with(".gguf")) {
        let file = name.rsplit('/').next().unwrap_or(name);
        // The part of a model that sees; not a model by itself.
        if file.starts_with("mmproj") {
            continue;
        }
        let set = split(name).map_or(name.as_str(), |split| split.set);
        models.entry(set).or_default().push(name.clone());
    }
    for files in models.values_mut() {
        files.sort();
    }
    models
}

/// Weights of the model itself; those in folders are for other programs.
fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") && !name.contains('/')
}

/// Reads `SET-00001-of-00003.EXTENSION`.
fn split(name: &str) -> Option<Split<'_>> {
    let (stem, _extension) = name.rsplit_once('.')?;
    let (before, of) = stem.rsplit_once("-of-")?;
    let (set, number) = before.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(of) && digits(number)).then_some(())?;
    Some(Split {
        set,
        of: of.parse().ok()?,
    })
}

/// Whether the file's name has the word, as the word for its quantisation: `model-Q4_K_M.gguf`.
fn has_word(name: &str, word: &str) -> bool {
    let (name, word) = (name.to_ascii_lowercase(), word.to_ascii_lowercase());
    name.trim_end_matches(".gguf")
        .split(['-', '.', '/'])
        .any(|part| part == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Wanted::{Everything, WithoutWeights};

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn a_folder_is_its_weights_and_the_files_about_it() {
        let listing = names(&[
            "README.md",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "original/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
            "x.gguf",
        ]);
        let all = select(&listing, Everything, None).unwrap();
        let expected = [
            "tokenizer.json",
            "model.safetensors.index.json",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ];
        assert_eq!(all.files, expected);
        assert_eq!(all.gguf, None);
        assert!(all.is_complete());
        let small = select(&listing, WithoutWeights, None).unwrap();
        assert_eq!(small.files, expected[..3]);
        assert!(small.is_complete());
    }

    #[test]
    fn a_folder_without_all_its_parts_is_not_complete() {
        let parts: [&[&str]; 3] = [
            &[
                "config.json",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
            ],
            &["config.json", "model.safetensors"],
            &["tokenizer.json", "model.safetensors"],
        ];
        for listing in parts {
            assert!(
                !select(&names(listing), Everything, None)
                    .unwrap()
                    .is_complete()
            );
        }
        let small = names(&["config.json", "tokenizer.json"]);
        assert_eq!(select(&small, Everything, None), Err(SelectError::Nothing));
        assert!(select(&small, WithoutWeights, None).unwrap().is_complete());
    }

    #[test]
    fn one_gguf_needs_no_choice() {
        let listing = names(&["README.md", "mmproj-F16.gguf", "model-Q4_K_M.gguf"]);
        let one = select(&listing, Everything, None).unwrap();
        assert_eq!(one.gguf.as_deref(), Some("model-Q4_K_M.gguf"));
        assert_eq!(one.files, ["model-Q4_K_M.gguf"]);
    }

    #[test]
    fn several_ggufs_are_listed_until_one_is_chosen() {
        let listing = names(&[
            "m-Q4_K_M.gguf",
            "m-Q8_0-00001-of-00002.gguf",
            "m-Q8_0-00002-of-00002.gguf",
        ]);
        let list = FileList(names(&["m-Q4_K_M.gguf", "m-Q8_0-00001-of-00002.gguf"]));
        assert_eq!(
            select(&listing, Everything, None),
            Err(SelectError::Several(list.clone()))
        );
        assert_eq!(
            select(&listing, Everything, Some("Q2_K")),
            Err(SelectError::NoSuchFile(list))
        );
        let chosen = select(&listing, Everything, Some("m-Q4_K_M.gguf")).unwrap();
        assert_eq!(chosen.files, ["m-Q4_K_M.gguf"]);
        let split = select(&listing, Everything, Some("q8_0")).unwrap();
        assert_eq!(split.files, listing[1..]);
        assert_eq!(split.gguf.as_deref(), Some("m-Q8_0-00001-of-00002.gguf"));
        assert!(split.is_complete());
        assert!(
            !select(&listing[..2], Everything, Some("q8_0"))
                .unwrap()
                .is_complete()
        );
    }

    #[test]
    fn a_long_list_is_cut() {
        let list = FileList((0..25).map(|n| format!("{n}.gguf")).collect());
        let text = list.to_string();
        assert!(
            text.starts_with("0.gguf, 1.gguf") && text.ends_with("19.gguf and 5 more"),
            "{text}"
        );
    }
}
