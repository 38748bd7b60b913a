//! The simulated engine: it schedules like a real one and computes nothing.
//!
//! - [`scheduler`]: what each step works on, and how long that takes; pure, with time as an
//!   argument, so that it runs in real time, faster, or in virtual time
//! - [`timing`]: how long a step of a real engine takes
//! - [`MockEngine`]: the scheduler behind the engine trait, with its options [`MockerOptions`]
//!
//! Invariants
//! - The KV events and load reports are those of the simulated cache and queue: a router cannot
//!   tell the difference.
//! - What is drawn depends on seeds, choice and position alone, so that a request that moves to
//!   another simulated worker goes on as it would have.
//!
//! What it does not do: text, networking, KV state that could be moved.

mod config;
mod engine;
mod error;
pub mod scheduler;
pub mod timing;

pub use config::{
    DisaggregationMode, MAX_WORKERS, MockFleetOptions, MockModel, MockerOptions, PreemptionMode,
    Settings,
};
pub use engine::MockEngine;
pub use error::MockerError;
