//! The form of a Hugging Face id on the command line. Pure.
//!
//! `org/name`, then optionally `@revision` (a branch, a tag or a commit), then optionally `:FILE`
//! (a GGUF file, or the word for its quantisation as in `:Q4_K_M`). `org/name/file.gguf` is the
//! same as `org/name:file.gguf`.

use super::error::HubError;
use std::fmt;
use std::path::{Component, Path};

/// Revision that is meant when none is given.
const DEFAULT_REVISION: &str = "main";

/// Longest part of a repository's id; the hub's own limit.
const PART_BYTES: usize = 96;

/// Longest revision or file name: what a file system takes for one name.
const NAME_BYTES: usize = 255;

/// A repository: `org/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoId(String);

/// What of which repository is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubReference {
    /// The repository.
    pub repo: RepoId,
    /// Branch, tag or commit.
    pub revision: String,
    /// The GGUF file that was chosen, or the word for its quantisation.
    pub file: Option<String>,
}

// === impl RepoId ===

impl RepoId {
    /// `org/name`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The folder of the repository in the cache.
    pub(super) fn folder(&self) -> String {
        format!("models--{}", self.0.replace('/', "--"))
    }

    fn parse(org: &str, name: &str) -> Option<Self> {
        (is_repo_part(org) && is_repo_part(name)).then(|| Self(format!("{org}/{name}")))
    }
}

impl fmt::Display for RepoId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl HubReference ===

impl HubReference {
    /// Reads the argument.
    pub fn parse(argument: &str) -> Result<Self, HubError> {
        let refuse = |reason| HubError::Reference {
            argument: argument.to_owned(),
            reason,
        };
        if argument.starts_with(['/', '.', '~']) || argument.is_empty() {
            return Err(refuse("there is no such file or folder"));
        }
        let (path, after) = match argument.find(['@', ':']) {
            Some(at) => argument.split_at(at),
            None => (argument, ""),
        };
        let mut parts = path.splitn(3, '/');
        let (org, name, in_path) = (parts.next(), parts.next(), parts.next());
        let repo = org
            .zip(name)
            .and_then(|(org, name)| RepoId::parse(org, name))
            .ok_or_else(|| refuse("it is neither a file or folder nor of the form org/name"))?;
        let (revision, after_revision) = match after.strip_prefix('@') {
            Some(rest) => match rest.split_once(':') {
                Some((revision, file)) => (revision, Some(file)),
                None => (rest, None),
            },
            None => (DEFAULT_REVISION, after.strip_prefix(':')),
        };
        if !is_revision(revision) {
            return Err(refuse("what follows @ is not a branch, a tag or a commit"));
        }
        let file = match (in_path, after_revision) {
            (Some(_), Some(_)) => return Err(refuse("it names two files")),
            (Some(file), None) if !file.ends_with(".gguf") => {
                return Err(refuse("what follows org/name/ is not a .gguf file"));
            }
            (file, None) | (None, file) => file,
        };
        if file.is_some_and(|file| !is_inside(file)) {
            return Err(refuse("the file's name is not a plain relative path"));
        }
        Ok(Self {
            repo,
            revision: revision.to_owned(),
            file: file.map(str::to_owned),
        })
    }
}

/// Whether the name stays inside the folder it is put in, on every file system.
pub(super) fn is_inside(name: &str) -> bool {
    let plain = |component| matches!(component, Component::Normal(_));
    !name.is_empty()
        && name.len() <= NAME_BYTES
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        // `components` passes over `.` and doubled slashes in silence.
        && name.split('/').all(|part| !part.is_empty() && part != ".")
        && Path::new(name).components().all(plain)
}

/// Whether this is a full commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    is_lower_hex(text, 40)
}

pub(super) fn is_lower_hex(text: &str, digits: usize) -> bool {
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == digits && text.bytes().all(hex)
}

fn is_repo_part(part: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    !part.is_empty()
        && part.len() <= PART_BYTES
        && part.bytes().all(plain)
        && !part.starts_with(['.', '-'])
        // Two dashes separate the parts in the name of the cache's folder.
        && !part.contains("--")
        && !part.contains("..")
}

fn is_revision(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+".contains(&byte);
    is_inside(text) && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(argument: &str) -> (String, String, Option<String>) {
        let reference = HubReference::parse(argument).unwrap();
        (
            reference.repo.to_string(),
            reference.revision,
            reference.file,
        )
    }

    fn expected(
        repo: &str,
        revision: &str,
        file: Option<&str>,
    ) -> (String, String, Option<String>) {
        (
            repo.to_owned(),
            revision.to_owned(),
            file.map(str::to_owned),
        )
    }

    #[test]
    fn every_documented_form_is_read() {
        let cases = [
            ("Qwen/Qwen3-0.6B", "main", None),
            ("Qwen/Qwen3-0.6B@v1.0", "v1.0", None),
            ("Qwen/Qwen3-0.6B@refs/pr/3", "refs/pr/3", None),
            ("Qwen/Qwen3-0.6B:Q4_K_M", "main", Some("Q4_K_M")),
            ("Qwen/Qwen3-0.6B:a-Q8_0.gguf", "main", Some("a-Q8_0.gguf")),
            ("Qwen/Qwen3-0.6B@dev:sub/a.gguf", "dev", Some("sub/a.gguf")),
            ("Qwen/Qwen3-0.6B/sub/a.gguf", "main", Some("sub/a.gguf")),
            ("Qwen/Qwen3-0.6B/a.gguf@dev", "dev", Some("a.gguf")),
        ];
        for (argument, revision, file) in cases {
            assert_eq!(
                parse(argument),
                expected("Qwen/Qwen3-0.6B", revision, file),
                "{argument}"
            );
        }
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        let wrong = [
            "",
            "gpt2",
            "/no/such",
            "./a/b",
            "../a/b",
            "~/a/b",
            "a//b",
            "a/b/c",
            "a/b/",
            "a/..",
            "a/b@",
            "a/b@../x",
            "a/b:",
            "a/b:../x.gguf",
            "a/b:/x.gguf",
            "a/b/x.gguf:y.gguf",
            "a/b/../../x.gguf",
            "a b/c",
            "-a/b",
            "a/b--c",
            "a/b@x y",
            "a/b:x\\y.gguf",
        ];
        for argument in wrong {
            let error = HubReference::parse(argument).unwrap_err();
            assert!(
                matches!(error, HubError::Reference { .. }),
                "{argument}: {error:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_accepted_stays_inside_its_folder(argument in "[a-z./@:~\\\\-]{0,40}") {
            if let Ok(reference) = HubReference::parse(&argument) {
                prop_assert!(!reference.repo.folder().contains('/'));
                for name in [Some(reference.revision), reference.file].into_iter().flatten() {
                    let path = Path::new("/cache").join(name);
                    let mut parts = path.components();
                    prop_assert!(path.starts_with("/cache"));
                    prop_assert!(parts.all(|part| part != Component::ParentDir));
                }
            }
        }
    }
}
