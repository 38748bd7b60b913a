//! Deterministic simulation: the real runtime over a simulated network, in virtual time.
//!
//! A seed decides everything that chance decides outside: how long messages take, when the network
//! breaks and how, what is asked and when. The same seed gives the same run, event by event and
//! byte by byte, which [`Trace`] proves with a hash; so a seed that fails can be replayed until it
//! is understood. Each run checks the invariants of the stream contract.
//!
//! What makes a run repeat: one thread; tokio's paused clock, moved by the simulator; sockets, time
//! of day, random numbers and the compute pool from [`environment`]; `biased` selects; no decision
//! that depends on the order of a hash map.
//!
//! What tokio itself leaves to chance without `--cfg tokio_unstable`, and scenarios must not lean
//! on: in which order several tasks wake that wait on the same `watch` channel.
//!
//! - [`environment`]: the seam, filled with simulated parts
//! - [`trace`]: what happened, in order
//! - [`traffic`]: what is on its way, and what overtakes it
//! - [`plan`]: what a seed means, pure
//! - [`echo`]: the two hosts' software
//! - [`scenario`]: runs a plan and judges it
//! - [`cluster`]: frontends and workers under faults of every kind
//! - [`config`]: options of the command that runs it

pub mod cluster;
pub mod config;
pub mod echo;
pub mod environment;
pub mod plan;
pub mod scenario;
pub mod trace;
pub mod traffic;

pub use plan::Plan;
pub use scenario::{Failure, Report, Violation, run};
pub use trace::Trace;
