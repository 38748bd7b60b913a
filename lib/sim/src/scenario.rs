//! Runs the plan of a seed in the simulator and judges it.
//!
//! Invariants that each run checks
//! - A request gives all positions exactly once and in order, or ends with one typed error.
//! - A request is never silent for longer than [`QUIET_BOUND`](crate::echo::QUIET_BOUND).
//! - Requests made [`RECOVERY_BOUND`](crate::plan::RECOVERY_BOUND) after the repair succeed.
//! - When all requests have ended, no work is left on the worker, and the client can stop.

use crate::Trace;
use crate::echo::{self, CLIENT, Shared, WORKER};
use crate::plan::{Partition, PartitionKind, Plan};
use dynamo_protocols::ErrorCode;
use std::fmt;
use std::time::{Duration, SystemTime};
use turmoil::Sim;

/// Virtual time after which a run is given up: the longest plan takes half of it.
const LONGEST_RUN: Duration = Duration::from_secs(60);

/// The simulator's step, and the finest time that messages take.
const STEP: Duration = Duration::from_millis(1);

/// Segments that a simulated socket holds. Connections that are cut keep what came after the cut;
/// the simulator panics if that does not fit.
const SOCKET_SEGMENTS: usize = 4096;

/// The simulation's time of day at its start, in seconds since 1970.
const START_OF_TIME: u64 = 1_700_000_000;

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Every item came, once and in order.
    Complete,
    /// The caller dropped the stream, as planned.
    GivenUp,
    /// One typed error.
    Failed(ErrorCode),
    /// A good end before the last item.
    CutShort,
    /// An item at the wrong position, or another one than was asked for.
    WrongItem,
    /// Something came after the error.
    NotOver,
    /// Silence.
    Hung,
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A request ended as it must not.
    #[error("{id} ended with {outcome:?}")]
    Request {
        /// Its id.
        id: String,
        /// How it ended.
        outcome: Outcome,
    },
    /// The worker still works for nobody.
    #[error("{running} answers still run although every request has ended")]
    LeftRunning {
        /// How many.
        running: usize,
    },
    /// A task of the client panicked.
    #[error("a task of the client panicked")]
    Panicked,
    /// The client's tasks did not end.
    #[error("the client's tasks did not stop")]
    NotStopped,
    /// The simulation itself failed: a host's software did, or it took too long.
    #[error("the simulation failed: {0}")]
    Simulation(String),
}

/// A run that kept the invariants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The hash of its trace.
    pub hash: u64,
    /// The number of events in it.
    pub events: u64,
    /// How the requests ended, by id, in the order of their ends.
    pub outcomes: Vec<(String, Outcome)>,
    /// How much virtual time it took.
    pub elapsed: Duration,
}

/// A run that broke an invariant.
#[derive(Debug, thiserror::Error)]
pub struct Failure {
    /// What happens in it.
    pub plan: Plan,
    /// What was broken.
    pub violations: Vec<Violation>,
    /// How it ended.
    pub trace: Trace,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}seed {} fails:", self.trace.tail(), self.plan.seed)?;
        for violation in &self.violations {
            writeln!(f, "  {violation}")?;
        }
        write!(f, "{:?}", self.plan.partition)
    }
}

/// Runs the plan of a seed.
///
/// # Errors
/// When an invariant is broken.
pub fn run(seed: u64) -> Result<Report, Box<Failure>> {
    let plan = Plan::draw(seed);
    let shared = Shared::new();
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .epoch(SystemTime::UNIX_EPOCH + Duration::from_secs(START_OF_TIME))
        .simulation_duration(LONGEST_RUN)
        .tick_duration(STEP)
        .min_message_latency(STEP)
        .max_message_latency(plan.max_latency)
        .tcp_capacity(SOCKET_SEGMENTS)
        .enable_random_order()
        .build();
    let of_worker = shared.clone();
    sim.host(WORKER, move || echo::worker(seed, of_worker.clone()));
    sim.client(CLIENT, echo::client(plan.clone(), shared.clone()));

    if let Err(error) = step_to_the_end(&mut sim, plan.partition, &shared.trace) {
        let failed = Violation::Simulation(error.to_string());
        shared.violations.lock().push(failed);
    }
    let violations = std::mem::take(&mut *shared.violations.lock());
    if !violations.is_empty() {
        return Err(Box::new(Failure {
            plan,
            violations,
            trace: shared.trace,
        }));
    }
    let outcomes = std::mem::take(&mut *shared.outcomes.lock());
    Ok(Report {
        hash: shared.trace.hash(),
        events: shared.trace.events(),
        outcomes,
        elapsed: sim.elapsed(),
    })
}

/// Steps until the client has ended, and breaks and mends the network at its times.
fn step_to_the_end(
    sim: &mut Sim<'_>,
    partition: Partition,
    trace: &Trace,
) -> Result<(), Box<dyn std::error::Error>> {
    let Partition { kind, begins, ends } = partition;
    loop {
        let now = sim.elapsed();
        if now == begins {
            trace.record_at(now, "network", format_args!("breaks: {kind:?}"));
            match kind {
                PartitionKind::Lost => sim.partition(WORKER, CLIENT),
                PartitionKind::Held => sim.hold(WORKER, CLIENT),
            }
        }
        if now == ends {
            trace.record_at(now, "network", format_args!("is mended"));
            match kind {
                PartitionKind::Lost => sim.repair(WORKER, CLIENT),
                PartitionKind::Held => sim.release(WORKER, CLIENT),
            }
        }
        if sim.step()? {
            return Ok(());
        }
    }
}
