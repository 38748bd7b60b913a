//! Model arguments: a path as it is, or a Hugging Face id looked up in the cache and fetched.
//!
//! A path that exists is used as it is. Anything else is read as `org/name[@revision][:FILE]` (or
//! `org/name/file.gguf`), looked up in the cache that `huggingface_hub` uses too, and fetched
//! only when it is not there. What is complete in the cache is used without a word to the server,
//! so that a start does not depend on the network; another commit is asked for by its revision.
//!
//! Invariants
//! - A file appears under its final name only when it is whole and its checksum is right.
//! - A download that was cut off goes on where it stopped, in this run or in a later one.
//! - The token goes to the endpoint's own origin and nowhere else.
//! - No name that a server gives leads out of the cache.
//!
//! It reads no environment: [`HubOptions`] declares the variables, the binary's loader reads them.

mod address;
mod cache;
mod checksum;
mod client;
mod download;
mod error;
mod limits;
mod reference;
mod select;

pub use error::{FileList, HubError};
pub use limits::HubLimits;
pub use reference::{HubReference, RepoId};
pub use select::Wanted;

use cache::{Cache, RepoCache};
use client::Client;
use dynamo_config::{Secret, options};
use dynamo_runtime::Tasks;
use select::{Selection, select};
use std::path::{Path, PathBuf};

options! {
    /// Where models that are given by a Hugging Face id come from.
    pub struct HubOptions("hub") {
        /// Folder of the Hugging Face cache. If not given: `.cache/huggingface` in the home folder.
        hf_home: Option<PathBuf> = None, env = "HF_HOME";
        /// Folder of the cached models. If not given: `hub` in the folder of the cache.
        hf_hub_cache: Option<PathBuf> = None, env = "HF_HUB_CACHE";
        /// Address of the Hugging Face hub or of a mirror of it.
        hf_endpoint: String = "https://huggingface.co".to_owned(), env = "HF_ENDPOINT";
        /// Token for models that are not open to everybody.
        hf_token: Option<Secret> = None, env = "HF_TOKEN", secret;
        /// Use only what is in the cache.
        hf_hub_offline: bool = false, env = "HF_HUB_OFFLINE";
    }
}

/// How far the download of one file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileProgress<'a> {
    /// The file's name in its repository.
    pub file: &'a str,
    /// Which of the files this is, from 1.
    pub number: usize,
    /// How many files there are.
    pub count: usize,
    /// Bytes that are here, those of an earlier run included.
    pub done: u64,
    /// Bytes of the whole file.
    pub total: u64,
}

