//! Request plane and event plane over NATS.
//!
//! A crate of its own, above the runtime whose traits it implements, so that the NATS client and
//! what it needs stay out of every crate that only needs the runtime.
//!
//! The request plane speaks the frames of the tcp plane, unchanged, over byte streams that are
//! carried in NATS messages: positions, credits, cancellation, heartbeats, drain and error codes
//! are the same code. What is new here is only how bytes get from one process to the other, and
//! that they survive a server that restarts.
//!
//! - [`config`]: the options
//! - [`link`]: the process's connection to the server, and whether it is up
//! - [`segment`]: the wire form of a message, pure
//! - [`stream`]: numbers, acknowledgements and retransmission of one side of a connection, pure
//! - `connection`: one connection: reads, writes, and what is published for it
//! - `network`: dialling, accepting, and whom a message is for
//! - [`plane`]: the request plane
//! - [`events`]: the event plane's medium
//! - [`jetstream`]: events that the server keeps

pub mod config;
mod connection;
pub mod events;
pub mod jetstream;
pub mod link;
mod network;
pub mod plane;
pub mod segment;
pub mod stream;

pub use config::NatsOptions;
pub use events::NatsEvents;
pub use link::{Link, NatsError};
pub use plane::NatsPlane;
