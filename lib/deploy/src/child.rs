//! What each process of a graph does first: it asks the kernel for SIGTERM when its supervisor
//! dies, however that is, and becomes its program. So a supervisor that is killed leaves nothing
//! behind: its processes drain and end.
//!
//! The kernel looks at the thread that started the process: the supervisor starts them from the
//! thread that its program began with, which lives as long as it does.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The name of the command that does this.
pub const COMMAND: &str = "deploy-child";

/// Exit code when the program cannot be started, as shells have it.
pub const NOT_STARTED: u8 = 127;

/// Becomes the program; gives back why it could not.
pub fn become_program(supervisor: u32, program: &OsString, arguments: &[OsString]) -> io::Error {
    if let Err(error) = follow(supervisor) {
        return error;
    }
    Command::new(program).args(arguments).exec()
}

#[cfg(target_os = "linux")]
fn follow(supervisor: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::TERM))?;
    // It may have died before the kernel knew.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    match parent == Some(supervisor) {
        true => Ok(()),
        false => Err(io::Error::other("the supervisor is gone")),
    }
}

/// Elsewhere what a dead supervisor leaves is stopped by `dynamo deploy stop`.
#[cfg(not(target_os = "linux"))]
fn follow(_: u32) -> io::Result<()> {
    Ok(())
}
