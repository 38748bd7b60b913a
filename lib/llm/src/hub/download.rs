//! The download of one file: lock, fetch or go on, verify, move into its place, link.
//!
//! The partial file and the hash of its bytes move in lockstep, so a retry within a run goes on
//! without reading anything again; a later run hashes what it finds. Retries without progress are
//! bounded, and so is the wait for another process that fetches the same file.

use super::Hub;
use super::cache::RepoCache;
use super::checksum::Hasher;
use super::client::{Failure, FileFacts};
use super::error::HubError;
use super::reference::HubReference;
use hyper::StatusCode;
use std::fs::TryLockError;
use std::path::{Path, PathBuf};
use tokio::fs::{self, File, OpenOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt, SeekFrom};

/// Bytes of a partial file that are hashed at a time: about 2 ms of work between two yields.
const HASH_CHUNK: usize = 1 << 20;

/// Bytes between two reports of progress.
const REPORT_EVERY: u64 = 1 << 20;

/// Bytes that make a broken attempt count as progress. Attempts begin to count anew after it, so
/// that their number is bounded by the size of the file.
const WORTHWHILE: u64 = 8 << 20;

/// A file to have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) reference: &'a HubReference,
    pub(super) repo: &'a RepoCache,
    pub(super) commit: &'a str,
    pub(super) file: &'a str,
}

/// Is told the bytes that are here and all bytes.
pub(super) type Report<'a> = &'a (dyn Fn(u64, u64) + Send + Sync);

/// A file that is not whole yet.
#[derive(Debug)]
struct Partial<'a> {
    path: PathBuf,
    file: File,
    hasher: Hasher,
    length: u64,
    facts: &'a FileFacts,
}

// === impl Hub ===

impl Hub {
    /// Asks again while that may help.
    pub(super) async fn retrying<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut failed = 0;
        loop {
            match ask().await {
                Err(failure) if failure.may_pass() && failed + 1 < self.limits.attempts => {
                    failed += 1;
                    tokio::time::sleep(self.limits.pause(failed)).await;
                }
                done => return done,
            }
        }
    }

    /// Sees to it that the file is in the snapshot.
    pub(super) async fn download(&self, job: &Job<'_>, report: Report<'_>) -> Result<(), HubError> {
        let url = self.client.file_url(job.reference, job.commit, job.file);
        let facts = self
            .retrying(|| self.client.facts(&url))
            .await
            .map_err(|failure| self.file_error(job, failure))?;
        let checksum = facts.checksum.as_str();
        let blob = job.repo.blob(checksum);
        if !is_whole(&blob, facts.size).await {
            job.repo.prepare()?;
            let _lock = self.lock(job, checksum).await?;
            // Another process may have fetched it while this one waited.
            if !is_whole(&blob, facts.size).await {
                self.fetch_blob(job, &url, &facts, report).await?;
            }
        }
        job.repo.link(job.commit, job.file, checksum)
    }

    async fn fetch_blob(
        &self,
        job: &Job<'_>,
        url: &str,
        facts: &FileFacts,
        report: Report<'_>,
    ) -> Result<(), HubError> {
        let mut partial = Partial::open(job.repo.partial(facts.checksum.as_str()), facts).await?;
        let resumed = partial.length > 0;
        report(partial.length, facts.size);
        self.fill(job, url, &mut partial, report).await?;
        let mut actual = partial.digest();
        if actual != facts.checksum.as_str() && resumed {
            // What an earlier run left may have been wrong already: once more from the start.
            partial.restart().await?;
            self.fill(job, url, &mut partial, report).await?;
            actual = partial.digest();
        }
        report(partial.length, facts.size);
        partial.finish(job, &actual).await
    }

    /// Fetches until the partial file has its full length.
    async fn fill(
        &self,
        job: &Job<'_>,
        url: &str,
        partial: &mut Partial<'_>,
        report: Report<'_>,
    ) -> Result<(), HubError> {
        let mut failed = 0;
        let size = partial.facts.size;
        while partial.length < size {
            let before = partial.length;
            let Err(failure) = self.stream(url, partial, report).await else {
                continue;
            };
            if partial.length >= before + WORTHWHILE {
                failed = 0;
            }
            failed += 1;
            if !failure.may_pass() || failed >= self.limits.attempts {
                partial.flush().await?;
                return Err(self.cut_off(job, failure, partial.length, size));
            }
            tokio::time::sleep(self.limits.pause(failed)).await;
        }
        partial.flush().await
    }

    /// One request's worth of bytes. Ends well only when the file has its full length.
    async fn stream(
        &self,
        url: &str,
        partial: &mut Partial<'_>,
        report: Report<'_>,
    ) -> Result<(), Failure> {
        let size = partial.facts.size;
        let mut body = self.client.bytes(url, partial.length).await?;
        if body.offset != partial.length {
            if body.offset != 0 {
                return Err(Failure::Response(
                    "it is another part than the one asked for",
                ));
            }
            partial.restart().await.map_err(Failure::Other)?;
        }
        let mut reported = partial.length;
        while let Some(bytes) = body.next().await? {
            if partial.length + bytes.len() as u64 > size {
                return Err(Failure::Response("it is longer than announced"));
            }
            partial.push(&bytes).await.map_err(Failure::Other)?;
            if partial.length - reported >= REPORT_EVERY {
                reported = partial.length;
                report(reported, size);
            }
        }
        if partial.length < size {
            return Err(Failure::Interrupted);
        }
        Ok(())
    }

    /// Waits for the right to fetch the blob; it is given back when the file is dropped. The lock
    /// is the one that `huggingface_hub` takes, and the system frees it when a process dies.
    async fn lock(&self, job: &Job<'_>, checksum: &str) -> Result<std::fs::File, HubError> {
        let path = job.repo.lock(checksum);
        let failed = |error| HubError::io(&path, error, 0);
        let file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let (mut looks, mut seen) = (0, None);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            let partial = fs::metadata(job.repo.partial(checksum)).await;
            let length = partial.ok().map(|metadata| metadata.len());
            if length != seen {
                (looks, seen) = (0, length);
            }
            looks += 1;
            if looks > self.limits.lock_looks {
                return Err(HubError::Locked {
                    file: job.file.to_owned(),
                    lock: path,
                });
            }
            tokio::time::sleep(self.limits.lock_pause).await;
        }
    }

    /// The error for a download that ended in the middle.
    fn cut_off(&self, job: &Job<'_>, failure: Failure, received: u64, size: u64) -> HubError {
        let file = job.file.to_owned();
        match failure {
            Failure::Interrupted => HubError::Truncated {
                file,
                received,
                size,
            },
            Failure::Stalled(waited) => HubError::Stalled {
                file,
                waited,
                received,
                size,
            },
            other => self.file_error(job, other),
        }
    }

    fn file_error(&self, job: &Job<'_>, failure: Failure) -> HubError {
        let endpoint = self.client.endpoint().to_owned();
        match failure {
            Failure::Status(StatusCode::NOT_FOUND) => HubError::Response {
                endpoint,
                about: job.file.to_owned(),
                reason: "its list of files has it, and it is not there",
            },
            Failure::Response(reason) => HubError::Response {
                endpoint,
                about: job.file.to_owned(),
                reason,
            },
            other => other.into_error(job.reference, &self.place(job.reference), &self.client),
        }
    }
}

