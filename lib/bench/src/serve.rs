//! `dynamo bench serve`: sends the load, and measures what comes back.
//!
//! Invariants
//! - Every request has a bound: its timeout, and the interruption of the run.
//! - At most as many tasks as requests may be under way at once.
//! - What has been measured is in the result however the run ends.

mod conversation;

use crate::client::{Answer, Client, Target};
use crate::config::{BenchServeOptions, Load, Pace};
use crate::cpu::process_cpu_time;
use crate::error::BenchError;
use crate::figures::{Failure, Statistics};
use crate::load::{Conversation, Plan, Source};
use crate::memory::Memory;
use crate::prompt::{Bodies, Dialogue};
use crate::result::{ClientCost, ServeResult};
use conversation::Prepared;
use dynamo_config::Secret;
use dynamo_runtime::{Environment, Tasks};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How often the progress is shown.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Number of the first warm-up conversation: beyond those of any run, so that warm-up fills no
/// cache with prompts that are measured later.
const FIRST_WARMUP: u64 = 1 << 40;

/// Pause of a closed loop after nobody answered at the address: it would else only count refusals.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(50);

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Progress {
    /// Since the start.
    pub elapsed: Duration,
    /// Requests to send in all, if that is known.
    pub total: Option<u64>,
    /// How long requests are sent, if that is bounded.
    pub duration: Option<Duration>,
    /// Requests under way.
    pub in_flight: u64,
    /// Requests that ended well.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Pieces of text that have come.
    pub tokens: u64,
    /// Median time to the first token so far.
    pub ttft: Option<Duration>,
}

/// What the tasks of a run share.
#[derive(Debug)]
struct Run {
    client: Client,
    bodies: Bodies,
    source: Source,
    statistics: Mutex<Statistics>,
    in_flight: AtomicU64,
    /// Requests that waited because too many were under way.
    held_back: AtomicU64,
    started: Instant,
    /// No request starts after this.
    stop: CancellationToken,
    /// What is under way ends at once.
    interrupt: CancellationToken,
    request_timeout: Duration,
    turn_delay: Duration,
    wants_text: bool,
    is_open: bool,
}

/// Runs a benchmark to its end, or until `interrupt` says to stop. Shows how far it is to
/// `observe`.
pub async fn serve(
    options: &BenchServeOptions,
    environment: &Environment,
    tasks: &Tasks,
    interrupt: &CancellationToken,
    mut observe: impl FnMut(Progress),
) -> Result<ServeResult, BenchError> {
    let options = &options.filled();
    let mut memory = options.watch_pid.map(Memory::watch).transpose()?;
    let Load {
        source,
        plan,
        pace,
        total,
    } = options.load()?;
    let api_key = options.bench_api_key.as_ref().map(Secret::expose);
    let target = Target::new(&options.url, api_key, &options.header)?;
    let client = Client::new(target, options.api, options.stream)?;
    let model = find_model(options, &client).await?;
    let asking = options.asking(model.clone())?;
    let bodies = Bodies::new(
        &asking,
        source.clone(),
        options.bench_seed,
        options.words_per_token,
    );
    warm_up(options, &client, &bodies, &source, interrupt).await?;
    client.pieces.store(0, Ordering::Relaxed);
    let started_unix = environment.clock.unix_time();
    let cpu_before = process_cpu_time();
    let run = Arc::new(Run {
        client,
        bodies,
        source,
        statistics: Mutex::new(Statistics::new(options.goodput)),
        in_flight: AtomicU64::new(0),
        held_back: AtomicU64::new(0),
        started: Instant::now(),
        stop: interrupt.child_token(),
        interrupt: interrupt.clone(),
        request_timeout: options.longest_request(),
        turn_delay: options.turn_delay,
        wants_text: options.turns > 1,
        is_open: matches!(pace, Pace::Open(_)),
    });
    let own = tasks.child();
    match pace {
        Pace::Closed(slots) => start_slots(&run, &own, plan, slots),
        Pace::Open(most) => {
            let (run, tasks) = (Arc::clone(&run), own.clone());
            own.spawn("bench arrivals", async move {
                run.dispatch(plan, most, &tasks).await;
            });
        }
    }
    let mut look = |progress: Progress| {
        if let Some(memory) = &mut memory {
            memory.sample(progress.elapsed);
        }
        observe(progress);
    };
    run.watch(&own, options.duration, total, &mut look).await;
    let elapsed = run.started.elapsed();
    let cost = ClientCost {
        cpu: process_cpu_time().saturating_sub(cpu_before),
        elapsed,
        threads: options.client_threads,
        held_back: run.held_back.load(Ordering::Relaxed),
    };
    let statistics = std::mem::replace(&mut *run.statistics.lock(), Statistics::new(None));
    Ok(ServeResult {
        options: options.clone(),
        model,
        statistics,
        memory,
        elapsed,
        started_unix,
        is_interrupted: interrupt.is_cancelled(),
        is_open: run.is_open,
        cost,
    })
}

