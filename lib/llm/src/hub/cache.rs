//! The cache's folders, in the layout that `huggingface_hub` has:
//!
//! ```text
//! HUB/models--org--name/blobs/CHECKSUM            content, and CHECKSUM.incomplete
//! HUB/models--org--name/refs/REVISION             the commit that a branch or tag stood for
//! HUB/models--org--name/snapshots/COMMIT/FILE     a link to ../../blobs/CHECKSUM
//! HUB/.locks/models--org--name/CHECKSUM.lock      held while the blob is fetched
//! ```
//!
//! A folder `snapshots/REVISION` that somebody filled by hand counts like one of a commit.

use super::error::HubError;
use super::reference::{RepoId, is_commit};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Files of a snapshot that are looked at; a repository of a model has far fewer.
const LARGEST_LISTING: usize = 10_000;

/// Folders that are looked into, one within the other.
const DEEPEST_FOLDER: usize = 4;

/// Names that are tried for something that is being made: more than there are users of one cache
/// at one moment, what killed ones left included.
const NAME_TRIES: usize = 100;

/// Longest file under `refs`; a commit has 40 bytes.
const LONGEST_REF: usize = 64;

/// All cached models.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    hub: PathBuf,
}

/// One repository's part of the cache.
#[derive(Debug, Clone)]
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    pub(super) fn new(hub: PathBuf) -> Self {
        Self { hub }
    }

    pub(super) fn repo(&self, repo: &RepoId) -> RepoCache {
        let folder = repo.folder();
        RepoCache {
            root: self.hub.join(&folder),
            locks: self.hub.join(".locks").join(&folder),
        }
    }
}

impl RepoCache {
    /// The folder of a commit's files, or of those that were put there by hand for a revision.
    pub(super) fn snapshot(&self, name: &str) -> PathBuf {
        self.root.join("snapshots").join(name)
    }

    /// The name of the snapshot for the revision if there is one, and its commit if it is known.
    pub(super) fn find(&self, revision: &str) -> Option<(String, Option<String>)> {
        let commit = if is_commit(revision) {
            Some(revision.to_owned())
        } else {
            self.reference(revision)
        };
        let exists = |name: &str| self.snapshot(name).is_dir();
        match commit {
            Some(commit) if exists(&commit) => Some((commit.clone(), Some(commit))),
            Some(_) | None => exists(revision).then(|| (revision.to_owned(), None)),
        }
    }

    /// The names of the snapshot's files whose content is there, sorted.
    pub(super) fn listing(&self, name: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![(self.snapshot(name), String::new(), 0)];
        while let Some((folder, prefix, depth)) = folders.pop() {
            let Ok(entries) = fs::read_dir(folder) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(file) = entry.file_name().into_string() else {
                    continue;
                };
                let (path, file) = (entry.path(), format!("{prefix}{file}"));
                // Follows the link: one to a blob that was deleted is not a file.
                match fs::metadata(&path) {
                    Ok(metadata) if metadata.is_file() => names.push(file),
                    Ok(metadata) if metadata.is_dir() && depth < DEEPEST_FOLDER => {
                        folders.push((path, format!("{file}/"), depth + 1));
                    }
                    Ok(_) | Err(_) => {}
                }
                if names.len() + folders.len() > LARGEST_LISTING {
                    return names;
                }
            }
        }
        names.sort();
        names
    }

    pub(super) fn blob(&self, checksum: &str) -> PathBuf {
        self.root.join("blobs").join(checksum)
    }

    pub(super) fn partial(&self, checksum: &str) -> PathBuf {
        self.root
            .join("blobs")
            .join(format!("{checksum}.incomplete"))
    }

    pub(super) fn lock(&self, checksum: &str) -> PathBuf {
        self.locks.join(format!("{checksum}.lock"))
    }

    /// Makes the folders that a download writes to.
    pub(super) fn prepare(&self) -> Result<(), HubError> {
        for folder in [&self.root.join("blobs"), &self.locks] {
            fs::create_dir_all(folder).map_err(|error| HubError::io(folder, error, 0))?;
        }
        Ok(())
    }

    /// Lets the snapshot's file be the blob.
    pub(super) fn link(&self, commit: &str, file: &str, checksum: &str) -> Result<(), HubError> {
        let path = self.snapshot(commit).join(file);
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{checksum}"));
        if fs::read_link(&path).is_ok_and(|existing| existing == target) {
            return Ok(());
        }
        replace(&path, |new| std::os::unix::fs::symlink(&target, new))
    }

    /// Remembers the commit that the revision stands for.
    pub(super) fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        replace(&path, |new| {
            File::create_new(new)?.write_all(commit.as_bytes())
        })
    }

    fn reference(&self, revision: &str) -> Option<String> {
        let text = fs::read(self.root.join("refs").join(revision)).ok()?;
        let text = std::str::from_utf8(text.get(..text.len().min(LONGEST_REF))?).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }
}

