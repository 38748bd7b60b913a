//! The HTTP frontend: the OpenAI API on a socket.
//!
//! It owns what is HTTP about a request: connections and their limits, keys, bodies, status
//! codes, server-sent events, metrics. What a request means is `dynamo-llm`'s business; this
//! crate holds no algorithm.
//!
//! Invariants
//! - Every response that is not a success has an OpenAI error body, made in one place.
//! - A client that goes away drops its request's pipeline, and thereby cancels the engine's work.
//! - Every limit is an option of [`FrontendOptions`].

mod auth;
pub mod batch;
mod body;
mod completions;
mod config;
mod connection;
pub mod console;
mod context;
mod deadline_headers;
mod embeddings;
mod error;
mod events;
mod exchange;
mod forward;
mod health;
pub mod local;
mod metrics;
mod models;
mod openapi;
mod route_headers;
mod routes;
mod routing;
mod server;
mod service;
mod text;

pub use auth::{KeyFileError, parse_key_file};
pub use body::read_body;
pub use config::FrontendOptions;
pub use error::{error_response, json_response};
pub use metrics::FrontendMetrics;
pub use metrics::show_routers_of;
pub use routes::ROUTES;
pub use server::{BindError, BoundFrontend, Drained, Frontend, HTTP_PROTOCOLS};
