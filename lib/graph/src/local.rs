//! The graph on this machine, decided: which processes there are, which GPUs each has, when one
//! is started again and in which order they stop. Whoever starts processes asks here.
//!
//! - [`plan`]: processes with their commands, environment and GPUs
//! - [`supervisor`]: the state machine of all of them; time is an argument

pub mod plan;
pub mod supervisor;
