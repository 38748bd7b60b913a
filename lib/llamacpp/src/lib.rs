//! The embedded engine: llama.cpp behind the engine trait.
//!
//! - [`LlamacppEngine`]: the engine, with its options [`LlamacppOptions`]
//! - [`GgufTokenizer`]: the vocabulary inside a GGUF file
//! - [`scheduler`]: what each step works on; pure
//! - [`sampling`]: from logits to a token; pure
//! - `constraint`: what structured output leaves of the vocabulary
//!
//! Invariants
//! - Only the executor, the embedder, the model and the tokenizer touch llama.cpp, on the
//!   engine's own thread where a context is concerned.
//! - llama.cpp's `unsafe` calls stand in two files (`logs`, `executor`), each with its reason.
//!
//! What it does not do: text beyond the vocabulary (templates, stop strings), networking,
//! metrics.

mod config;
mod constraint;
mod embedding;
mod engine;
mod error;
mod executor;
mod fingerprint;
mod logs;
mod model;
pub mod sampling;
pub mod scheduler;
mod tokenizer;

pub use config::LlamacppOptions;
pub use engine::LlamacppEngine;
pub use error::LoadError;
pub use tokenizer::GgufTokenizer;
