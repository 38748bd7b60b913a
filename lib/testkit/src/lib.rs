//! For tests alone: processes of the real binary, servers of a test's own, a plain HTTP client.
//!
//! - [`process`]: processes of `dynamo` in a folder of their own
//! - [`http`]: a blocking client, and streamed answers
//! - [`certificates`]: an authority and what it signed
//! - [`etcd_server`], [`nats_server`]: servers that are killed, frozen and started again
//! - [`site`]: where all of those run
//!
//! Invariants: every wait has a bound, and nothing that was started outlives the thread that
//! started it. What goes wrong ends the test there and then: nothing here returns an error that a
//! test could only unwrap.

#![expect(
    clippy::unwrap_used,
    reason = "all of it is tests: what fails ends the test"
)]

pub mod certificates;
pub mod etcd_server;
pub mod http;
pub mod nats_server;
pub mod process;
pub mod site;
