//! An answer that outlives its worker: what one worker began, another one goes on with.
//!
//! [`Migrating`] stands before an engine. It keeps the tokens that an answer has given, and when
//! the answer breaks off sends the request again with them as `generated_ids`, which the engine
//! behind it places with another worker. Whoever reads the answer notices a pause. It also keeps
//! the deadlines of first token and following ones, whatever the engine.
//!
//! Whether to go on is decided by [`Moves`], for how long by its `patience`, both pure but for a
//! timer.
//!
//! Invariants
//! - Each token is given once, and in order: a new attempt starts at the position after the last
//!   token that was given.
//! - An answer ends with a finish reason or with one error, in bounded time.
//! - What is known of the cache is told once: a later attempt finds its own prompt there.
//!
//! What cannot move
//! - a request that names its worker, or carries another engine's transfer parameters: it would
//!   not be the same request elsewhere
//! - an answer longer than `--migration-max-seq-len`, which would cost more than it is worth
//! - an answer of an engine that cannot continue one, by its card, or that is text: nobody knows what
//!   tokens it stands for
//! - an answer with structured output, if the workers cannot replay its tokens through the
//!   constraint ([`StructuredSupport`]): they would begin the constraint anew in its middle
//!
//! Those are still tried again as long as they have given nothing, but for the first kind.

mod metrics;
mod moves;
mod patience;

pub use metrics::MigrationMetrics;
pub use moves::{MoveLimits, Moves, Verdict};

use crate::config::DeliveryOptions;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineOutput, EngineRequest, EngineStream, RequestContext,
};
use dynamo_protocols::error::{ErrorCode, RequestError};
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::routing::RouteSlip;
use dynamo_protocols::structured::StructuredSupport;
use dynamo_runtime::Environment;
use dynamo_runtime::component::response::MAX_TRIES;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::future::poll_fn;
use metrics::Resumption;
use patience::Patience;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// An engine whose answers move when their worker fails.
pub struct Migrating {
    engine: Arc<dyn Engine>,
    setup: Arc<MigrationSetup>,
}

/// How an engine's answers are kept going.
#[derive(Debug, Clone)]
pub struct MigrationSetup {
    /// Bounds and deadlines.
    pub options: DeliveryOptions,
    /// Whether there are several workers behind the engine: to ask it again makes sense.
    pub has_workers: bool,
    /// Whether they can go on with what another one began.
    pub can_continue: bool,
    /// The model's name in metrics and messages.
    pub model: Arc<str>,
    /// Cancelled when the model is gone for good: nobody will come who goes on.
    pub gone: CancellationToken,
    /// Where moves are counted.
    pub metrics: MigrationMetrics,
    /// Random numbers.
    pub environment: Environment,
}

/// One answer.
struct Answer {
    engine: Arc<dyn Engine>,
    setup: Arc<MigrationSetup>,
    /// The request as the next attempt sends it: with what was generated so far.
    request: EngineRequest,
    context: RequestContext,
    /// Where choices are written down for whoever asked.
    told: Option<Arc<RouteSlip>>,
    moves: Moves,
    patience: Patience,
    phase: Phase,
    /// Whether the attempt has given a token.
    has_progressed: bool,
    /// Whether it has given text, which no other worker can go on with.
    has_text: bool,
    cache_told: bool,
    /// Why a worker that had taken it failed, until another one gives a token: that is what the
    /// client hears if nobody goes on.
    cause: Option<RequestError>,
    /// Since when the answer has been broken off.
    resumption: Option<Resumption>,
}

enum Phase {
    /// The engine is being asked.
    Starting(BoxFuture<'static, Result<EngineStream, RequestError>>),
    /// It will be asked again.
    Pausing(Pin<Box<Sleep>>),
    Answering(EngineStream),
    Ended,
}

impl fmt::Debug for Migrating {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Migrating")
            .field("engine", &self.engine)
            .finish_non_exhaustive()
    }
}

impl Migrating {
    /// Keeps the answers of `engine` going.
    pub fn new(engine: Arc<dyn Engine>, setup: MigrationSetup) -> Self {
        Self {
            engine,
            setup: Arc::new(setup),
        }
    }
}

