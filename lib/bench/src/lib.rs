//! Load generation and measurement of OpenAI-compatible servers: the library of `dynamo bench`.
//!
//! - [`config`]: options of `dynamo bench serve`
//! - [`load`]: what is sent and when: lengths, arrivals, traces, conversations
//! - [`prompt`]: texts and request bodies
//! - [`client`]: one request with its answer, measured token by token
//! - [`mod@serve`]: sends the load; the only part with tasks and sockets
//! - [`figures`]: what requests come to
//! - [`index_trace`]: the index of KV blocks on a trace
//! - [`memory`]: the memory of a process while it is under load
//! - [`verdict`]: whether the run has passed
//! - [`result`] and [`report`]: the result as JSON, a table, and HTML with plots
//!
//! Everything but [`client`], [`mod@serve`], the reading of [`memory`] and the clock of [`index_trace`] is pure: a function of options, seed and records.

pub mod client;
pub mod config;
mod cpu;
mod error;
pub mod figures;
pub mod index_trace;
pub mod load;
pub mod memory;
pub mod prompt;
pub mod random;
pub mod report;
pub mod result;
pub mod serve;
pub mod verdict;

pub use config::BenchServeOptions;
pub use error::BenchError;
pub use index_trace::BenchIndexOptions;
pub use result::ServeResult;
pub use serve::{Progress, serve};
