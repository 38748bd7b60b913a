//! Watches the engine of a worker: small requests of its own when there are no others, judged to
//! their last token, and the engine's steps when there are.
//!
//! Invariants
//! - An engine that does not work gets no requests: the worker leaves discovery, refuses what comes
//!   all the same and gives back what it has, each in a way that callers go on elsewhere.
//! - When it works again, it comes back by itself.
//! - A token costs nothing beyond a look at whether its stream has more.
//!
//! When to do what is decided by [`Vigil`]. An engine says itself what a canary is
//! ([`Engine::canary`]); one that has none is not watched.

use super::vigil::{Change, Duty, Limits, Pulse, Vigil};
use dynamo_config::options;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    EmbedRequest, EmbedResponse, Engine, EngineRequest, EngineStream, KvEventStream, RequestContext,
};
use dynamo_protocols::error::ErrorCode;
use dynamo_protocols::kv::KvTransfer;
use dynamo_protocols::load::LoadReport;
use dynamo_protocols::structured::StructuredSupport;
use dynamo_runtime::Tasks;
use dynamo_runtime::component::AnnouncedInstance;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Shortest of the time limits: below it a busy machine looks like a dead engine.
const LEAST: Duration = Duration::from_millis(100);

/// Outputs of a canary before it is taken for endless: it asks for a few tokens.
const MOST_OUTPUTS: usize = 64;

options! {
    /// Whether and how a worker finds out that its engine does not work.
    pub struct CanaryOptions("canary") {
        /// Ask the engine for a few tokens when it has had nothing to do for a while.
        health_check_enabled: bool = true, env = "DYN_HEALTH_CHECK_ENABLED";
        /// For how long.
        canary_wait: Duration = Duration::from_secs(10), env = "DYN_CANARY_WAIT_TIME", min = LEAST;
        /// How long the engine may take for each of those tokens.
        health_check_request_timeout: Duration = Duration::from_secs(5),
            env = "DYN_HEALTH_CHECK_REQUEST_TIMEOUT", min = LEAST;
        /// How long it may stand still while it has requests.
        engine_stall_timeout: Duration = Duration::from_secs(120),
            env = "DYN_ENGINE_STALL_TIMEOUT", min = LEAST;
    }
}

/// An engine that is watched.
#[derive(Debug)]
pub(super) struct Watched {
    engine: Arc<dyn Engine>,
    in_flight: Arc<AtomicUsize>,
    /// Cancelled while the engine is out; a new one when it is back.
    out: Mutex<CancellationToken>,
}

/// A stream that counts as in flight until it is dropped, and ends when its engine is taken out.
struct WatchedStream {
    outputs: EngineStream,
    out: Pin<Box<WaitForCancellationFutureOwned>>,
    is_over: bool,
    _in_flight: InFlight,
}

struct InFlight(Arc<AtomicUsize>);

impl Watched {
    pub(super) fn new(engine: Arc<dyn Engine>) -> Arc<Self> {
        Arc::new(Self {
            engine,
            in_flight: Arc::default(),
            out: Mutex::default(),
        })
    }

    /// Watches until the tasks are cancelled. Nothing to do if the engine has no canary.
    pub(super) fn watch(
        self: &Arc<Self>,
        announced: AnnouncedInstance,
        options: &CanaryOptions,
        tasks: &Tasks,
    ) {
        let Some(canary) = self.engine.canary() else {
            return;
        };
        if options.health_check_enabled {
            let watch = Arc::clone(self).run(canary, announced, options.clone());
            tasks.spawn_until_cancelled("canary", watch);
        }
    }

    async fn run(
        self: Arc<Self>,
        canary: EngineRequest,
        announced: AnnouncedInstance,
        options: CanaryOptions,
    ) {
        let limits = Limits {
            wait: options.canary_wait,
            stall: options.engine_stall_timeout,
        };
        let mut vigil = Vigil::new(limits, Instant::now());
        loop {
            match vigil.look(Instant::now(), self.pulse()) {
                Duty::Look(at) => sleep_until(at).await,
                Duty::TakeOut => {
                    let standing = options.engine_stall_timeout.as_secs_f64();
                    let reason = format!("it has had requests and done nothing for {standing}s");
                    self.take_out(&announced, &reason).await;
                }
                Duty::Send => {
                    let limit = options.health_check_request_timeout;
                    let failure = ask(&*self.engine, canary.clone(), limit).await.err();
                    match vigil.ended(Instant::now(), failure.is_none()) {
                        Change::None => {}
                        Change::Out => {
                            let reason = failure.unwrap_or_default();
                            self.take_out(&announced, &reason).await;
                        }
                        Change::Back => self.bring_back(&announced).await,
                    }
                }
            }
        }
    }

