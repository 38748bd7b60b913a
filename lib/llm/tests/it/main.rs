//! What the crate promises with real files: tokenizers and templates of five model families
//! against Hugging Face's own results, and a real GGUF file.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod families;
mod golden;
mod hub;
mod hub_failures;
mod hub_processes;
mod hub_server;
mod local;
mod prompt_tokens;
mod streaming;
mod wire;
