//! The `dynamo` command.
//!
//! It owns argument forms, the wiring of a process, and exit codes. It holds no algorithms and
//! declares no options: those are the libraries'.
//!
//! Data goes to standard output, logs and progress to standard error. Exit codes are those of
//! [`dynamo_runtime::shutdown`].

mod backends;
mod bench;
mod bench_routing;
mod cli;
mod console;
mod deploy;
mod deploy_flags;
mod doctor;
mod engine;
mod forms;
mod loader;
mod memory;
mod metrics;
mod mocker;
mod output;
mod planes;
mod process;
mod reference;
mod router;
mod run;
mod simulate;

use dynamo_runtime::shutdown::ExitStatus;
use std::process::ExitCode;

fn main() -> ExitCode {
    let surroundings = loader::Surroundings::of_this_process();
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
    ExitCode::from(status.code())
}

fn fail(error: &dyn std::fmt::Display, status: ExitStatus) -> ExitStatus {
    output::complain(&format!("error: {error}"));
    status
}
