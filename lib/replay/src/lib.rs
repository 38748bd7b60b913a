//! Request traces through the very router and the simulated workers, in virtual time: an hour of
//! traffic in seconds, and the same result for the same seed.
//!
//! - [`trace`]: what was asked when, and what prompts had in common
//! - [`mod@replay`]: the event loop
//! - `worker`: a simulated worker of it
//! - [`result`]: what came of it
//!
//! Invariant: no clock, no I/O, no task. Everything is a function of trace, plan and seed.

pub mod config;
pub mod replay;
pub mod result;
pub mod trace;
mod worker;

pub use replay::{Plan, ReplayError, replay};
pub use result::{Outcome, Percentiles};
pub use trace::{Trace, TraceError, TraceRequest};
