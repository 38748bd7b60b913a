//! The frontend over a real socket, with the echo engine behind it.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod api;
mod bad_input;
mod harness;
mod lifecycle;
mod limits;
mod metrics;
mod streaming;
