//! The options of one command: several structs under one roof.

use crate::cli;
use crate::reference;
use crate::resolve::{Filled, Layers, Outcome, fill};
use crate::schema_check;
use crate::spec::{Binding, OptionSpec, Options, prose};
use std::any::TypeId;
use std::collections::BTreeSet;
use std::fmt;

/// Prefix of the variables that are ours; others are nobody's business here.
const ENV_PREFIX: &str = "DYN_";

/// The options of one command.
#[derive(Debug, Clone)]
pub struct Schema {
    pub(crate) groups: Vec<Group>,
    pub(crate) env_prefix: &'static str,
    foreign_env: BTreeSet<String>,
}

impl Default for Schema {
    fn default() -> Self {
        Self::new()
    }
}

/// One struct of options.
#[derive(Clone)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) doc: String,
    pub(crate) specs: Vec<OptionSpec>,
    /// Defaults that their own option refuses.
    pub(crate) bad_defaults: Vec<String>,
    pub(crate) type_id: TypeId,
    pub(crate) fill: fn(&Layers<'_>, &mut Outcome) -> Filled,
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.name)
            .field("specs", &self.specs)
            .finish_non_exhaustive()
    }
}

impl Schema {
    /// A command without options.
    pub fn new() -> Self {
        Self {
            groups: Vec::new(),
            env_prefix: ENV_PREFIX,
            foreign_env: BTreeSet::new(),
        }
    }

    /// Adds a struct of options.
    #[must_use]
    pub fn with<T: Options>(mut self) -> Self {
        self.groups.push(Group {
            name: T::GROUP,
            doc: prose(T::DOC),
            specs: T::specs(),
            bad_defaults: bad_defaults::<T>(),
            type_id: TypeId::of::<T>(),
            fill: fill::<T>,
        });
        self
    }

    /// Names environment variables that belong to other commands: they are no typing errors.
    #[must_use]
    pub fn with_foreign_env<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Self {
        self.foreign_env.extend(names.into_iter().map(Into::into));
        self
    }

    /// Every option, in the order of declaration.
    pub fn specs(&self) -> impl Iterator<Item = &OptionSpec> {
        self.groups.iter().flat_map(|group| &group.specs)
    }

    /// Every environment variable that some option reads or that is known to be foreign.
    pub fn env_names(&self) -> BTreeSet<&str> {
        self.specs()
            .flat_map(|spec| spec.env.iter().copied())
            .chain(self.foreign_env.iter().map(String::as_str))
            .collect()
    }

    /// Adds the flags of every option to a command, under one heading per struct. Values are
    /// checked by [`Schema::resolve`] and not by clap, so that every problem is told at once.
    pub fn clap_args(&self, command: clap::Command) -> clap::Command {
        cli::with_args(self, command)
    }

    /// Defects of the declarations: names given twice, names out of form, defaults out of bounds.
    /// Empty if there are none; every component's tests assert that.
    pub fn check(&self) -> Vec<String> {
        schema_check::defects(self)
    }

    /// The reference page of the options, in Markdown.
    pub fn reference_markdown(&self, title: &str) -> String {
        reference::markdown(self, title)
    }

    /// The declarations for other programs, such as the Python package and the operator.
    pub fn json(&self) -> serde_json::Value {
        reference::json(self)
    }

    pub(crate) fn group(&self, name: &str) -> Option<&Group> {
        self.groups
            .iter()
            .find(|group| group.name.replace('-', "_") == name)
    }
}

/// What the options of a struct say to their own defaults, as text.
fn bad_defaults<T: Options>() -> Vec<String> {
    let mut options = T::default();
    let bindings = options.bindings().into_iter();
    bindings
        // A secret's text is not its value, and a required option's default is never used.
        .filter(|binding| !binding.spec.secret && !binding.spec.required)
        .filter_map(|mut binding| {
            let default = binding.spec.default.clone();
            let error = match binding.slot.set(&default) {
                Ok(()) if binding.slot.get() == default => return None,
                Ok(()) => "reads back as something else".to_owned(),
                Err(error) => error.to_string(),
            };
            let Binding { spec, .. } = binding;
            Some(format!("{}.{}: the default {error}", spec.group, spec.key))
        })
        .collect()
}
