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
//! - Fetches of the same artefact share one download; a source that fails is followed by the next.

use crate::Environment;
use crate::discovery::{ArtefactRef, EndpointId, InstanceId};
use crate::request_plane::{
    Handler, IncomingRequest, Item, ItemStream, RequestHeader, RequestPlane, TrafficClass,
};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

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

/// Files that this process serves, by hash. Cheap to clone; clones are the same store.
#[derive(Debug, Clone)]
pub struct ArtefactStore {
    environment: Environment,
    files: Arc<Mutex<BTreeMap<String, PathBuf>>>,
}

/// Fetches artefacts from other processes into a cache folder.
#[derive(Debug)]
pub struct ArtefactFetcher {
    environment: Environment,
    plane: Arc<dyn RequestPlane>,
    folder: PathBuf,
    in_flight: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// A process that announces an artefact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArtefactSource {
    /// The process's artefact endpoint.
    pub endpoint: EndpointId,
    /// The process.
    pub instance: InstanceId,
    /// Where it is.
    pub address: String,
}

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
}

/// A download under way: the part of the file that is there, and its hash so far.
struct Partial {
    file: tempfile::NamedTempFile,
    hasher: blake3::Hasher,
    written: u64,
}

/// Whether the text can name an artefact.
pub fn is_artefact_hash(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

// === impl ArtefactStore ===

impl ArtefactStore {
    /// A store without files.
    pub fn new(environment: Environment) -> Self {
        Self {
            environment,
            files: Arc::default(),
        }
    }

    /// Serves the file under its hash. The file is read when it is asked for: if it changes, those
    /// who fetch it notice.
    pub fn insert(&self, artefact: &ArtefactRef, path: PathBuf) {
        self.files.lock().insert(artefact.blake3.clone(), path);
    }

    fn path(&self, hash: &str) -> Result<PathBuf, RequestError> {
        self.files.lock().get(hash).cloned().ok_or_else(|| {
            RequestError::new(
                ErrorCode::InvalidRequest,
                "the worker does not have this artefact",
            )
        })
    }

    async fn chunk(&self, mut file: File) -> Result<Option<(Bytes, File)>, RequestError> {
        let read = self.environment.compute(move || {
            let mut chunk = Vec::with_capacity(CHUNK_BYTES);
            // Whole chunks, whatever single reads give.
            let mut part = (&mut file).take(CHUNK_BYTES as u64);
            part.read_to_end(&mut chunk)?;
            Ok::<_, io::Error>((Bytes::from(chunk), file))
        });
        let (chunk, file) = read
            .await
            .map_err(busy)?
            .map_err(|error| unreadable(&error))?;
        Ok((!chunk.is_empty()).then_some((chunk, file)))
    }
}

impl Handler for ArtefactStore {
    fn handle(&self, request: IncomingRequest) -> BoxFuture<'_, Result<ItemStream, RequestError>> {
        Box::pin(async move {
            let hash = String::from_utf8_lossy(&request.body).into_owned();
            let path = self.path(&hash)?;
            // Positions are bytes: whoever has the first part asks for the rest.
            let start = request.header.start_position;
            let open = self.environment.compute(move || {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(start))?;
                Ok::<_, io::Error>(file)
            });
            let file = open
                .await
                .map_err(busy)?
                .map_err(|error| unreadable(&error))?;
            let store = self.clone();
            let chunks = stream::try_unfold(file, move |file| {
                let store = store.clone();
                async move {
                    let Some((payload, file)) = store.chunk(file).await? else {
                        return Ok(None);
                    };
                    // A chunk is at most CHUNK_BYTES long.
                    let positions = payload.len() as u32;
                    Ok(Some((Item { positions, payload }, file)))
                }
            });
            Ok(Box::pin(chunks) as ItemStream)
        })
    }
}

fn busy(error: crate::environment::ComputeError) -> RequestError {
    RequestError::new(ErrorCode::NoCapacity, error.to_string())
}

fn unreadable(error: &io::Error) -> RequestError {
    RequestError::new(
        ErrorCode::EngineFailed,
        format!("the worker cannot read the artefact any more: {error}"),
    )
}

// === impl ArtefactFetcher ===

impl ArtefactFetcher {
    /// A fetcher that keeps what it fetched in `folder`, which is made when it is needed.
    pub fn new(environment: Environment, plane: Arc<dyn RequestPlane>, folder: PathBuf) -> Self {
        Self {
            environment,
            plane,
            folder,
            in_flight: Mutex::default(),
        }
    }