/// Makes something under another name and moves it into its place, so that nobody sees it half
/// made. `make` fails where something is, so that no two ever work on one name: not two threads,
/// and not two containers that share the cache and number their processes alike.
fn replace(path: &Path, make: impl Fn(&Path) -> io::Result<()>) -> Result<(), HubError> {
    let failed = |error| HubError::io(path, error, 0);
    let folder = path.parent().unwrap_or(path);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    fs::create_dir_all(folder).map_err(failed)?;
    let mut taken = None;
    for number in 0..NAME_TRIES {
        let new = folder.join(format!(".{name}.{}.{number}", std::process::id()));
        match make(&new) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = Some(error),
            made => {
                return made.and_then(|()| fs::rename(&new, path)).map_err(|error| {
                    // Half made, or not even there: the error that counts is the first.
                    drop(fs::remove_file(&new));
                    failed(error)
                });
            }
        }
    }
    Err(failed(
        taken.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::HubReference;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const BLOB: &str = "ce013625030ba8dba906f756967f9e9ca394464a";

    fn repo(folder: &Path) -> RepoCache {
        let reference = HubReference::parse("org/name").unwrap();
        Cache::new(folder.to_owned()).repo(&reference.repo)
    }

    #[test]
    fn links_and_refs_have_the_layout_of_huggingface_hub() {
        let folder = tempfile::tempdir().unwrap();
        let repo = repo(folder.path());
        repo.prepare().unwrap();
        fs::write(repo.blob(BLOB), "hello\n").unwrap();
        for file in ["config.json", "sub/deep/a.gguf"] {
            repo.link(COMMIT, file, BLOB).unwrap();
            repo.link(COMMIT, file, BLOB).unwrap();
        }
        repo.set_ref("main", COMMIT).unwrap();
        repo.set_ref("refs/pr/1", COMMIT).unwrap();
        let root = folder.path().join("models--org--name");
        let snapshot = root.join("snapshots").join(COMMIT);
        assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
        assert_eq!(
            fs::read_to_string(snapshot.join("sub/deep/a.gguf")).unwrap(),
            "hello\n"
        );
        assert_eq!(
            fs::read_link(snapshot.join("config.json")).unwrap(),
            Path::new("../../blobs").join(BLOB)
        );
        for revision in ["main", "refs/pr/1", COMMIT] {
            let found = repo.find(revision);
            assert_eq!(found, Some((COMMIT.to_owned(), Some(COMMIT.to_owned()))));
        }
        assert_eq!(repo.listing(COMMIT), ["config.json", "sub/deep/a.gguf"]);
        fs::remove_file(repo.blob(BLOB)).unwrap();
        assert_eq!(repo.listing(COMMIT), [""; 0]);
    }

    #[test]
    fn files_put_there_by_hand_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let repo = repo(folder.path());
        assert_eq!(repo.find("main"), None);
        fs::create_dir_all(repo.snapshot("main")).unwrap();
        assert_eq!(repo.find("main"), Some(("main".to_owned(), None)));
    }

    #[test]
    fn many_that_make_the_same_link_and_ref_do_not_disturb_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let repo = repo(folder.path());
        repo.prepare().unwrap();
        fs::write(repo.blob(BLOB), "hello\n").unwrap();
        let other = BLOB.replace('c', "d");
        fs::write(repo.blob(&other), "hello\n").unwrap();
        // What one that was killed left is in nobody's way.
        fs::create_dir_all(repo.snapshot(COMMIT)).unwrap();
        let left = format!(".config.json.{}.0", std::process::id());
        fs::write(repo.snapshot(COMMIT).join(left), "").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (repo, other) = (&repo, &other);
                scope.spawn(move || {
                    for round in 0..200 {
                        let blob = if (thread + round) % 2 == 0 {
                            BLOB
                        } else {
                            other
                        };
                        repo.link(COMMIT, "config.json", blob).unwrap();
                        repo.set_ref("main", COMMIT).unwrap();
                        assert!(repo.find("main").is_some());
                    }
                });
            }
        });
        let text = fs::read_to_string(repo.snapshot(COMMIT).join("config.json"));
        assert_eq!(text.unwrap(), "hello\n");
    }

    #[test]
    fn a_broken_ref_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let repo = repo(folder.path());
        fs::create_dir_all(repo.root.join("refs")).unwrap();
        fs::write(repo.root.join("refs/main"), "../../../etc").unwrap();
        assert_eq!(repo.find("main"), None);
    }
}
