//! From sources to values: flag, then environment, then file, then default.
//!
//! Only the source that wins is read: what it overrides may hold anything. Every option is
//! resolved even when another one failed, so that one run shows every problem.

use crate::cli;
use crate::error::{ConfigError, Problem};
use crate::file::ConfigFile;
use crate::file_values::{FileValue, file_values};
use crate::nearest::nearest;
use crate::print;
use crate::schema::Schema;
use crate::spec::{Binding, OptionSpec, Options};
use crate::value::{RawValue, Shape, ValueError};
use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag on the command line.
    Flag(String),
    /// An environment variable.
    Env(String),
    /// A line of a configuration file.
    File {
        /// The file, as the user named it.
        name: String,
        /// The line, from 1.
        line: usize,
    },
    /// The declaration.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Env(name) => write!(f, "env {name}"),
            Self::File { name, line } => write!(f, "file {name}:{line}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Everything that may set options, as data: this crate reads neither environment nor files.
#[derive(Clone, Default)]
pub struct Sources {
    /// The parsed command line, of a command made by [`Schema::clap_args`].
    pub args: Option<clap::ArgMatches>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// The configuration file, if one is given.
    pub file: Option<ConfigFile>,
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments and environment may hold secrets.
        f.debug_struct("Sources")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl Sources {
    /// No source: every option has its default.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the command line.
    #[must_use]
    pub fn args(mut self, matches: clap::ArgMatches) -> Self {
        self.args = Some(matches);
        self
    }

    /// Adds environment variables.
    #[must_use]
    pub fn env<K, V>(mut self, variables: impl IntoIterator<Item = (K, V)>) -> Self
    where
        K: Into<String>,
        V: Into<String>,
    {
        let variables = variables.into_iter();
        self.env
            .extend(variables.map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Adds the configuration file.
    #[must_use]
    pub fn file(mut self, file: ConfigFile) -> Self {
        self.file = Some(file);
        self
    }
}

/// An environment variable that looks like an option and is none. Other programs share the
/// prefix, so this is a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownVariable {
    /// The variable.
    pub name: String,
    /// The known variable it most likely means.
    pub nearest: Option<String>,
}

impl fmt::Display for UnknownVariable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown environment variable {}", self.name)?;
        if let Some(nearest) = &self.nearest {
            write!(f, "; did you mean {nearest}")?;
        }
        Ok(())
    }
}

/// An option with its effective value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// What is declared about it.
    pub spec: OptionSpec,
    /// Its value as it may be shown: a secret is masked.
    pub value: RawValue,
    /// Where the value comes from.
    pub source: Source,
}

/// The effective values of every option of a schema.
pub struct Resolved {
    structs: Vec<(TypeId, Filled)>,
    values: Vec<Effective>,
    warnings: Vec<UnknownVariable>,
}

/// A filled struct of options, without its type.
pub(crate) type Filled = Box<dyn Any + Send + Sync>;

impl fmt::Debug for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolved")
            .field("values", &self.values)
            .field("warnings", &self.warnings)
            .finish_non_exhaustive()
    }
}

impl Resolved {
    /// The options of one struct.
    ///
    /// # Panics
    /// If the schema was made without that struct, which is a defect of the caller.
    pub fn get<T: Options>(&self) -> &T {
        self.structs
            .iter()
            .find(|(id, _)| *id == TypeId::of::<T>())
            .and_then(|(_, filled)| filled.downcast_ref())
            .unwrap_or_else(|| panic!("the schema has no options of the group {}", T::GROUP))
    }

    /// Every option with its value and source, in the order of the schema.
    pub fn values(&self) -> &[Effective] {
        &self.values
    }

    /// Where the value of an option comes from.
    pub fn source(&self, key: &str) -> Option<&Source> {
        let effective = self.values.iter().find(|value| value.spec.key == key)?;
        Some(&effective.source)
    }

    /// Environment variables that look like options and are none, in alphabetical order.
    pub fn warnings(&self) -> &[UnknownVariable] {
        &self.warnings
    }

    /// The same without the warnings that `is_unwanted` names.
    #[must_use]
    pub fn without_warnings(mut self, is_unwanted: impl Fn(&UnknownVariable) -> bool) -> Self {
        self.warnings.retain(|warning| !is_unwanted(warning));
        self
    }

    /// The text of `--print-config`: a TOML file that says for each value where it comes from.
    pub fn print(&self) -> String {
        print::effective(&self.values)
    }
}

impl Schema {
    /// Resolves every option, or tells everything that is wrong.
    pub fn resolve(&self, sources: &Sources) -> Result<Resolved, ConfigError> {
        let mut outcome = Outcome::default();
        let file = match &sources.file {
            Some(file) => file_values(self, file, &mut outcome.problems),
            None => BTreeMap::new(),
        };
        let layers = Layers { sources, file };
        let structs = self
            .groups
            .iter()
            .map(|group| (group.type_id, (group.fill)(&layers, &mut outcome)))
            .collect();
        if !outcome.problems.is_empty() {
            return Err(ConfigError {
                problems: outcome.problems,
            });
        }
        Ok(Resolved {
            structs,
            values: outcome.values,
            warnings: self.unknown_variables(&sources.env),
        })
    }

