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
}

/// Knows nothing, and lets every flag pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct AnyFlags;

impl KnownFlags for AnyFlags {
    fn problem(&self, _: &str, _: Option<&str>, _: &str, _: &ParameterValue) -> Option<String> {
        None
    }
}
