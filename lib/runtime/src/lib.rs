//! Dynamo's distributed runtime: how processes find each other, call each other, live and stop.
//!
//! It knows nothing about language models: requests and responses are bytes with positions.

pub mod artefact;
pub mod component;
pub mod config;
pub mod discovery;
pub mod environment;
pub mod etcd;
pub mod event_plane;
pub mod http_server;
pub mod request_plane;
pub mod shutdown;
pub mod status;
pub mod tasks;
pub mod telemetry;
pub mod tls;

pub use environment::Environment;
pub use tasks::Tasks;
