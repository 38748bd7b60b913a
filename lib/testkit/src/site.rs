//! Where a process runs: on this machine as it is, or behind words that put it elsewhere, such as
//! into a network namespace.

use std::process::{Command, Stdio};

/// Where programs are looked for: tests clear the environment of what they start.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    prefix: Vec<String>,
    host: String,
}

impl Site {
    /// Commands begin with these words, and what they start listens on `host`.
    pub fn new(prefix: &[&str], host: &str) -> Self {
        Self {
            prefix: prefix.iter().map(|&word| word.to_owned()).collect(),
            host: host.to_owned(),
        }
    }

    /// This machine's loopback.
    pub fn local() -> Self {
        Self::new(&[], "127.0.0.1")
    }

    /// The address to listen on.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// A command that the kernel ends with the thread that started it, so that a test that is
    /// killed leaves nothing.
    pub fn command(&self, program: &str) -> Command {
        let prefix = self.prefix.iter().map(String::as_str);
        let mut words = prefix.chain(["setpriv", "--pdeathsig", "KILL", program]);
        let mut command = Command::new(words.next().unwrap());
        command.args(words).env("PATH", PATH).stdin(Stdio::null());
        command
    }
}
