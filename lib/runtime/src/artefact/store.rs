//! The serving side: files by hash, read in chunks when they are asked for.

use super::CHUNK_BYTES;
use crate::Environment;
use crate::discovery::ArtefactRef;
use crate::environment::ComputeError;
use crate::request_plane::{Handler, IncomingRequest, Item, ItemStream};
use bytes::Bytes;
use dynamo_protocols::{ErrorCode, RequestError};
use futures_core::future::BoxFuture;
use futures_util::stream;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

/// Files that this process serves, by hash. Cheap to clone; clones are the same store.
#[derive(Debug, Clone)]
pub struct ArtefactStore {
    environment: Environment,
    files: Arc<Mutex<BTreeMap<String, PathBuf>>>,
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

fn busy(error: ComputeError) -> RequestError {
    RequestError::new(ErrorCode::NoCapacity, error.to_string())
}

fn unreadable(error: &io::Error) -> RequestError {
    RequestError::new(
        ErrorCode::EngineFailed,
        format!("the worker cannot read the artefact any more: {error}"),
    )
}
