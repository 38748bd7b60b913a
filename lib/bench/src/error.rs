//! Why a benchmark cannot run. What happens to single requests is a
//! [`Failure`](crate::figures::Failure) and is counted.

use crate::figures::Failure;
use crate::load::TraceError;

/// Why a benchmark cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BenchError {
    /// The address cannot be used.
    #[error("--url {0} is no address of a server: write http://HOST:PORT")]
    Url(String),
    /// The key cannot be sent.
    #[error("the API key has characters that no HTTP header can carry")]
    ApiKey,
    /// A header cannot be sent.
    #[error("--header {0:?} is no header: write NAME: VALUE")]
    Header(String),
    /// There is nothing to trust servers by.
    #[error("no certificate authorities are installed: install them, or use an http:// address")]
    NoCertificates,
    /// Options contradict each other.
    #[error("{0}")]
    Options(String),
    /// The trace cannot be used.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The process to watch cannot be read.
    #[error("cannot read the memory of process {pid} (--watch-pid): {source}")]
    Watch {
        /// The process.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
    /// The server was asked for its models.
    #[error("cannot list the models of {url}: {source}; is a server running there?")]
    Models {
        /// The server.
        url: String,
        /// Why.
        source: Failure,
    },
    /// There is not exactly one model.
    #[error("{url} serves {}: name one with --model", served(.models))]
    WhichModel {
        /// The server.
        url: String,
        /// Its models.
        models: Vec<String>,
    },
    /// A warm-up request failed.
    #[error("a warm-up request failed: {0}")]
    Warmup(#[source] Failure),
}

fn served(models: &[String]) -> String {
    match models {
        [] => "no model".to_owned(),
        models => format!("{} models ({})", models.len(), models.join(", ")),
    }
}
