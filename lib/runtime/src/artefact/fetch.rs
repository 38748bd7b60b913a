//! The fetching side: asks one source after the other until the file is whole and right.
//!
//! Sources are asked in an order that is drawn anew for each fetch, so that many processes that
//! start at once do not all ask the same one. A trouble of this process's own (a full disk, a
//! full compute pool) ends the fetch: no other source can mend it.

use super::partial::{Partial, sweep};
use super::{ArtefactError, CHUNK_TIMEOUT, MAX_ARTEFACT_BYTES, MAX_SOURCES, SOURCE_TIMEOUT};
use crate::Environment;
use crate::discovery::{ArtefactRef, EndpointId, InstanceId};
use crate::environment::{ComputeError, RandomSource};
use crate::request_plane::{RequestHeader, RequestPlane, ResponseStream, TrafficClass};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::{Instant, timeout};

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
        if !super::is_artefact_hash(&artefact.blake3) {
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
        self.sweep().await;
        let complete = self.download_from_any(artefact, sources).await?;
        self.on_disk(artefact, move || complete.keep(path)).await
    }

    /// Asks one source after the other.
    async fn download_from_any(
        &self,
        artefact: &ArtefactRef,
        sources: &[ArtefactSource],
    ) -> Result<Partial, ArtefactError> {
        let mut partial = self.start(artefact).await?;
        let mut failure = ArtefactError::NoSource(artefact.name.clone());
        for source in some_of(sources, &*self.environment.random) {
            let resumed = partial.written() > 0;
            let mut done = self.download(artefact, source, partial).await;
            if resumed && matches!(done, Err((ArtefactError::Mismatch { .. }, _))) {
                // What an earlier source gave may be what is wrong.
                let fresh = self.start(artefact).await?;
                done = self.download(artefact, source, fresh).await;
            }
            let (error, rest) = match done {
                Ok(complete) => return Ok(complete),
                Err((error, _)) if !error.is_of_the_source() => return Err(error),
                Err(failed) => failed,
            };
            tracing::warn!(%error, "fetching an artefact failed, trying the next source");
            failure = error;
            partial = match rest {
                Some(rest) => rest,
                None => self.start(artefact).await?,
            };
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

    /// Takes away what killed processes left. That it fails keeps nobody from fetching.
    async fn sweep(&self) {
        let (folder, now) = (self.folder.clone(), self.environment.clock.unix_time());
        match self.environment.compute(move || sweep(&folder, now)).await {
            Ok(Ok(0)) | Err(_) => {}
            Ok(Ok(files)) => tracing::debug!(files, "removed partial artefacts of ended processes"),
            Ok(Err(error)) => tracing::debug!(%error, "cannot remove partial artefacts"),
        }
    }

    async fn start(&self, artefact: &ArtefactRef) -> Result<Partial, ArtefactError> {
        let (folder, wanted) = (self.folder.clone(), artefact.clone());
        self.on_disk(artefact, move || Partial::create(&folder, &wanted))
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
        let calling = self.call(artefact, source, partial.written());
        let mut chunks = match timeout(CHUNK_TIMEOUT, calling).await {
            Ok(Ok(chunks)) => chunks,
            Ok(Err(error)) => return Err((refused(error), Some(partial))),
            Err(_) => return Err((refused(chunk_timeout()), Some(partial))),
        };
        loop {
            let chunk = match timeout(CHUNK_TIMEOUT, chunks.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(chunk))) => chunk.payload,
                Ok(Some(Err(error))) => return Err((refused(error), Some(partial))),
                Err(_) => return Err((refused(chunk_timeout()), Some(partial))),
            };
            if partial.written() + chunk.len() as u64 > artefact.size {
                return Err((mismatch("more bytes than announced"), None));
            }
            let written = self.on_disk(artefact, move || partial.append(&chunk));
            partial = written.await.map_err(|error| (error, None))?;
        }
        if partial.written() != artefact.size {
            return Err((mismatch("fewer bytes than announced"), None));
        }
        if !partial.has_hash(&artefact.blake3) {
            return Err((mismatch("another hash than announced"), None));
        }
        Ok(partial)
    }

    async fn call(
        &self,
        artefact: &ArtefactRef,
        source: &ArtefactSource,
        offset: u64,
    ) -> Result<ResponseStream, RequestError> {
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

    async fn on_disk<T: Send + 'static>(
        &self,
        artefact: &ArtefactRef,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ArtefactError> {
        let name = || artefact.name.clone();
        match self.environment.compute(work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(source)) => Err(ArtefactError::Cache {
                name: name(),
                folder: self.folder.clone(),
                source,
            }),
            Err(ComputeError::Full) => Err(ArtefactError::Busy { name: name() }),
            Err(ComputeError::Lost) => Err(ArtefactError::CutOff { name: name() }),
        }
    }
}

/// At most [`MAX_SOURCES`] of the sources, in an order that is drawn.
fn some_of<'a>(
    sources: &'a [ArtefactSource],
    random: &dyn RandomSource,
) -> Vec<&'a ArtefactSource> {
    let mut order: Vec<&ArtefactSource> = sources.iter().collect();
    let count = order.len().min(MAX_SOURCES);
    for at in 0..count {
        let left = order.len() - at;
        // The remainder of a number of 64 bits favours nobody measurably, and fits a length.
        let drawn = (random.next_u64() % left as u64) as usize;
        order.swap(at, at + drawn);
    }
    order.truncate(count);
    order
}

fn chunk_timeout() -> RequestError {
    RequestError::new(
        ErrorCode::InterTokenTimeout,
        format!("no chunk came within {CHUNK_TIMEOUT:?}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::collections::BTreeSet;

    /// Draws that are all different, and walk through every remainder.
    #[derive(Debug, Default)]
    struct Counting(Mutex<u64>);

    impl RandomSource for Counting {
        fn next_u64(&self) -> u64 {
            let mut count = self.0.lock();
            *count += 1;
            *count
        }
    }

    fn sources(count: u64) -> Vec<ArtefactSource> {
        (1..=count)
            .map(|id| ArtefactSource {
                endpoint: EndpointId::new("ns", "worker", super::super::ARTEFACT_ENDPOINT).unwrap(),
                instance: InstanceId::from_bits(id),
                address: format!("tcp://127.0.0.1:{id}"),
            })
            .collect()
    }

    #[test]
    fn each_source_comes_once_and_no_more_than_the_bound() {
        let random = Counting::default();
        for count in 0..10 {
            let sources = sources(count);
            for _ in 0..20 {
                let asked = some_of(&sources, &random);
                let different: BTreeSet<&str> =
                    asked.iter().map(|source| &*source.address).collect();
                assert_eq!(asked.len(), sources.len().min(MAX_SOURCES));
                assert_eq!(different.len(), asked.len());
            }
        }
    }

    #[test]
    fn every_source_is_asked_first_now_and_then() {
        let (random, sources) = (Environment::system().random, sources(6));
        let mut first = BTreeSet::new();
        // That one of six is missing after 1,000 draws: less than once in 10^78 runs.
        for _ in 0..1_000 {
            first.insert(some_of(&sources, &*random)[0].address.clone());
        }
        assert_eq!(first.len(), sources.len());
    }
}
