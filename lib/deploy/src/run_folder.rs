//! The folder of graphs that run on this machine: one folder per graph, with
//!
//! - `lock`, on which the process that runs the graph holds an exclusive lock: the kernel frees
//!   it on any death, kill -9 included, so that whoever can take it knows that nobody runs it
//! - `state.json`, written beside and renamed into place ([`crate::state`])
//! - `logs/`, one file per process
//! - `discovery/`, by which its processes find each other

use crate::DeployError;
use dynamo_runtime::discovery::SystemFolders;
use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Every graph of this user.
#[derive(Debug, Clone)]
pub struct RunFolder {
    path: PathBuf,
}

/// One graph's folder.
#[derive(Debug, Clone)]
pub struct GraphFolder {
    path: PathBuf,
}

/// The right to run a graph, for as long as it is held.
#[derive(Debug)]
pub struct GraphLock {
    _file: File,
}

// === impl RunFolder ===

impl RunFolder {
    /// The folder to use when none is given.
    pub fn default_path(folders: &SystemFolders) -> PathBuf {
        match &folders.runtime_dir {
            Some(folder) => folder.join("dynamo-deploy"),
            None => {
                let user = rustix::process::geteuid().as_raw();
                folders.temp_dir.join(format!("dynamo-deploy-{user}"))
            }
        }
    }

    /// Creates the folder unless it is there, and checks that nobody else may write to it: who
    /// can, decides what `stop` kills.
    pub fn open(path: &Path) -> Result<Self, DeployError> {
        make(path)?;
        let metadata = fs::symlink_metadata(path).map_err(DeployError::io("look at", path))?;
        let is_ours = metadata.is_dir()
            && metadata.uid() == rustix::process::geteuid().as_raw()
            && metadata.mode() & 0o022 == 0;
        if !is_ours {
            return Err(DeployError::OpenFolder(path.to_owned()));
        }
        let path = path.canonicalize().map_err(DeployError::io("find", path))?;
        Ok(Self { path })
    }

    /// The folder of a graph; it need not be there.
    pub fn graph(&self, label: &str) -> GraphFolder {
        GraphFolder {
            path: self.path.join(label),
        }
    }

    /// Names of all graphs that ever ran, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .filter_map(|it| it.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }
}

// === impl GraphFolder ===

impl GraphFolder {
    /// Takes the right to run the graph; nothing if another process has it.
    pub fn lock(&self) -> Result<Option<GraphLock>, DeployError> {
        make(&self.path)?;
        let path = self.path.join("lock");
        let options = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = options.map_err(DeployError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(GraphLock { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(DeployError::io("lock", &path)(error)),
        }
    }

    /// Whether a process runs the graph.
    pub fn is_run(&self) -> bool {
        self.path.is_dir() && matches!(self.lock(), Ok(None))
    }

    /// Where its state is.
    pub fn state(&self) -> PathBuf {
        self.path.join("state.json")
    }

    /// Where its processes find each other.
    pub fn discovery(&self) -> PathBuf {
        self.path.join("discovery")
    }

    /// Where a process logs to.
    pub fn log(&self, process: &str) -> PathBuf {
        self.path.join("logs").join(format!("{process}.log"))
    }

    /// Makes room for logs; those of former runs go away.
    pub fn begin(&self) -> Result<(), DeployError> {
        let logs = self.path.join("logs");
        match fs::remove_dir_all(&logs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(DeployError::io("remove", &logs)(error));
            }
            _ => {}
        }
        make(&logs)
    }
}

fn make(path: &Path) -> Result<(), DeployError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(DeployError::io("make", path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_process_runs_a_graph_and_its_end_frees_it() {
        let place = tempfile::tempdir().unwrap();
        let folder = RunFolder::open(&place.path().join("runs"))
            .unwrap()
            .graph("g");
        assert!(!folder.is_run());
        let lock = folder.lock().unwrap();
        assert!(lock.is_some() && folder.is_run());
        assert!(folder.lock().unwrap().is_none());
        drop(lock);
        assert!(!folder.is_run());
    }

    #[test]
    fn a_folder_that_others_may_write_to_is_not_used() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let error = RunFolder::open(place.path()).unwrap_err();
        assert!(error.to_string().contains("--run-dir"), "{error}");
    }
}
