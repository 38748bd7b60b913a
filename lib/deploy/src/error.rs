//! Why a deployment does not come to be.

use dynamo_graph::local::plan::PlanError;
use dynamo_graph::{GraphError, RenderError};
use std::io;
use std::path::{Path, PathBuf};

/// Why a deployment does not come to be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeployError {
    /// No graph was named.
    #[error("which graph? write dynamo deploy -f graph.yaml")]
    NoFile,
    /// The graph is wrong.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The graph cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The graph does not fit this machine.
    #[error("{}", lines(.0))]
    Plan(Vec<PlanError>),
    /// Secrets, programs or files are missing; each line names one.
    #[error("{}", .0.join("\n"))]
    Missing(Vec<String>),
    /// A file or a folder cannot be used.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The folder holds what `dynamo deploy` did not write.
    #[error(
        "{0} holds files that dynamo deploy did not write; choose another --out-dir, or empty it"
    )]
    ForeignFolder(PathBuf),
    /// The folder of running graphs is not this user's alone.
    #[error(
        "the folder {0} of running graphs is not a folder that only you may use; remove it, or name another with --run-dir"
    )]
    OpenFolder(PathBuf),
    /// The graph runs already.
    #[error("the graph {name} runs already (process {pid}); dynamo deploy stop {name} ends it")]
    Runs {
        /// Its name.
        name: String,
        /// The process that runs it.
        pid: u32,
    },
    /// No such graph runs.
    #[error("no graph {name} runs here{}", others(.known))]
    Unknown {
        /// The name.
        name: String,
        /// Those that run.
        known: Vec<String>,
    },
    /// The graph does not end.
    #[error("the graph {name} did not end in time; process {pid} runs it")]
    StillThere {
        /// Its name.
        name: String,
        /// The process that runs it.
        pid: u32,
    },
}

impl DeployError {
    /// A problem with a file.
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }

    /// Whether what the user wrote is at fault, and not this machine.
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoFile | Self::Graph(_) | Self::Render(_) | Self::ForeignFolder(_)
        )
    }
}

fn lines(errors: &[PlanError]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

fn others(known: &[String]) -> String {
    match known {
        [] => "; none does".to_owned(),
        known => format!(
            "; {} {}",
            known.join(", "),
            if known.len() == 1 { "does" } else { "do" }
        ),
    }
}
