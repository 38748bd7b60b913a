//! The vocabulary that every other crate speaks: the engine trait with its request, output,
//! KV-event and load types, the error table, and the OpenAI wire types.
//!
//! Invariant: no I/O, no clock, no logging, no policy. Types here are what crosses a process or
//! crate border, and pure functions on them.

pub mod deadline;
pub mod draw;
pub mod engine;
pub mod error;
pub mod kv;
pub mod load;
pub mod openai;
pub mod routing;
pub mod stream;
pub mod structured;
pub mod tokenizer;
pub mod worker_event;

pub use error::{Blame, ErrorCode, RequestError};