    /// The artefact's file: from the cache, or from the first source that gives it.
    pub async fn fetch(
        &self,
        artefact: &ArtefactRef,
        sources: &[ArtefactSource],
    ) -> Result<PathBuf, ArtefactError> {
        if !is_artefact_hash(&artefact.blake3) {
            return Err(ArtefactError::NoHash(artefact.blake3.clone()));
        }
        if artefact.size > MAX_ARTEFACT_BYTES {
            return Err(ArtefactError::TooLarge {
                name: artefact.name.clone(),
                size: artefact.size,
            });
        }
        let turn = {
            let mut in_flight = self.in_flight.lock();
            // Turns that nobody waits for are over.
            in_flight.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(in_flight.entry(artefact.blake3.clone()).or_default())
        };
        let _turn = turn.lock().await;
        let path = self.folder.join(&artefact.blake3);
        if self.is_cached(artefact, &path).await? {
            return Ok(path);
        }
        let mut partial = self.start(artefact).await?;
        let mut failure = ArtefactError::NoSource(artefact.name.clone());
        for source in sources.iter().take(MAX_SOURCES) {
            let resumed = partial.written > 0;
            let mut done = self.download(artefact, source, partial).await;
            if resumed && matches!(done, Err((ArtefactError::Mismatch { .. }, _))) {
                // What an earlier source gave may be what is wrong.
                let fresh = self.start(artefact).await?;
                done = self.download(artefact, source, fresh).await;
            }
            match done {
                Ok(complete) => return self.keep(artefact, complete, path).await,
                Err((error, rest)) => {
                    tracing::warn!(%error, "fetching an artefact failed, trying the next source");
                    failure = error;
                    partial = match rest {
                        Some(rest) => rest,
                        None => self.start(artefact).await?,
                    };
                }
            }
        }
        Err(failure)
    }

    /// Whether the file is there and is what was asked for. A damaged one is taken away.
    async fn is_cached(&self, artefact: &ArtefactRef, path: &Path) -> Result<bool, ArtefactError> {
        let (path, expected) = (path.to_owned(), artefact.clone());
        self.on_disk(artefact, move || {
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            };
            let mut hasher = blake3::Hasher::new();
            io::copy(&mut file, &mut hasher)?;
            if hasher.finalize().to_hex().as_str() == expected.blake3 {
                return Ok(true);
            }
            std::fs::remove_file(&path)?;
            Ok(false)
        })
        .await
    }

    async fn start(&self, artefact: &ArtefactRef) -> Result<Partial, ArtefactError> {
        let folder = self.folder.clone();
        self.on_disk(artefact, move || {
            std::fs::create_dir_all(&folder)?;
            Ok(Partial {
                file: tempfile::Builder::new()
                    .suffix(".part")
                    .tempfile_in(&folder)?,
                hasher: blake3::Hasher::new(),
                written: 0,
            })
        })
        .await
    }

    /// Downloads what is missing. On failure gives back what there is, if it can be built upon.
    async fn download(
        &self,
        artefact: &ArtefactRef,
        source: &ArtefactSource,
        mut partial: Partial,
    ) -> Result<Partial, (ArtefactError, Option<Partial>)> {
        let refused = |source_error| ArtefactError::Source {
            name: artefact.name.clone(),
            address: source.address.clone(),
            source: source_error,
        };
        let mismatch = |what| ArtefactError::Mismatch {
            name: artefact.name.clone(),
            address: source.address.clone(),
            what,
        };
        let mut chunks = match self.call(artefact, source, partial.written).await {
            Ok(chunks) => chunks,
            Err(error) => return Err((refused(error), Some(partial))),
        };
        loop {
            let chunk = match timeout(CHUNK_TIMEOUT, chunks.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(chunk))) => chunk.payload,
                Ok(Some(Err(error))) => return Err((refused(error), Some(partial))),
                Err(_) => return Err((refused(chunk_timeout()), Some(partial))),
            };
            if partial.written + chunk.len() as u64 > artefact.size {
                return Err((mismatch("more bytes than announced"), None));
            }
            let written = self.on_disk(artefact, move || partial.append(&chunk));
            partial = written.await.map_err(|error| (error, None))?;
        }
        if partial.written != artefact.size {
            return Err((mismatch("fewer bytes than announced"), None));
        }
        if partial.hasher.finalize().to_hex().as_str() != artefact.blake3 {
            return Err((mismatch("another hash than announced"), None));
        }
        Ok(partial)
    }

    async fn call(
        &self,
        artefact: &ArtefactRef,
        source: &ArtefactSource,
        offset: u64,
    ) -> Result<crate::request_plane::ResponseStream, RequestError> {
        let request_id = format!("artefact-{:016x}", self.environment.random.next_u64());
        let header = RequestHeader {
            start_position: offset,
            class: TrafficClass::Bulk,
            deadline: Instant::now().checked_add(SOURCE_TIMEOUT),
            ..RequestHeader::new(request_id, source.endpoint.clone(), source.instance)
        };
        let body = Bytes::from(artefact.blake3.clone().into_bytes());
        self.plane.call(&source.address, header, body).await
    }

    async fn keep(
        &self,
        artefact: &ArtefactRef,
        complete: Partial,
        path: PathBuf,
    ) -> Result<PathBuf, ArtefactError> {
        self.on_disk(artefact, move || {
            complete.file.as_file().sync_all()?;
            complete.file.persist(&path).map_err(|error| error.error)?;
            Ok(path)
        })
        .await
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        artefact: &ArtefactRef,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ArtefactError> {
        let done = self.environment.compute(work).await;
        let flat = done.map_err(io::Error::other).and_then(|result| result);
        flat.map_err(|source| ArtefactError::Cache {
            name: artefact.name.clone(),
            folder: self.folder.clone(),
            source,
        })
    }
}

impl Partial {
    fn append(mut self, chunk: &[u8]) -> io::Result<Self> {
        self.file.write_all(chunk)?;
        self.hasher.update(chunk);
        self.written += chunk.len() as u64;
        Ok(self)
    }
}

fn chunk_timeout() -> RequestError {
    RequestError::new(
        ErrorCode::InterTokenTimeout,
        format!("no chunk came within {CHUNK_TIMEOUT:?}"),
    )
}
