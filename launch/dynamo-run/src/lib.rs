//! The `dynamo` command: argument forms, the wiring of a process, and exit codes. It holds no
//! algorithms and declares no options: those are the libraries'.
//!
//! The binary and the Python package are two doors to the same command: both call [`command`].
//! Other processes (workers written in Python) take part through [`embedded`].
//!
//! Data goes to standard output, logs and progress to standard error. Exit codes are those of
//! [`dynamo_runtime::shutdown`].

mod backends;
mod bench;
mod bench_routing;
mod cli;
mod commands;
mod console;
mod deploy;
mod deploy_flags;
mod doctor;
pub mod embedded;
mod engine;
mod engine_flags;
mod forms;
mod loader;
mod memory;
mod metrics;
mod mocker;
mod output;
mod planes;
mod process;
mod python;
mod python_engine;
mod reference;
mod router;
mod run;
mod schemas;
mod simulate;

use dynamo_runtime::shutdown::ExitStatus;
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs a command line to its end, the program's name first; its exit code. The rest of what it depends
/// on it finds around the process; `interpreter` is the Python that runs it, if one does.
pub fn command(arguments: Vec<OsString>, interpreter: Option<PathBuf>) -> u8 {
    let mut surroundings = loader::Surroundings::of_this_process(arguments);
    surroundings.interpreter = interpreter;
    if let Some(graph) = python::graph_arguments(&surroundings.arguments) {
        return python::serve_graph(&surroundings, graph).code();
    }
    let status = match cli::parse(&surroundings) {
        Ok(cli::Parsed::Run(invocation)) => process::start(*invocation, surroundings),
        Ok(cli::Parsed::Print(text)) => {
            output::print(&text);
            ExitStatus::Success
        }
        Ok(cli::Parsed::Reference(folder)) => match reference::write(&folder) {
            Ok(()) => ExitStatus::Success,
            Err(error) => fail(&error, ExitStatus::Failure),
        },
        Ok(cli::Parsed::Become(child)) => return deploy::become_program(&child),
        Err(cli::UsageError::Clap(error)) => {
            // Help and version are errors to clap, and answers to the user.
            let status = match error.use_stderr() {
                true => ExitStatus::Usage,
                false => ExitStatus::Success,
            };
            match error.print() {
                Ok(()) => status,
                Err(_) => ExitStatus::Failure,
            }
        }
        Err(error) => fail(&error, ExitStatus::Usage),
    };
    status.code()
}

fn fail(error: &dyn std::fmt::Display, status: ExitStatus) -> ExitStatus {
    output::complain(&format!("error: {error}"));
    status
}
