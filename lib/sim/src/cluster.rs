//! A cluster in the simulator: frontends and workers, made of the product's parts, under faults.
//!
//! Real are: preprocessing, generation, migration, the router with its index, book and news, the
//! request plane with its heartbeats, workers with their drain, and the simulated engine. Not
//! real are the network, the clocks, the backend of discovery, and HTTP, which is left out.
//!
//! Invariants that each run checks
//! - Every answer has the tokens of the undisturbed draw, each position once and in order.
//! - Every request ends within its bound; with an error only where none was promised.
//! - Nothing works for long on what has ended, and no two workers on the same answer.
//! - Once quiet: nothing runs for nobody, nothing is booked, every frontend knows the workers
//!   that live and no others, and its index is what their caches hold.
//! - No engine is over its bounds, and everything can stop.
//!
//! - [`plan`], [`fault`]: what a seed means, pure
//! - [`leases`]: the backend of discovery, pure
//! - [`sweep`]: many seeds, on several threads

mod bent;
mod discovery;
mod driver;
pub mod fault;
mod frontend;
mod gate;
mod judge;
pub mod leases;
mod owned;
pub mod plan;
mod process;
mod radio;
pub mod sweep;
mod tamper;
mod worker;
mod world;

pub use fault::Host;
pub use plan::ClusterPlan;

use dynamo_protocols::ErrorCode;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// The model that the workers serve.
const MODEL: &str = "simulated";

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With all of its tokens.
    Complete,
    /// The client left, as planned.
    GivenUp,
    /// It took longer than the client would wait.
    OutOfTime,
    /// With one typed error.
    Failed(ErrorCode),
    /// Its frontend was killed.
    ConnectionLost,
    /// Its frontend was not there.
    Refused,
    /// Without a word of its end.
    CutShort,
    /// Not at all.
    Hung,
}

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the messages say what the fields are")]
pub enum Violation {
    /// A request ended as it must not.
    #[error("{id} ended with {ending:?}")]
    Request { id: String, ending: Ending },
    /// A token that an undisturbed engine would not have given there.
    #[error("{id} has a wrong token at position {position} of choice {choice}")]
    WrongToken {
        id: String,
        choice: u32,
        position: usize,
    },
    /// A choice that ended too early or too late.
    #[error("choice {choice} of {id} ended after {given} tokens")]
    WrongEnd {
        id: String,
        choice: u32,
        given: usize,
    },
    /// An engine took more than it may.
    #[error("the engine of {host} is over its bounds")]
    OverBound { host: Host },
    /// A worker works although no request is left.
    #[error("{host} works on {sequences} sequences for nobody, or keeps their blocks")]
    WorksForNobody { host: Host, sequences: u32 },
    /// A worker works on a request that ended some time ago.
    #[error("{host} still works on {id}, which ended at {ended:?}")]
    Orphan {
        host: Host,
        id: String,
        ended: Duration,
    },
    /// More workers than one work on the same answer.
    #[error("the workers work on {running} answers of {id}, which has {choices}")]
    TwiceAtWork {
        id: String,
        running: usize,
        choices: usize,
    },
    /// A router's book is not empty although no request is left.
    #[error("{host} has {booked} bookings and {waiting} requests that wait although none is left")]
    Booked {
        host: Host,
        booked: usize,
        waiting: usize,
    },
    /// A frontend knows other workers than those that live.
    #[error("{host} knows the workers {known:?} where {living:?} live")]
    OtherWorkers {
        host: Host,
        known: BTreeSet<u64>,
        living: BTreeSet<u64>,
    },
    /// An index that is not what a cache holds.
    #[error("{host} lacks {missing} blocks of {worker} and has {extra} that are not there")]
    OtherBlocks {
        host: Host,
        worker: Host,
        missing: usize,
        extra: usize,
    },
    /// An index with blocks of nobody.
    #[error("the index of {host} has {indexed} blocks where the workers have {blocks}")]
    ForeignBlocks {
        host: Host,
        indexed: u64,
        blocks: u64,
    },
    /// A host that does not serve though nothing keeps it from that.
    #[error("{host} does not serve again")]
    NotBack { host: Host },
    /// A worker that did not end in its time.
    #[error("{host} did not drain in its time")]
    NotDrained { host: Host },
    /// A task panicked.
    #[error("a task of {host} panicked")]
    Panicked { host: Host },
    /// Tasks did not end.
    #[error("the tasks of {host} did not stop")]
    NotStopped { host: Host },
    /// The simulation itself failed.
    #[error("the simulation failed: {0}")]
    Simulation(String),
}

