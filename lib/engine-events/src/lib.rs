//! Events over ZMQ: KV events as vLLM and SGLang publish them, and the event plane's own.
//!
//! - [`event`]: what an engine tells of its cache, and what comes from a publisher
//! - [`wire`]: the payload of a message, decoded; [`groups`]: which events count
//! - [`source`]: the numbers of one publisher's messages, pure: gaps, replay, new lives
//! - [`endpoint`]: where a publisher is
//! - [`subscriber`]: the shell: sockets, reconnecting, the bounded channel out
//! - [`metrics`]: what is counted
//! - [`plane`]: the event plane's medium over ZMQ
//!
//! ZMTP, the wire protocol of ZMQ, is spoken here by hand: a subscriber and a dealer with the
//! NULL mechanism are small, and sockets, tasks and buffers stay under the runtime's rules, which
//! a library with tasks and unbounded frames of its own would not keep.
//!
//! Block ids stay the engine's own: turning them into this router's hashes is the router's.

pub mod endpoint;
pub mod event;
pub mod groups;
pub mod metrics;
mod msgpack;
mod outlet;
pub mod plane;
mod publisher;
mod socket;
pub mod source;
pub mod subscriber;
pub mod wire;
mod zmtp;

pub use endpoint::{EndpointError, ZmqEndpoint};
pub use event::{EngineEvent, EventBatch, RemovedBlocks, SourceItem, StoredBlocks};
pub use metrics::EngineEventMetrics;
pub use plane::{ZmqEvents, ZmqEventsError};
pub use subscriber::{Subscriber, SubscriberOptions};
