//! KV-aware routing, pure: which worker holds which blocks, and which worker a request goes to.
//!
//! Invariant: no I/O, no clock, no task. Time and randomness are arguments.

pub mod affinity;
pub mod approximate;
pub mod book;
pub mod choice;
pub mod config;
pub mod cost;
pub mod decision_log;
pub mod explain;
pub mod external;
pub mod filter;
pub mod fleet;
pub mod hit_rate;
pub mod index;
pub mod mode;
pub mod queue;
mod recency;
pub mod request;
pub mod router;
mod trie;
pub mod worker;

pub use index::{Index, Matches, SharedIndex};
pub use worker::{Slot, Slots, Tier, WorkerKey};
