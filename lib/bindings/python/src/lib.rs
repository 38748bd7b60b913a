//! The Python extension `dynamo._core`: workers and clients written in Python, and the `dynamo`
//! command for those who installed the wheel.
//!
//! It is thin: what Dynamo does is done by the crates below. What it owns is the way between the
//! interpreter's thread and those of the async runtime. The interpreter's lock is taken by Python's
//! own thread alone: threads of the runtime leave letters in a [`mailbox`], whose bell the event
//! loop hears.

mod client;
mod context;
mod convert;
mod engine;
mod errors;
mod home;
mod mailbox;
mod model;
mod outlet;
mod runtime;
mod serve;
mod serving;
mod tokens;

use pyo3::prelude::*;
use std::ffi::OsString;

/// Runs the `dynamo` command with these words, the program's name first. Its exit status.
#[pyfunction]
fn command(py: Python<'_>, words: Vec<OsString>) -> u8 {
    py.detach(|| dynamo_run::command(words).code())
}

/// See the crate's description.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(command, module)?)?;
    module.add_class::<runtime::DistributedRuntime>()?;
    module.add_class::<runtime::Endpoint>()?;
    module.add_class::<client::Client>()?;
    module.add_class::<context::Context>()?;
    model::register(module)?;
    errors::register(module)
}
