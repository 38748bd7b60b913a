//! What the process finds around it: environment, config file, terminals. Read here, once, and
//! handed on as data.

use anyhow::{Context, bail};
use dynamo_config::{ConfigFile, Format};
use dynamo_runtime::discovery::SystemFolders;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr, stdin};
use std::path::{Path, PathBuf};

/// Everything outside of the process that it may depend on.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) environment: Vec<(String, String)>,
    /// The Python that runs this, if one does.
    pub(crate) interpreter: Option<PathBuf>,
    pub(crate) temp_dir: PathBuf,
    pub(crate) stdin_is_terminal: bool,
    pub(crate) stderr_is_terminal: bool,
}

impl Surroundings {
    #[expect(clippy::disallowed_methods, reason = "this is the one loader")]
    pub(crate) fn of_this_process(arguments: Vec<OsString>) -> Self {
        // A variable that is not Unicode is nobody's option: the others are still read.
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            arguments,
            environment,
            interpreter: None,
            temp_dir: std::env::temp_dir(),
            stdin_is_terminal: stdin().is_terminal(),
            stderr_is_terminal: stderr().is_terminal(),
        }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found
            .map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }

    pub(crate) fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").map(PathBuf::from)
    }

    pub(crate) fn system_folders(&self) -> SystemFolders {
        SystemFolders {
            runtime_dir: self.variable("XDG_RUNTIME_DIR").map(PathBuf::from),
            temp_dir: self.temp_dir.clone(),
        }
    }

    /// The user's folder for what can be fetched again.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        let own = self.variable("XDG_CACHE_HOME").map(PathBuf::from);
        let own = own.or_else(|| Some(self.home()?.join(".cache")));
        own.unwrap_or_else(|| self.temp_dir.clone()).join("dynamo")
    }
}

/// Reads the file that `--config` names.
pub(crate) fn read_config(path: &Path) -> anyhow::Result<ConfigFile> {
    let name = path.display().to_string();
    let Some(format) = Format::from_name(&name) else {
        bail!("{name} is neither YAML nor TOML by its name; call it .yaml, .yml or .toml");
    };
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the config file {name}"))?;
    Ok(ConfigFile::new(name, text, format))
}
