//! The OpenAI wire types: what clients send to and receive from `/v1/*`.
//!
//! Requests are read by [`parse()`], which turns every way in which a body can be wrong into one
//! [`RequestError`](crate::RequestError) that names the field by its JSON path. Fields are known,
//! known and not served, or unknown; none is silently ignored unless it is metadata that cannot
//! change an answer.
//!
//! Responses are written without an intermediate tree. The chunks of a stream repeat most of
//! their bytes, so [`stream`] keeps those ready and serialises only what differs.
//!
//! What it does not do: check ranges or combinations of fields. Limits belong to `dynamo-llm`.

#[macro_use]
mod fields;

pub mod chat;
pub mod chunk;
pub mod completions;
pub mod embeddings;
pub mod error;
pub mod generation;
pub mod gist;
pub mod logprobs;
pub mod models;
pub mod nearest;
pub mod nvext;
pub mod parse;
pub mod prompt;
pub mod stream;
pub mod structured;
pub mod usage;

pub use chat::{ChatCompletion, ChatRequest};
pub use completions::{Completion, CompletionRequest};
pub use embeddings::{EmbeddingRequest, EmbeddingResponse};
pub use error::{ErrorBody, error_type};
pub use fields::Unserved;
pub use models::{ModelEntry, ModelList};
pub use parse::parse;
pub use prompt::Prompt;
pub use usage::Usage;