// === impl Partial ===

impl<'a> Partial<'a> {
    /// Opens what an earlier run left, or begins.
    async fn open(path: PathBuf, facts: &'a FileFacts) -> Result<Self, HubError> {
        let failed = |error| HubError::io(&path, error, facts.size);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .await
            .map_err(failed)?;
        let found = file.metadata().await.map_err(failed)?.len();
        let mut hasher = facts.checksum.hasher(facts.size);
        let mut length = 0;
        if found > facts.size {
            file.set_len(0).await.map_err(failed)?;
        } else {
            let mut buffer = vec![0; HASH_CHUNK];
            while length < found {
                let read = file.read(&mut buffer).await.map_err(failed)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
        }
        Ok(Self {
            path,
            file,
            hasher,
            length,
            facts,
        })
    }

    async fn push(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        if let Err(error) = self.file.write_all(bytes).await {
            return Err(self.failed(error).await);
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Forgets everything and begins anew.
    async fn restart(&mut self) -> Result<(), HubError> {
        self.flush().await?;
        let emptied = match self.file.set_len(0).await {
            Ok(()) => self.file.seek(SeekFrom::Start(0)).await.map(drop),
            Err(error) => Err(error),
        };
        if let Err(error) = emptied {
            return Err(self.failed(error).await);
        }
        self.hasher = self.facts.checksum.hasher(self.facts.size);
        self.length = 0;
        Ok(())
    }

    /// Waits for the writes that are under way, and hears of it if one of them failed.
    async fn flush(&mut self) -> Result<(), HubError> {
        match self.file.flush().await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error).await),
        }
    }

    fn digest(&self) -> String {
        self.hasher.clone().finish()
    }

    /// Moves the whole file into its place, or throws it away if it is not the right one.
    async fn finish(self, job: &Job<'_>, actual: &str) -> Result<(), HubError> {
        let expected = self.facts.checksum.as_str();
        if actual != expected {
            if let Err(error) = fs::remove_file(&self.path).await {
                return Err(self.failed(error).await);
            }
            return Err(HubError::Checksum {
                file: job.file.to_owned(),
                expected: expected.to_owned(),
                actual: actual.to_owned(),
            });
        }
        // On the disk before it has its final name: a crash must not leave a hollow blob.
        let moved = match self.file.sync_all().await {
            Ok(()) => fs::rename(&self.path, job.repo.blob(expected)).await,
            Err(error) => Err(error),
        };
        match moved {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(error).await),
        }
    }

    /// Writes fail late: what is still missing is told by what is in the file by then.
    async fn failed(&self, error: std::io::Error) -> HubError {
        let metadata = self.file.metadata().await;
        let there = metadata.map_or(0, |metadata| metadata.len());
        HubError::io(&self.path, error, self.facts.size.saturating_sub(there))
    }
}

/// Whether the blob is there. Its content was verified before it got its name.
async fn is_whole(blob: &Path, size: u64) -> bool {
    fs::metadata(blob)
        .await
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == size)
}
