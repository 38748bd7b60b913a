//! The batch runner: a file of requests in, a file of results out.
//!
//! Invariants
//! - Each input line gets exactly one result, also across runs that were cut off: what is in the
//!   result file already is not asked again.
//! - Results are appended as they complete. A line that fails has its error as its result and
//!   stops nobody else.
//! - At most `batch_concurrency` requests are under way, and at most that many lines in memory.

mod journal;
mod line;
mod render;

pub use journal::{Journal, JournalError};
pub use line::{Ask, BatchApi, ResultLine, fingerprint};

use crate::local::LocalClient;
use dynamo_config::options;
use dynamo_protocols::RequestError;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Longest input line, as the HTTP server's default for a body.
const MAX_LINE_BYTES: u64 = 45 * 1024 * 1024;

/// Name of the result file beside the input.
const DEFAULT_OUTPUT: &str = "output.jsonl";

options! {
    /// Running a file of requests.
    pub struct BatchOptions("batch") {
        /// Where the results go; if not given, `output.jsonl` beside the input. A file with
        /// results of the same input is continued.
        batch_output: Option<PathBuf> = None, env = "DYN_BATCH_OUTPUT";
        /// Requests under way at once.
        batch_concurrency: usize = 16, env = "DYN_BATCH_CONCURRENCY", range = 1..=4096;
        /// Most tokens of an answer to a prompt line; if not given, what its prompt leaves of the
        /// model's context. Request lines say it themselves.
        batch_max_tokens: Option<u32> = None, env = "DYN_BATCH_MAX_TOKENS", min = 1;
        /// Sampling temperature of prompt lines; request lines say it themselves.
        batch_temperature: f32 = 0.7, env = "DYN_BATCH_TEMPERATURE", range = 0.0..=2.0;
    }
}

/// A batch to run.
#[derive(Debug)]
pub struct Batch {
    client: LocalClient,
    input: PathBuf,
    options: BatchOptions,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchProgress {
    /// Lines with results, those of earlier runs included.
    pub done: u64,
    /// Of these, results of earlier runs.
    pub resumed: u64,
    /// Of these, lines whose result is an error.
    pub failed: u64,
    /// Prompt tokens of this run.
    pub tokens_in: u64,
    /// Generated tokens of this run.
    pub tokens_out: u64,
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchSummary {
    /// Where the results are.
    pub output: PathBuf,
    /// The counts.
    pub progress: BatchProgress,
    /// How long it took.
    pub elapsed: Duration,
    /// Whether it was cut off before the last line.
    pub interrupted: bool,
}

/// Why a batch cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The input cannot be read.
    #[error("cannot read the batch file {path}: {source}")]
    Input {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is longer than a request may be.
    #[error("line {line} of {path} has more than {MAX_LINE_BYTES} bytes")]
    LineTooLong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// The results belong to something else.
    #[error(
        "{output} has a result for another line {line} than that of {input}: \
         give another --batch-output, or remove the old results"
    )]
    OtherInput {
        /// The result file.
        output: PathBuf,
        /// The input.
        input: PathBuf,
        /// The line, from 1.
        line: u64,
    },
    /// The result file cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// An input line that has no result yet.
struct Todo {
    number: u64,
    text: String,
}

/// The lines of a file, one at a time.
struct Lines {
    reader: BufReader<File>,
    path: PathBuf,
    number: u64,
}

impl Batch {
    /// A batch of the lines of `input`.
    pub fn new(client: LocalClient, input: impl Into<PathBuf>, options: BatchOptions) -> Self {
        Self {
            client,
            input: input.into(),
            options,
        }
    }

    /// Number of requests in the input, for a progress bar.
    pub fn count(&self) -> Result<u64, BatchError> {
        let mut lines = Lines::open(&self.input)?;
        let mut count = 0;
        while lines.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    /// Runs it until every line has a result or `cancel` says to stop. Shows each step to
    /// `observe`.
    pub async fn run(
        &self,
        cancel: &CancellationToken,
        mut observe: impl FnMut(BatchProgress),
    ) -> Result<BatchSummary, BatchError> {
        let started = Instant::now();
        let output = self.output();
        let mut journal = Journal::open(&output)?;
        let mut lines = Lines::open(&self.input)?;
        let mut progress = BatchProgress::default();
        let mut running = FuturesUnordered::new();
        let mut exhausted = false;
        loop {
            while !exhausted && running.len() < self.options.batch_concurrency {
                match self.next_todo(&mut lines, &journal, &output, &mut progress)? {
                    Some(todo) => running.push(self.ask(todo)),
                    None => exhausted = true,
                }
            }
            observe(progress);
            let finished = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                finished = running.next() => finished,
            };
            let Some((result, answered)) = finished else {
                break;
            };
            journal.append(&result)?;
            progress.done += 1;
            match answered {
                Ok((tokens_in, tokens_out)) => {
                    progress.tokens_in += tokens_in;
                    progress.tokens_out += tokens_out;
                }
                Err(_) => progress.failed += 1,
            }
        }
        journal.sync()?;
        Ok(BatchSummary {
            output,
            progress,
            elapsed: started.elapsed(),
            interrupted: !exhausted || !running.is_empty(),
        })
    }

    fn output(&self) -> PathBuf {
        match &self.options.batch_output {
            Some(output) => output.clone(),
            None => self.input.with_file_name(DEFAULT_OUTPUT),
        }
    }

    /// The next line without a result; counts those with one.
    fn next_todo(
        &self,
        lines: &mut Lines,
        journal: &Journal,
        output: &Path,
        progress: &mut BatchProgress,
    ) -> Result<Option<Todo>, BatchError> {
        while let Some(todo) = lines.next()? {
            match journal.fingerprint(todo.number) {
                None => return Ok(Some(todo)),
                Some(known) if known == fingerprint(&todo.text) => {
                    progress.done += 1;
                    progress.resumed += 1;
                }
                Some(_) => {
                    return Err(BatchError::OtherInput {
                        output: output.to_owned(),
                        input: self.input.clone(),
                        line: todo.number,
                    });
                }
            }
        }
        Ok(None)
    }

    async fn ask(&self, todo: Todo) -> (ResultLine, Result<(u64, u64), RequestError>) {
        let started = Instant::now();
        let answered = render::answer(&self.client, &self.options, &todo.text, todo.number).await;
        let (result, counts) = render::result(&todo.text, answered, started.elapsed());
        let line = ResultLine {
            line: todo.number,
            fingerprint: fingerprint(&todo.text),
            result,
        };
        (line, counts)
    }
}

impl Lines {
    fn open(path: &Path) -> Result<Self, BatchError> {
        let file = File::open(path).map_err(|source| BatchError::Input {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            reader: BufReader::new(file),
            path: path.to_owned(),
            number: 0,
        })
    }

    /// The next line that is not blank.
    fn next(&mut self) -> Result<Option<Todo>, BatchError> {
        loop {
            let mut text = String::new();
            let mut bounded = (&mut self.reader).take(MAX_LINE_BYTES + 1);
            let length = bounded
                .read_line(&mut text)
                .map_err(|source| BatchError::Input {
                    path: self.path.clone(),
                    source,
                })?;
            if length == 0 {
                return Ok(None);
            }
            self.number += 1;
            if length as u64 > MAX_LINE_BYTES {
                return Err(BatchError::LineTooLong {
                    path: self.path.clone(),
                    line: self.number,
                });
            }
            let text = text.trim();
            if !text.is_empty() {
                return Ok(Some(Todo {
                    number: self.number,
                    text: text.to_owned(),
                }));
            }
        }
    }
}

#[cfg(test)]
mod tests;
