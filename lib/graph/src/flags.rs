//! What is known of the flags of this project's own programs. Whoever knows their declarations
//! passes them in: this crate knows none.

use crate::graph::ParameterValue;

/// Knows flags of commands.
pub trait KnownFlags {
    /// What is wrong with a parameter of a command, such as `frontend` or `serve`; `output` is
    /// what `serve` answers with. Nothing, if all is well or if the command is not known.
    fn problem(
        &self,
        command: &str,
        output: Option<&str>,
        parameter: &str,
        value: &ParameterValue,
    ) -> Option<String>;

    /// Whether a command takes several values of a parameter as the flag several times. Programs
    /// that are not known take them all after one flag, as Python's `argparse` does.
    fn repeats(&self, command: &str, output: Option<&str>, parameter: &str) -> bool;
}

/// Knows nothing, and lets every flag pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyFlags;

impl KnownFlags for AnyFlags {
    fn problem(&self, _: &str, _: Option<&str>, _: &str, _: &ParameterValue) -> Option<String> {
        None
    }

    fn repeats(&self, _: &str, _: Option<&str>, _: &str) -> bool {
        false
    }
}