    fn unknown_variables(&self, env: &BTreeMap<String, String>) -> Vec<UnknownVariable> {
        let known = self.env_names();
        env.keys()
            .filter(|name| name.starts_with(self.env_prefix) && !known.contains(name.as_str()))
            .map(|name| UnknownVariable {
                name: name.clone(),
                nearest: self.nearest_variable(name, &known),
            })
            .collect()
    }

    /// The prefix is left out of the comparison: every name has it.
    fn nearest_variable(&self, name: &str, known: &BTreeSet<&str>) -> Option<String> {
        let rests = known
            .iter()
            .filter_map(|name| name.strip_prefix(self.env_prefix));
        let rest = nearest(name.strip_prefix(self.env_prefix)?, rests)?;
        Some(format!("{}{rest}", self.env_prefix))
    }
}

/// Where the values of a struct are looked for.
pub(crate) struct Layers<'a> {
    sources: &'a Sources,
    file: BTreeMap<&'static str, FileValue>,
}

/// What came of resolving.
#[derive(Default)]
pub(crate) struct Outcome {
    values: Vec<Effective>,
    problems: Vec<Problem>,
}

impl Layers<'_> {
    /// The value that wins, with its source.
    fn find(&self, spec: &OptionSpec) -> Option<(RawValue, Source)> {
        self.flag(spec)
            .or_else(|| self.env(spec))
            .or_else(|| self.file(spec))
    }

    fn flag(&self, spec: &OptionSpec) -> Option<(RawValue, Source)> {
        let (flag, raw) = cli::given(self.sources.args.as_ref()?, spec)?;
        Some((raw, Source::Flag(flag)))
    }

    fn env(&self, spec: &OptionSpec) -> Option<(RawValue, Source)> {
        let (name, text) = spec
            .env
            .iter()
            .find_map(|name| self.sources.env.get_key_value(*name))?;
        let raw = match spec.shape {
            Shape::One | Shape::Optional => RawValue::One(text.clone()),
            Shape::Many => RawValue::Many(env_items(text)),
        };
        Some((raw, Source::Env(name.clone())))
    }

    fn file(&self, spec: &OptionSpec) -> Option<(RawValue, Source)> {
        let value = self.file.get(spec.key)?;
        Some((value.raw.clone(), value.source.clone()))
    }
}

/// Items of a list in an environment variable: parted by commas and white space.
fn env_items(text: &str) -> Vec<String> {
    text.split(|char: char| char == ',' || char.is_whitespace())
        .filter(|item| !item.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Fills a struct of options and notes what came of each.
pub(crate) fn fill<T: Options>(layers: &Layers<'_>, outcome: &mut Outcome) -> Filled {
    let mut options = T::default();
    for binding in options.bindings() {
        fill_one(binding, layers, outcome);
    }
    Box::new(options)
}

fn fill_one(mut binding: Binding<'_>, layers: &Layers<'_>, outcome: &mut Outcome) {
    let found = layers.find(&binding.spec);
    let spec = &binding.spec;
    let result = match &found {
        Some((raw, source)) => binding
            .slot
            .set(raw)
            .map_err(|error| refusal(spec, raw, source, error)),
        None => Ok(()),
    };
    let source = found.map_or(Source::Default, |(_, source)| source);
    let value = binding.slot.get();
    if let Err(problem) = result {
        outcome.problems.push(problem);
    } else if spec.required && is_without_value(spec, &value, &source) {
        outcome.problems.push(Problem::Required {
            key: spec.key.to_owned(),
            ways: ways(spec),
        });
    }
    outcome.values.push(Effective {
        spec: binding.spec,
        value,
        source,
    });
}

fn refusal(spec: &OptionSpec, raw: &RawValue, source: &Source, error: ValueError) -> Problem {
    Problem::Value {
        key: spec.key.to_owned(),
        place: source.clone(),
        value: (!spec.secret).then(|| shown(raw)),
        error,
    }
}

/// A required option needs a source; an optional one that a source unset is still without value.
fn is_without_value(spec: &OptionSpec, value: &RawValue, source: &Source) -> bool {
    *source == Source::Default || spec.is_unset(value)
}

fn shown(raw: &RawValue) -> String {
    match raw {
        RawValue::Unset => "null".to_owned(),
        RawValue::One(text) => text.clone(),
        RawValue::Many(texts) => texts.join(", "),
    }
}

/// Every way to give an option, for messages.
fn ways(spec: &OptionSpec) -> String {
    let mut ways = vec![format!("flag {}", spec.flag)];
    ways.extend(spec.env.iter().map(|name| format!("env {name}")));
    ways.push(format!("key {} of the configuration file", spec.key));
    ways.join(" or ")
}