impl Engine for Migrating {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let engine = Arc::clone(&self.engine);
        let mut answer = Answer::new(engine, Arc::clone(&self.setup), request, context);
        Box::pin(async move {
            poll_fn(|cx| answer.poll_start(cx)).await?;
            Ok(Box::pin(answer) as EngineStream)
        })
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        Box::pin(async move {
            let setup = &*self.setup;
            let deadlines = context.deadlines.or(setup.options.deadlines());
            let limits = MoveLimits {
                moves: setup.has_workers.then_some(setup.options.migration_limit),
                wait: deadlines.queue,
            };
            let mut moves = Moves::new(limits, Instant::now());
            loop {
                let asked = self.engine.embed(request.clone(), context.clone()).await;
                let Err(error) = asked else { return asked };
                let bits = setup.environment.random.next_u64();
                match moves.judge(&error, Instant::now(), false, bits) {
                    Verdict::Again { wait, .. } => sleep(wait).await,
                    Verdict::GiveUp => return Err(error),
                }
            }
        })
    }

    fn structured_output(&self) -> StructuredSupport {
        self.engine.structured_output()
    }

    fn load(&self) -> LoadReport {
        self.engine.load()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.engine.drain()
    }
}

// === impl Answer ===

impl Answer {
    fn new(
        engine: Arc<dyn Engine>,
        setup: Arc<MigrationSetup>,
        request: EngineRequest,
        mut context: RequestContext,
    ) -> Self {
        context.deadlines = context.deadlines.or(setup.options.deadlines());
        let told = context.route.clone();
        let is_pinned = told.as_ref().is_some_and(|it| it.hints.instance.is_some())
            || request.kv_transfer_params.is_some();
        let limits = MoveLimits {
            moves: (setup.has_workers && !is_pinned).then_some(setup.options.migration_limit),
            wait: context.deadlines.queue,
        };
        let mut answer = Self {
            moves: Moves::new(limits, Instant::now()),
            patience: Patience::new(&context.deadlines),
            phase: Phase::Ended,
            has_progressed: false,
            has_text: false,
            cache_told: false,
            cause: None,
            resumption: None,
            engine,
            setup,
            request,
            context,
            told,
        };
        answer.start();
        answer
    }

    /// Asks the engine, for the first time or again.
    fn start(&mut self) {
        self.has_progressed = false;
        // Each attempt has a slip of its own: it says whom to avoid next time.
        let slip = self.told.as_ref().map(|told| {
            let slip = RouteSlip::new(told.hints.clone());
            Arc::new(slip)
        });
        self.context.route = Some(slip.unwrap_or_default());
        let (engine, request) = (Arc::clone(&self.engine), self.request.clone());
        let context = self.context.clone();
        self.phase = Phase::Starting(Box::pin(
            async move { engine.generate(request, context).await },
        ));
    }

