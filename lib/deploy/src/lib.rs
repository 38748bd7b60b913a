//! `dynamo deploy`: reads a graph, writes what it becomes for Kubernetes and Slurm, and runs it on
//! this machine.
//!
//! - [`config`]: the options
//! - [`source`]: the graph file and the files beside it
//! - [`out_dir`]: files that are written, and those of former times that are removed
//! - [`local`]: the graph as processes; [`child`] is what each of them does first
//! - [`run_folder`], [`state`]: what a running graph leaves for other terminals
//! - [`follow`]: `status`, `logs` and `stop` of such a graph
//! - [`table`], [`screen`]: what people see
//!
//! What is decided is decided in `dynamo_graph`: this crate does it. Values of secrets are in the
//! environment of processes and nowhere else: not in messages, logs or the state file.

pub mod child;
pub mod config;
pub mod follow;
pub mod local;
pub mod out_dir;
pub mod run_folder;
pub mod screen;
pub mod secrets;
pub mod source;
pub mod state;
pub mod table;

mod error;
mod log_file;

pub use error::DeployError;
