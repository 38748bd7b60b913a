//! The metrics component: what workers tell of their load and their KV caches, added up per
//! endpoint and shown to Prometheus.
//!
//! - [`config`]: the options
//! - [`scope`]: which announced workers are looked at, pure
//! - [`fleet`]: what was heard of them, pure
//! - [`figures`]: what is shown of that at a moment, pure
//! - [`metrics`]: figures as Prometheus families
//! - [`follow`]: discovery and event plane into the fleet
//! - [`http`]: the pages
//!
//! It sends no requests, chooses nobody, and nothing depends on it: without it a deployment loses
//! its overview and no answer.

pub mod config;
pub mod figures;
pub mod fleet;
pub mod follow;
pub mod http;
pub mod metrics;
pub mod scope;

pub use config::MetricsOptions;
pub use fleet::{Bounds, Fleet};
pub use follow::SharedFleet;
pub use http::{BindError, BoundPages};
pub use metrics::show_fleet;
pub use scope::Scope;
