//! The thread that compiles constraints, and the last ones that it compiled.
//!
//! Compiling takes from a millisecond to seconds, and the tables of the vocabulary, which are made
//! for the first constraint, part of a second. One thread does it all, so that what it costs is
//! bounded; whoever waits for it waits for a bounded time.
//!
//! Invariants
//! - A request gets a copy of the compiled constraint, with what an earlier worker generated
//!   replayed and the first mask worked out: the engine's thread only draws.
//! - A panic of the matcher ends one request.

use super::{Matching, Vocabulary, compile};
use crate::error::LoadError;
use dynamo_protocols::engine::TokenId;
use dynamo_protocols::structured::{Constraint, StructuredOutput};
use dynamo_protocols::{ErrorCode, RequestError};
use llguidance::{Matcher, ParserFactory};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Constraints that wait to be compiled. A service has a few schemas, which are in the cache.
const MAX_WAITING: usize = 256;

/// Compiled constraints that are kept, the last ones used. One of a usual schema takes some 100 kB,
/// the largest that may be compiled some 10 MB.
const MAX_KEPT: usize = 32;

/// How long a request waits until its constraint's turn has come: behind others, and once for the
/// tables of the vocabulary. Requests have deadlines of their own; this is for those without.
const QUEUE_PATIENCE: Duration = Duration::from_secs(300);

/// How long its constraint may then take. Usual ones take milliseconds, and the compiler's bounds
/// end the largest after some seconds of computing, which a machine that is busy with other things
/// may stretch.
const PATIENCE: Duration = Duration::from_secs(120);

/// When to try again after the queue was full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Stack of the thread: schemas and grammars nest, within bounds, and are compiled by recursion.
const STACK_BYTES: usize = 64 << 20;

/// A constraint that is ready for an answer.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The answer goes on.
    Begun(Box<Matching>),
    /// What another worker generated is complete.
    Complete,
}

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Workshop {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Job {
    structured: Arc<StructuredOutput>,
    generated: Vec<TokenId>,
    /// Told when it is compiled.
    turn: oneshot::Sender<()>,
    reply: oneshot::Sender<Result<Prepared, RequestError>>,
}

/// What the thread owns.
struct Bench {
    vocabulary: Vocabulary,
    factory: Option<ParserFactory>,
    /// The last used one first.
    kept: VecDeque<(Key, Matcher)>,
}

/// What a compiled constraint is of: the fields that ask for it do not matter.
type Key = (Constraint, Option<Arc<str>>);

impl Workshop {
    /// Starts the thread.
    pub(crate) fn start(vocabulary: Vocabulary) -> Result<Self, LoadError> {
        let (jobs, waiting) = sync_channel(MAX_WAITING);
        let thread = std::thread::Builder::new()
            .name("llamacpp-forms".into())
            .stack_size(STACK_BYTES)
            .spawn(move || Bench::new(vocabulary).work(&waiting))
            .map_err(|error| LoadError::Thread(error.to_string()))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Compiles a constraint and brings it to where the answer is.
    pub(crate) async fn prepare(
        &self,
        structured: &Arc<StructuredOutput>,
        generated: &[TokenId],
    ) -> Result<Prepared, RequestError> {
        structured.check()?;
        let (reply, answer) = oneshot::channel();
        let (turn, turn_came) = oneshot::channel();
        let job = Job {
            structured: Arc::clone(structured),
            generated: generated.to_vec(),
            turn,
            reply,
        };
        let taken = self
            .jobs
            .as_ref()
            .is_some_and(|it| it.try_send(job).is_ok());
        if !taken {
            return Err(busy());
        }
        if timeout(QUEUE_PATIENCE, turn_came).await.is_err() {
            return Err(busy());
        }
        match timeout(PATIENCE, answer).await {
            Ok(Ok(prepared)) => prepared,
            // The thread ends after this value only.
            Ok(Err(_)) => Err(broken(structured)),
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                let what = format!("takes more than {seconds}s to compile; simplify it");
                Err(structured.refusal(&what))
            }
        }
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

impl Bench {
    pub(super) fn new(vocabulary: Vocabulary) -> Self {
        Self {
            vocabulary,
            factory: None,
            kept: VecDeque::new(),
        }
    }

    fn work(&mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            if job.reply.is_closed() {
                continue;
            }
            let Job {
                structured,
                generated,
                turn,
                reply,
            } = job;
            let prepared = catch_unwind(AssertUnwindSafe(|| {
                self.factory(&structured)?;
                // Nobody waits if the client is gone or out of patience, here and below.
                let _ = turn.send(());
                self.prepare(&structured, &generated)
            }));
            let prepared = prepared.unwrap_or_else(|_| Err(broken(&structured)));
            drop(reply.send(prepared));
        }
    }

    fn prepare(
        &mut self,
        structured: &Arc<StructuredOutput>,
        generated: &[TokenId],
    ) -> Result<Prepared, RequestError> {
        let matcher = self.matcher(structured)?;
        let mut matching = Matching::new(matcher, Arc::clone(structured));
        if matching.replay(generated)? {
            return Ok(Prepared::Complete);
        }
        matching.work_out()?;
        Ok(Prepared::Begun(Box::new(matching)))
    }

    /// A matcher of its own for one answer.
    fn matcher(&mut self, structured: &StructuredOutput) -> Result<Matcher, RequestError> {
        let key = (structured.constraint.clone(), structured.whitespace.clone());
        let found = self.kept.iter().position(|(kept, _)| *kept == key);
        let (key, matcher) = match found.and_then(|at| self.kept.remove(at)) {
            Some(kept) => kept,
            None => (
                key,
                compile::matcher(self.factory(structured)?, structured)?,
            ),
        };
        let copy = matcher.deep_clone();
        self.kept.push_front((key, matcher));
        self.kept.truncate(MAX_KEPT);
        Ok(copy)
    }

    fn factory(&mut self, structured: &StructuredOutput) -> Result<&ParserFactory, RequestError> {
        let factory = match self.factory.take() {
            Some(factory) => factory,
            None => self.vocabulary.factory().map_err(|error| {
                tracing::error!(error, "the vocabulary cannot be matched against");
                broken(structured)
            })?,
        };
        Ok(self.factory.insert(factory))
    }
}

fn busy() -> RequestError {
    RequestError::new(
        ErrorCode::NoCapacity,
        "too many constraints wait to be compiled; try again shortly",
    )
    .with_retry_after(RETRY_AFTER)
}

fn broken(structured: &StructuredOutput) -> RequestError {
    RequestError::new(
        ErrorCode::Internal,
        format!(
            "`{}` could not be compiled; the engine's log says why",
            structured.field
        ),
    )
}
