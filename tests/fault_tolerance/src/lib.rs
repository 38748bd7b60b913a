//! Real processes of the binary that are killed, frozen, restarted and cut off under load, and
//! clients that must not notice.
//!
//! Pure: [`traffic`] (what is asked), [`faults`] (what fails when), [`answer`] and [`report`] (what
//! is wrong with what came). Thin: [`load`] asks, [`fleet`] owns processes, [`network`]
//! namespaces, [`scenario`] puts them together.
//!
//! Each run asks its questions once in peace and then again under faults, and compares: texts,
//! token ids, log probabilities, usage and ends of answers must be the same.

#![expect(
    clippy::unwrap_used,
    reason = "all of it is tests: what fails ends the run"
)]

pub mod answer;
pub mod config;
pub mod draws;
pub mod faults;
pub mod fleet;
pub mod load;
pub mod network;
pub mod report;
pub mod scenario;
pub mod traffic;