/// Is told of the progress, at least at the beginning and the end of each file. Files that are
/// in the cache already are not mentioned.
pub type Progress<'a> = &'a (dyn Fn(FileProgress<'_>) + Send + Sync);

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedModel {
    /// The GGUF file, or the folder with the model's files.
    pub path: PathBuf,
    /// Its repository, if it was given by id.
    pub repo: Option<RepoId>,
    /// The repository's commit, where it is known.
    pub commit: Option<String>,
}

/// Finds models, in the cache or on the hub.
#[derive(Debug)]
pub struct Hub {
    cache: Cache,
    client: Client,
    offline: bool,
    limits: HubLimits,
}

// === impl Hub ===

impl Hub {
    /// With these options; `user_home` is the home folder, for the default place of the cache.
    /// Connections to the hub are tasks below `tasks`.
    pub fn new(
        options: &HubOptions,
        user_home: Option<&Path>,
        tasks: &Tasks,
    ) -> Result<Self, HubError> {
        Self::with_limits(options, user_home, tasks, HubLimits::default())
    }

    /// Like [`new`](Self::new), as patient as `limits` say.
    pub fn with_limits(
        options: &HubOptions,
        user_home: Option<&Path>,
        tasks: &Tasks,
        limits: HubLimits,
    ) -> Result<Self, HubError> {
        let folder = options.hf_hub_cache.clone().or_else(|| {
            let home = options.hf_home.clone();
            let home = home.or_else(|| Some(user_home?.join(".cache").join("huggingface")));
            Some(home?.join("hub"))
        });
        Ok(Self {
            cache: Cache::new(folder.ok_or(HubError::NoCacheFolder)?),
            client: Client::new(
                &options.hf_endpoint,
                options.hf_token.clone(),
                tasks,
                &limits,
            )?,
            offline: options.hf_hub_offline,
            limits,
        })
    }

    /// The model that `argument` names, fetched if it is not on this machine.
    pub async fn resolve(
        &self,
        argument: &str,
        wanted: Wanted,
        progress: Progress<'_>,
    ) -> Result<ResolvedModel, HubError> {
        let path = Path::new(argument);
        if tokio::fs::try_exists(path).await.unwrap_or(false) {
            return Ok(ResolvedModel {
                path: path.to_owned(),
                repo: None,
                commit: None,
            });
        }
        let reference = HubReference::parse(argument)?;
        if let Some(found) = self.cached(&reference, wanted)? {
            return Ok(found);
        }
        if self.offline {
            return Err(HubError::Offline {
                repo: reference.repo.clone(),
                place: self.place(&reference),
            });
        }
        self.fetch(&reference, wanted, progress).await
    }

    /// The model if all of it is in the cache. A few small reads of a local folder.
    fn cached(
        &self,
        reference: &HubReference,
        wanted: Wanted,
    ) -> Result<Option<ResolvedModel>, HubError> {
        let repo = self.cache.repo(&reference.repo);
        let Some((name, commit)) = repo.find(&reference.revision) else {
            return Ok(None);
        };
        let names = repo.listing(&name);
        match select(&names, wanted, reference.file.as_deref()) {
            Ok(selection) if selection.is_complete() => {
                Ok(Some(resolved(&repo, reference, &name, commit, &selection)))
            }
            // Two files that are both here: fetching more does not make it clearer.
            Err(select::SelectError::Several(files)) => Err(HubError::SeveralGguf {
                repo: reference.repo.clone(),
                files,
            }),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    async fn fetch(
        &self,
        reference: &HubReference,
        wanted: Wanted,
        progress: Progress<'_>,
    ) -> Result<ResolvedModel, HubError> {
        let place = self.place(reference);
        let listing = self
            .retrying(|| self.client.listing(reference))
            .await
            .map_err(|failure| failure.into_error(reference, &place, &self.client))?;
        let selection = select(&listing.files, wanted, reference.file.as_deref())
            .map_err(|error| error.into_hub_error(reference))?;
        let repo = self.cache.repo(&reference.repo);
        let count = selection.files.len();
        for (index, file) in selection.files.iter().enumerate() {
            let job = download::Job {
                reference,
                repo: &repo,
                commit: &listing.commit,
                file,
            };
            let report = |done, total| {
                progress(FileProgress {
                    file,
                    number: index + 1,
                    count,
                    done,
                    total,
                });
            };
            self.download(&job, &report).await?;
        }
        repo.set_ref(&reference.revision, &listing.commit)?;
        let commit = listing.commit;
        let name = commit.clone();
        Ok(resolved(&repo, reference, &name, Some(commit), &selection))
    }

    /// Where the files can be put by hand, for this program and for `huggingface_hub` alike.
    fn place(&self, reference: &HubReference) -> PathBuf {
        self.cache
            .repo(&reference.repo)
            .snapshot(&reference.revision)
    }
}

fn resolved(
    repo: &RepoCache,
    reference: &HubReference,
    name: &str,
    commit: Option<String>,
    selection: &Selection,
) -> ResolvedModel {
    let folder = repo.snapshot(name);
    let path = match &selection.gguf {
        Some(file) => folder.join(file),
        None => folder,
    };
    ResolvedModel {
        path,
        repo: Some(reference.repo.clone()),
        commit,
    }
}