/// The model that is named, or the only one that the server has.
async fn find_model(options: &BenchServeOptions, client: &Client) -> Result<String, BenchError> {
    if let Some(model) = &options.model {
        return Ok(model.clone());
    }
    let listed = timeout(options.longest_request(), client.models()).await;
    let listed = listed.unwrap_or(Err(Failure::Timeout));
    let mut models = listed.map_err(|source| BenchError::Models {
        url: options.url.clone(),
        source,
    })?;
    match (models.len(), models.pop()) {
        (1, Some(model)) => Ok(model),
        (_, last) => Err(BenchError::WhichModel {
            url: options.url.clone(),
            models: models.into_iter().chain(last).collect(),
        }),
    }
}

async fn warm_up(
    options: &BenchServeOptions,
    client: &Client,
    bodies: &Bodies,
    source: &Source,
    interrupt: &CancellationToken,
) -> Result<(), BenchError> {
    for number in 0..u64::from(options.warmup) {
        let conversation = FIRST_WARMUP + number;
        let mut dialogue = Dialogue::default();
        bodies.say(&mut dialogue, conversation, 0);
        let body = bodies.body(&dialogue, source.turn(conversation, 0).output_tokens);
        let mut answer = Answer::new(Instant::now(), false);
        let asking = timeout(options.longest_request(), client.ask(body, &mut answer));
        match interrupt.run_until_cancelled(asking).await {
            None => break,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(failure))) => return Err(BenchError::Warmup(failure)),
            Some(Err(_)) => return Err(BenchError::Warmup(Failure::Timeout)),
        }
    }
    Ok(())
}

/// The closed loop: each slot takes the next conversation when its last one is over.
fn start_slots(run: &Arc<Run>, tasks: &Tasks, plan: Plan, slots: usize) {
    let plan = Arc::new(Mutex::new(plan));
    for _ in 0..slots {
        let (run, plan) = (Arc::clone(run), Arc::clone(&plan));
        tasks.spawn("bench slot", async move {
            while !run.stop.is_cancelled() {
                let Some(conversation) = next_of(&plan) else {
                    break;
                };
                let prepared = run.prepare(conversation);
                if !run.converse(prepared, None).await {
                    let pause = tokio::time::sleep(PAUSE_AFTER_REFUSAL);
                    run.stop.run_until_cancelled(pause).await;
                }
            }
        });
    }
}

fn next_of(plan: &Mutex<Plan>) -> Option<Conversation> {
    plan.lock().next()
}

impl Run {
    /// The open loop: each conversation starts at its time, or as soon as there is a place.
    async fn dispatch(self: &Arc<Self>, plan: Plan, most: usize, tasks: &Tasks) {
        let places = Arc::new(Semaphore::new(most));
        for conversation in plan {
            let due = self.started.checked_add(conversation.at);
            // Before its time comes: making a long prompt must not make it late.
            let prepared = self.prepare(conversation);
            let Some(due) = due else { break };
            let place = self.stop.run_until_cancelled(async {
                sleep_until(due).await;
                if places.available_permits() == 0 {
                    self.held_back.fetch_add(1, Ordering::Relaxed);
                }
                Arc::clone(&places).acquire_owned().await
            });
            let Some(Ok(place)) = place.await else { break };
            let run = Arc::clone(self);
            tasks.spawn("bench conversation", async move {
                run.converse(prepared, Some(due)).await;
                drop(place);
            });
        }
    }

    fn prepare(&self, conversation: Conversation) -> Prepared {
        Prepared::new(&self.bodies, &self.source, conversation)
    }

    /// Waits until every task has ended; says stop when the time is over.
    async fn watch(
        &self,
        tasks: &Tasks,
        duration: Option<Duration>,
        total: Option<u64>,
        observe: &mut impl FnMut(Progress),
    ) {
        let end = duration.and_then(|duration| self.started.checked_add(duration));
        let mut ticks = interval(PROGRESS_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let all = tasks.wait();
        tokio::pin!(all);
        loop {
            let time_is_up = async {
                match end {
                    Some(end) => sleep_until(end).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut all => break,
                () = time_is_up, if !self.stop.is_cancelled() => self.stop.cancel(),
                _ = ticks.tick() => observe(self.progress(duration, total)),
            }
        }
        observe(self.progress(duration, total));
    }

    fn progress(&self, duration: Option<Duration>, total: Option<u64>) -> Progress {
        let statistics = self.statistics.lock();
        Progress {
            elapsed: self.started.elapsed(),
            total,
            duration,
            in_flight: self.in_flight.load(Ordering::Relaxed),
            completed: statistics.completed,
            failed: statistics.failed,
            tokens: self.client.pieces.load(Ordering::Relaxed),
            ttft: statistics.ttft.quantile(0.5),
        }
    }
}
