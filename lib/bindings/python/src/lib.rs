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
mod embed;
mod engine;
mod errors;
mod home;
mod http;
mod json;
mod mailbox;
mod model;
mod outlet;
mod publish;
mod routing;
mod runtime;
mod serve;
mod serving;
mod span;
mod text;
mod tokens;
mod watch;
mod worker_type;

use pyo3::prelude::*;
use pyo3::types::PyList;
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs the `dynamo` command with these words, the program's name first. Its exit status.
/// `interpreter` starts what is written in Python.
#[pyfunction]
#[pyo3(signature = (words, interpreter=None))]
fn command(py: Python<'_>, words: Vec<OsString>, interpreter: Option<PathBuf>) -> u8 {
    py.detach(|| dynamo_run::command(words, interpreter))
}

/// What is declared about every option of a command; of a worker if none is named.
#[pyfunction]
#[pyo3(signature = (command="worker"))]
fn options<'py>(py: Python<'py>, command: &str) -> PyResult<Bound<'py, PyAny>> {
    let Some(declared) = dynamo_run::embedded::declarations(command) else {
        let message = format!("there is no command {command:?} with options");
        return Err(pyo3::exceptions::PyValueError::new_err(message));
    };
    py.import("json")?
        .call_method1("loads", (declared.to_string(),))
}

/// What is declared about each option of a worker, without its groups.
#[pyfunction]
fn worker_options(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    let all = PyList::empty(py);
    for group in options(py, "worker")?.get_item("groups")?.try_iter()? {
        for option in group?.get_item("options")?.try_iter()? {
            all.append(option?)?;
        }
    }
    Ok(all)
}

/// See the crate's description.
#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(command, module)?)?;
    module.add_function(wrap_pyfunction!(options, module)?)?;
    module.add_function(wrap_pyfunction!(worker_options, module)?)?;
    module.add_class::<runtime::DistributedRuntime>()?;
    module.add_class::<runtime::Endpoint>()?;
    module.add_class::<client::Client>()?;
    module.add_class::<context::Context>()?;
    module.add_class::<span::Span>()?;
    model::register(module)?;
    publish::register(module)?;
    http::register(module)?;
    routing::register(module)?;
    errors::register(module)
}