    /// Resolves when an attempt was taken, or none will be.
    fn poll_start(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestError>> {
        loop {
            match &mut self.phase {
                Phase::Starting(starting) => match ready!(starting.as_mut().poll(cx)) {
                    Ok(stream) => self.taken(stream),
                    Err(error) => {
                        if let Some(error) = self.failed(error) {
                            return Poll::Ready(Err(error));
                        }
                    }
                },
                Phase::Pausing(pause) => {
                    ready!(pause.as_mut().poll(cx));
                    self.start();
                }
                Phase::Answering(_) | Phase::Ended => return Poll::Ready(Ok(())),
            }
        }
    }

    fn taken(&mut self, stream: EngineStream) {
        self.phase = Phase::Answering(stream);
        self.patience.dispatched(Instant::now());
        if let (Some(told), Some(own)) = (&self.told, &self.context.route)
            && let Some(routed) = own.routed()
        {
            told.write(routed);
        }
    }

    /// An attempt failed. The error if it was the last one.
    fn failed(&mut self, error: RequestError) -> Option<RequestError> {
        self.phase = Phase::Ended;
        let now = Instant::now();
        let bits = self.setup.environment.random.next_u64();
        let progressed = std::mem::take(&mut self.has_progressed);
        let Verdict::Again { wait, moved } = self.moves.judge(&error, now, progressed, bits) else {
            return Some(self.give_up(error));
        };
        // Without a worker there will be none; with one it may go on.
        let is_hopeless = error.code == ErrorCode::ModelNotReady && self.setup.gone.is_cancelled();
        if is_hopeless || !self.may_move() {
            return Some(self.give_up(error));
        }
        let context = &mut self.context;
        if let Some(routed) = context.route.take().and_then(|it| it.routed()) {
            context.avoid = Some(Arc::from([routed.instance]));
        }
        // As many as one attempt may have used.
        context.attempt = context.attempt.saturating_add(MAX_TRIES as u32);
        if moved {
            self.cause.get_or_insert_with(|| error.clone());
            let began = !self.request.generated_ids.is_empty();
            self.setup.metrics.moved(&self.setup.model, began);
            tracing::info!(
                request_id = %context.request_id, %error, tokens = self.request.generated_ids.len(),
                "an answer moves to another worker"
            );
        }
        self.resumption.get_or_insert_with(|| Resumption::new(now));
        self.phase = Phase::Pausing(Box::pin(sleep(wait)));
        None
    }

    /// Whether a failed attempt may be followed by another one.
    fn may_move(&self) -> bool {
        if self.has_text {
            return false;
        }
        if self.request.generated_ids.is_empty() {
            return true;
        }
        let limit = self.setup.options.migration_max_seq_len;
        let is_short = limit.is_none_or(|limit| self.request.input_len() <= limit as usize);
        if !is_short {
            self.setup.metrics.too_long.inc();
        }
        is_short && self.setup.can_continue && self.keeps_its_constraint()
    }

    /// Whether another worker would take up the constraint where this one has left it.
    fn keeps_its_constraint(&self) -> bool {
        let is_free = self.request.sampling.structured.is_none();
        is_free || self.engine.structured_output() == StructuredSupport::Replayed
    }

    fn give_up(&mut self, error: RequestError) -> RequestError {
        if let Some(resumption) = self.resumption.take() {
            resumption.ended(&self.setup.metrics, &self.setup.model, false);
        }
        self.cause.take().unwrap_or(error)
    }

    fn given(&mut self, output: &mut EngineOutput) {
        self.patience.heard();
        if output.cached_tokens.is_some() && std::mem::replace(&mut self.cache_told, true) {
            output.cached_tokens = None;
        }
        if output.amount() > 0 {
            self.has_text |= output.chunk.is_some();
            self.has_progressed = true;
            self.moves.progressed();
            self.cause = None;
            self.patience.first_token();
            self.request.generated_ids.extend(&output.token_ids);
            if let Some(resumption) = self.resumption.take() {
                resumption.ended(&self.setup.metrics, &self.setup.model, true);
            }
        }
        if output.finish_reason.is_some() {
            self.phase = Phase::Ended;
        }
    }
}

impl Stream for Answer {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answer = &mut *self;
        loop {
            let polled = match &mut answer.phase {
                Phase::Ended => return Poll::Ready(None),
                Phase::Answering(stream) => stream.as_mut().poll_next(cx).map(|next| {
                    // An answer that ends without a word of its end is that of a lost worker.
                    Some(next.unwrap_or_else(|| Err(broken_off())))
                }),
                Phase::Starting(_) | Phase::Pausing(_) => {
                    answer.poll_start(cx).map(|begun| begun.err().map(Err))
                }
            };
            match polled {
                Poll::Ready(None) => {}
                Poll::Ready(Some(Ok(mut output))) => {
                    answer.given(&mut output);
                    return Poll::Ready(Some(Ok(output)));
                }
                Poll::Ready(Some(Err(error))) => {
                    let last = match answer.phase {
                        // It was judged already.
                        Phase::Ended => Some(error),
                        _ => answer.failed(error),
                    };
                    if let Some(error) = last {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Pending => {
                    let error = ready!(answer.patience.poll(cx, Instant::now()));
                    answer.phase = Phase::Ended;
                    let error = answer.give_up(error);
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}

fn broken_off() -> RequestError {
    RequestError::new(
        ErrorCode::WorkerLost,
        "the worker went away before the answer was complete; send the request again",
    )
}

#[cfg(test)]
mod tests;
