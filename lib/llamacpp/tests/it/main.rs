//! The engine with a real model, through its public interface only.

mod bad_files;
mod batching;
mod cache;
mod deterministic;
mod greedy;
mod support;
mod tokenizer;
mod transfer;