/// Something that is broken on purpose, to see that it is noticed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Broken {
    /// Nothing.
    #[default]
    Nothing,
    /// Workers leave a token out.
    DropToken,
    /// Workers give a token twice.
    DoubleToken,
    /// Workers begin a moved answer again.
    StartAgain,
    /// Workers do not hear of the last token that a moved answer has given.
    ForgetLastToken,
    /// Workers end answers early.
    EndEarly,
    /// Workers give some tokens and then nothing more.
    Stall,
    /// A frame with a token is lost, and the positions after it are put right.
    LoseFrame,
    /// A frame with a token comes twice, and the positions after it are put right.
    DoubleFrame,
    /// Frontends' cancellations do not arrive.
    LoseCancel,
    /// Workers that are asked to end say of what they have that it is complete.
    CutDrain,
    /// Workers that are asked to end go on.
    IgnoreDrain,
    /// A worker draws other tokens than the others.
    OtherDraws,
    /// Workers keep the sequences of clients who left.
    KeepSequence,
    /// Frontends forget that a booking has ended.
    ForgetBooking,
    /// Frontends keep the blocks of dead workers.
    KeepDeadBlocks,
    /// Workers do not tell what their caches let go of.
    MissRemoval,
    /// Engines take more than they can hold.
    OverCommit,
    /// Who was gone once, such as a worker that was frozen, is not taken again.
    MissThawed,
    /// Processes do not announce themselves again after their lease ran out.
    LoseLease,
    /// What is frozen never thaws.
    NeverThaw,
    /// Frontends do not end.
    NeverStop,
}

impl Broken {
    /// Every way to be broken.
    pub const ALL: &'static [Self] = &[
        Self::DropToken,
        Self::DoubleToken,
        Self::StartAgain,
        Self::ForgetLastToken,
        Self::EndEarly,
        Self::Stall,
        Self::LoseFrame,
        Self::DoubleFrame,
        Self::LoseCancel,
        Self::CutDrain,
        Self::IgnoreDrain,
        Self::OtherDraws,
        Self::KeepSequence,
        Self::ForgetBooking,
        Self::KeepDeadBlocks,
        Self::MissRemoval,
        Self::OverCommit,
        Self::MissThawed,
        Self::LoseLease,
        Self::NeverThaw,
        Self::NeverStop,
    ];
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// The hash of its trace.
    pub hash: u64,
    /// The number of events in it.
    pub events: u64,
    /// How the requests ended.
    pub endings: Vec<Ending>,
    /// The kinds of its faults.
    pub faults: Vec<&'static str>,
    /// What happened, and how often.
    pub happened: BTreeMap<&'static str, u64>,
    /// What was planned.
    pub plan: String,
    /// What happened, but for what went as it should.
    pub story: Vec<String>,
    /// How much virtual time it took.
    pub elapsed: Duration,
}

/// A run that broke an invariant.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Failure {
    /// The run.
    pub report: Report,
    /// What was broken.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.plan)?;
        self.story
            .iter()
            .try_for_each(|line| writeln!(f, "{line}"))?;
        for (what, times) in &self.happened {
            writeln!(f, "{times:8} {what}")?;
        }
        let complete = self.endings.iter().filter(|it| **it == Ending::Complete);
        write!(
            f,
            "seed {}: {:016x} {} events, {} of {} requests complete, {:?}",
            self.seed,
            self.hash,
            self.events,
            complete.count(),
            self.endings.len(),
            self.elapsed
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.report)?;
        write!(f, "seed {} fails:", self.report.seed)?;
        self.violations
            .iter()
            .try_for_each(|it| write!(f, "\n  {it}"))
    }
}

/// Runs the plan of a seed.
///
/// # Errors
/// When an invariant is broken.
pub fn run(seed: u64) -> Result<Report, Box<Failure>> {
    driver::run(seed, Broken::Nothing)
}

/// Runs the plan of a seed with something broken on purpose.
///
/// # Errors
/// When an invariant is broken, which is what this is for.
pub fn run_broken(seed: u64, broken: Broken) -> Result<Report, Box<Failure>> {
    driver::run(seed, broken)
}
