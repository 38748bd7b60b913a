//! Artefacts: files that processes give each other by content, such as tokenizers and templates.
//!
//! An artefact is named by the BLAKE3 of its content. Whoever announces a card that names one
//! serves it from the [`ARTEFACT_ENDPOINT`] of the card's component, in chunks, over bulk
//! connections; whoever needs one fetches it from any process that announces it.
//!
//! Invariants
//! - What [`ArtefactFetcher::fetch`] gives back has the size and the hash that were asked for: a
//!   file becomes visible in the cache folder only after both were checked.
//! - Only 64 hexadecimal digits ever name a file, on both sides: no request can reach another one.
//! - Fetches of the same artefact share one download; a source that fails is followed by the next,
//!   in an order that is drawn anew each time.

mod fetch;
mod partial;
mod store;

pub use fetch::{ArtefactFetcher, ArtefactSource};
pub use store::ArtefactStore;

use dynamo_protocols::RequestError;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Name of the endpoint, in each component that has artefacts.
pub const ARTEFACT_ENDPOINT: &str = "artefacts";

/// Bytes per chunk: large enough that a chunk's overhead is nothing, small enough that the bulk
/// window holds several.
const CHUNK_BYTES: usize = 256 * 1024;

/// Largest artefact that is fetched. Tokenizers have tens of megabytes; whoever announces more
/// means weights, which do not travel this way.
pub const MAX_ARTEFACT_BYTES: u64 = 1024 * 1024 * 1024;

/// How long the next chunk may take before the next source is asked.
const CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long one source may take for the whole file, so that one that trickles is given up too: the
/// largest artefact needs less than 2 MB/s for it.
const SOURCE_TIMEOUT: Duration = Duration::from_secs(600);

/// Sources asked before a fetch fails. More sources than this have the same trouble.
const MAX_SOURCES: usize = 4;

/// Why an artefact could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArtefactError {
    /// The announced hash is no hash.
    #[error("{0:?} is not a blake3 hash: 64 lower-case hexadecimal digits")]
    NoHash(String),
    /// The announced size is beyond [`MAX_ARTEFACT_BYTES`].
    #[error(
        "artefact {name} has {size} bytes, more than the {MAX_ARTEFACT_BYTES} that are fetched"
    )]
    TooLarge {
        /// The artefact.
        name: String,
        /// Its announced size.
        size: u64,
    },
    /// Nobody announces it.
    #[error("no process offers artefact {0}")]
    NoSource(String),
    /// A source sent something else than it announced.
    #[error(
        "{address} sent {name} with {what}: its file changed or was damaged; restart that worker"
    )]
    Mismatch {
        /// The artefact.
        name: String,
        /// The source.
        address: String,
        /// What differs.
        what: &'static str,
    },
    /// A source did not answer, or not in time.
    #[error("fetching {name} from {address} failed: {source}")]
    Source {
        /// The artefact.
        name: String,
        /// The source.
        address: String,
        /// What it said.
        source: RequestError,
    },
    /// The cache folder cannot be used.
    #[error(
        "cannot write artefact {name} to {folder}: {source}; see that the folder is writable and has room"
    )]
    Cache {
        /// The artefact.
        name: String,
        /// The cache folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Too much waits for this process's compute threads.
    #[error("artefact {name} cannot be stored now: the compute pool is full; try again later")]
    Busy {
        /// The artefact.
        name: String,
    },
    /// This process is ending, or a part of it broke down.
    #[error("storing artefact {name} was cut off: its compute job did not complete")]
    CutOff {
        /// The artefact.
        name: String,
    },
}

// === impl ArtefactError ===

impl ArtefactError {
    /// Whether another source may do better.
    fn is_of_the_source(&self) -> bool {
        match self {
            Self::NoSource(_) | Self::Mismatch { .. } | Self::Source { .. } => true,
            Self::NoHash(_)
            | Self::TooLarge { .. }
            | Self::Cache { .. }
            | Self::Busy { .. }
            | Self::CutOff { .. } => false,
        }
    }
}

/// Whether the text can name an artefact.
pub fn is_artefact_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
