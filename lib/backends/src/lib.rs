//! OpenAI-compatible servers as they are, as workers of the router.
//!
//! - [`config`], [`address`]: which servers, and how patient to be with them
//! - [`listing`]: what a server says that it serves; [`health`]: whether it is asked
//! - [`wire`]: one HTTP connection, polled by whoever uses it, and the pool of idle ones
//! - [`inquiry`]: what is asked; [`prompt`]: the tokens of its prompt; [`headers`]: what is passed on
//! - [`scan`]: what an answer says of itself in passing
//! - [`fleet`]: the servers, their router and the models; `poll` and `kv` keep it up to date
//! - [`dispatch`]: an inquiry on its way; [`answer`]: an answer that is passed on
//! - [`shadow`]: choices compared with those of a balancer that is in use
//! - [`metrics`]: what is counted
//!
//! Invariants
//! - A body is passed on byte by byte as it came, in both directions.
//! - Until the first byte of an answer went out, another server may be asked, a bounded number of
//!   times; after it, an answer ends whole or with one typed error.
//! - Nothing waits without a limit that has a name.

pub mod address;
pub mod answer;
pub mod config;
pub mod dispatch;
mod engine;
pub mod fleet;
pub mod headers;
pub mod health;
pub mod inquiry;
mod kv;
pub mod listing;
pub mod metrics;
mod poll;
pub mod prompt;
pub mod scan;
pub mod shadow;
pub mod wire;

pub use address::{AddressError, BackendAddress};
pub use answer::{Answer, AnswerBody, AnswerFacts, AnswerStream, Piece};
pub use config::BackendOptions;
pub use fleet::{Backends, BackendsSetup, Tokenising};
pub use inquiry::Inquiry;
pub use metrics::BackendMetrics;
