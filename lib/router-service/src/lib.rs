//! The router as a component of its own.
//!
//! - [`http`]: an HTTP interface for whoever sends requests to workers by itself and only asks
//!   where to
//! - [`endpoint`]: an endpoint for frontends, which passes requests on to workers
//!
//! Both choose by the one router of a model's workers; this crate holds no algorithm but the
//! bookkeeping of reservations.

mod answer;
mod config;
pub mod endpoint;
pub mod http;
mod metrics;
mod question;
mod reservations;
mod routes;

pub use config::RouterServiceOptions;
pub use http::{BindError, BoundService, RouterService};
