//! Why a simulated engine could not start. Each message says what to do.

use std::path::PathBuf;

/// Starting failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MockerError {
    /// Options contradict each other or the model.
    #[error("{0}")]
    Options(String),
    /// The file with measured times cannot be read.
    #[error("cannot read the profile {}: {source}; check --planner-profile-data", path.display())]
    ProfileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} is no profile: {detail}", path.display())]
    ProfileInvalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}
