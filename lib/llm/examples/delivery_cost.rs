//! What it costs to keep answers going: `delivery_cost [bare|kept REQUESTS TOKENS]`.
//!
//! Without arguments it prints nanoseconds per token and per request, as a line of JSON: for the
//! check of positions, and for deadlines and moves around an engine whose tokens come one by one.
//! What the same reader and engine take without them is subtracted; the least of several rounds
//! counts. With arguments it runs one of the two and prints nothing, for a tool that counts
//! instructions.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use dynamo_llm::config::DeliveryOptions;
use dynamo_llm::migration::{Migrating, MigrationMetrics, MigrationSetup};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{
    Engine, EngineOutput, EngineRequest, EngineStream, FinishReason, RequestContext,
};
use dynamo_protocols::load::LoadReport;
use dynamo_runtime::Tasks;
use dynamo_runtime::environment::Environment;
use dynamo_runtime::request_plane::position::PositionTracker;
use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::StreamExt;
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

type Failure = Box<dyn std::error::Error>;

const ROUNDS: usize = 9;

/// Requests of a round.
const REQUESTS: usize = 2_000;

/// Tokens of a long answer; a short one has one.
const TOKENS: usize = 513;

/// Positions checked in a round.
const POSITIONS: u64 = 10_000_000;

/// Gives as many tokens as are asked for, each after the reader has waited for it.
#[derive(Debug)]
struct Steady;

struct Tokens {
    left: u32,
    is_there: bool,
}

impl Engine for Steady {
    fn generate(
        &self,
        request: EngineRequest,
        _: RequestContext,
    ) -> BoxFuture<'_, Result<EngineStream, RequestError>> {
        let tokens = Tokens {
            left: request.stop.max_tokens,
            is_there: false,
        };
        Box::pin(std::future::ready(Ok(Box::pin(tokens) as EngineStream)))
    }

    fn load(&self) -> LoadReport {
        LoadReport::default()
    }

    fn drain(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl Stream for Tokens {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.is_there = !self.is_there;
        if self.is_there {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Poll::Ready(None);
        };
        self.left = left;
        Poll::Ready(Some(Ok(EngineOutput {
            token_ids: vec![left],
            finish_reason: (left == 0).then_some(FinishReason::Length),
            ..EngineOutput::default()
        })))
    }
}

fn kept() -> Result<Arc<dyn Engine>, Failure> {
    let setup = MigrationSetup {
        options: DeliveryOptions::default(),
        has_workers: true,
        can_continue: true,
        model: "m".into(),
        gone: CancellationToken::new(),
        metrics: MigrationMetrics::new("dynamo_frontend")?,
        environment: Environment::system(),
    };
    Ok(Arc::new(Migrating::new(Arc::new(Steady), setup)))
}

/// Reads answers in a task, as a server does.
async fn answers(engine: &Arc<dyn Engine>, requests: usize, tokens: usize) -> Result<(), Failure> {
    let (engine, tasks) = (Arc::clone(engine), Tasks::root());
    let (told, result) = oneshot::channel();
    tasks.spawn("answers", async move {
        let result = read(&*engine, requests, tokens).await;
        // The one who listens is below.
        drop(told.send(result));
    });
    Ok(result.await??)
}

async fn read(engine: &dyn Engine, requests: usize, tokens: usize) -> Result<(), RequestError> {
    for _ in 0..requests {
        let mut request = EngineRequest {
            prompt_ids: Arc::from([1, 2, 3]),
            ..EngineRequest::default()
        };
        request.stop.max_tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        let mut answer = engine.generate(request, RequestContext::default()).await?;
        while let Some(output) = answer.next().await {
            black_box(output?);
        }
    }
    Ok(())
}

/// Nanoseconds of a request with one token, and of each further token.
async fn measure(engine: &Arc<dyn Engine>) -> Result<(f64, f64), Failure> {
    let (mut short, mut long) = (Duration::MAX, Duration::MAX);
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        answers(engine, REQUESTS, 1).await?;
        short = short.min(begun.elapsed());
        let begun = Instant::now();
        answers(engine, REQUESTS, TOKENS).await?;
        long = long.min(begun.elapsed());
    }
    let each = |time: Duration, count: usize| time.as_secs_f64() * 1e9 / count as f64;
    let further = long.saturating_sub(short);
    Ok((
        each(short, REQUESTS),
        each(further, REQUESTS * (TOKENS - 1)),
    ))
}

fn position_cost() -> Result<f64, RequestError> {
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let mut tracker = PositionTracker::new(0);
        let begun = Instant::now();
        for position in 0..POSITIONS {
            black_box(tracker.accept(black_box(position), 1)?);
        }
        least = least.min(begun.elapsed());
    }
    Ok(least.as_secs_f64() * 1e9 / POSITIONS as f64)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [which, requests, tokens] = &arguments[..] {
        let engine: Arc<dyn Engine> = match &**which {
            "bare" => Arc::new(Steady),
            "kept" => kept()?,
            _ => return Err("usage: delivery_cost [bare|kept REQUESTS TOKENS]".into()),
        };
        return answers(&engine, requests.parse()?, tokens.parse()?).await;
    }
    let bare: Arc<dyn Engine> = Arc::new(Steady);
    let (bare_request, bare_token) = measure(&bare).await?;
    let (request, token) = measure(&kept()?).await?;
    let positions = position_cost()?;
    let line = serde_json::json!({
        "position_ns_per_token": positions,
        "delivery_ns_per_token": token - bare_token,
        "delivery_ns_per_request": request - bare_request,
        "bare_ns_per_token": bare_token,
        "bare_ns_per_request": bare_request,
    });
    println!("{line}");
    Ok(())
}
