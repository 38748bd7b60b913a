//! The engine with a real model, through its public interface only.
//!
//! Modules are marked as tests so that lints that allow something in tests allow it here.

#[cfg(test)]
mod bad_files;
#[cfg(test)]
mod batching;
#[cfg(test)]
mod cache;
#[cfg(test)]
mod deterministic;
#[cfg(test)]
mod greedy;
#[cfg(test)]
mod prompts;
#[cfg(test)]
mod structured;
#[cfg(test)]
mod support;
#[cfg(test)]
mod tokenizer;
#[cfg(test)]
mod transfer;