    fn pulse(&self) -> Pulse {
        Pulse {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            steps: self.engine.steps(),
        }
    }

    async fn take_out(&self, announced: &AnnouncedInstance, reason: &str) {
        tracing::error!(
            endpoint = %announced.endpoint(), reason,
            "the engine does not work: its worker takes no requests until it does"
        );
        self.out.lock().cancel();
        announced.hide().await;
    }

    async fn bring_back(&self, announced: &AnnouncedInstance) {
        tracing::info!(endpoint = %announced.endpoint(), "the engine works again");
        *self.out.lock() = CancellationToken::new();
        announced.show().await;
    }
}

/// What callers of a worker whose engine is out are told: they go on elsewhere.
fn is_out() -> RequestError {
    RequestError::new(
        ErrorCode::WorkerUnreachable,
        "the worker's engine does not work; send the request again",
    )
}

/// Sends a canary and reads it to its end, with a bound on each output. What was wrong, if anything.
async fn ask(engine: &dyn Engine, canary: EngineRequest, limit: Duration) -> Result<(), String> {
    let late = |what: &str| {
        format!(
            "a canary's {what} took longer than {}s",
            limit.as_secs_f64()
        )
    };
    let context = RequestContext {
        request_id: Arc::from("canary"),
        ..RequestContext::default()
    };
    let taken = timeout(limit, engine.generate(canary, context)).await;
    let mut outputs = match taken.map_err(|_| late("start"))? {
        Ok(outputs) => outputs,
        Err(error) => return judge(&error),
    };
    for _ in 0..MOST_OUTPUTS {
        let next = timeout(limit, outputs.next()).await;
        match next.map_err(|_| late("next token"))? {
            Some(Ok(output)) if output.finish_reason.is_some() => return Ok(()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return judge(&error),
            None => return Err("a canary's answer ended before its end".to_owned()),
        }
    }
    Err("a canary's answer did not end".to_owned())
}

/// An engine that is full works.
fn judge(error: &RequestError) -> Result<(), String> {
    match error.code {
        ErrorCode::NoCapacity | ErrorCode::RateLimited | ErrorCode::Draining => Ok(()),
        _ => Err(format!("a canary failed: {error}")),
    }
}

impl Engine for Watched {
    fn generate(
        &self,
        request: EngineRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let out = self.out.lock().clone();
        Box::pin(async move {
            let in_flight = InFlight::enter(&self.in_flight);
            let taking = self.engine.generate(request, context);
            let Some(taken) = out.run_until_cancelled(taking).await else {
                return Err(is_out());
            };
            Ok(Box::pin(WatchedStream {
                outputs: taken?,
                out: Box::pin(out.cancelled_owned()),
                is_over: false,
                _in_flight: in_flight,
            }) as EngineStream)
        })
    }

    fn embed(
        &self,
        request: EmbedRequest,
        context: RequestContext,
    ) -> BoxFuture<'_, Result<EmbedResponse, RequestError>> {
        if self.out.lock().is_cancelled() {
            return Box::pin(std::future::ready(Err(is_out())));
        }
        self.engine.embed(request, context)
    }

    fn structured_output(&self) -> StructuredSupport {
        self.engine.structured_output()
    }

    fn load(&self) -> LoadReport {
        self.engine.load()
    }

    fn kv_events(&self) -> Option<KvEventStream> {
        self.engine.kv_events()
    }

    fn ranks(&self) -> u32 {
        self.engine.ranks()
    }

    fn rank_load(&self, rank: u32) -> LoadReport {
        self.engine.rank_load(rank)
    }

    fn rank_kv_events(&self, rank: u32) -> Option<KvEventStream> {
        self.engine.rank_kv_events(rank)
    }

    fn kv_transfer(&self) -> Option<&dyn KvTransfer> {
        self.engine.kv_transfer()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        self.engine.drain()
    }
}

impl Stream for WatchedStream {
    type Item = <EngineStream as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        match this.outputs.as_mut().poll_next(cx) {
            Poll::Ready(next) => Poll::Ready(next),
            Poll::Pending => this.out.as_mut().poll(cx).map(|()| {
                this.is_over = true;
                Some(Err(is_out()))
            }),
        }
    }
}

impl InFlight {
    fn enter(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
