//! The `dynamo` binary. All that it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(dynamo_run::command(std::env::args_os().collect(), None))
}
