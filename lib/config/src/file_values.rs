//! Which option each entry of a configuration file belongs to.
//!
//! An option stands at the top of the file by its key, or below the name of its group. Anything
//! else is an error that names the nearest known key: a misspelt key must not be a default.

use crate::error::Problem;
use crate::file::{ConfigFile, Content, Entry};
use crate::nearest::nearest;
use crate::resolve::Source;
use crate::schema::{Group, Schema};
use crate::spec::OptionSpec;
use crate::value::{RawValue, Shape};
use std::collections::BTreeMap;

/// An option's value in the file.
pub(crate) struct FileValue {
    pub(crate) raw: RawValue,
    pub(crate) source: Source,
    line: usize,
}

/// The values of a file by the keys of their options.
pub(crate) fn file_values(
    schema: &Schema,
    file: &ConfigFile,
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, FileValue> {
    let mut collector = Collector {
        schema,
        file,
        problems,
        values: BTreeMap::new(),
    };
    match file.entries() {
        Ok(entries) => collector.top(entries),
        Err(error) => collector.problems.push(Problem::Syntax {
            place: source(file, error.line),
            message: error.message,
        }),
    }
    collector.values
}

struct Collector<'a> {
    schema: &'a Schema,
    file: &'a ConfigFile,
    problems: &'a mut Vec<Problem>,
    values: BTreeMap<&'static str, FileValue>,
}

impl Collector<'_> {
    fn top(&mut self, entries: Vec<Entry>) {
        let schema = self.schema;
        for entry in entries {
            if let Some(spec) = schema.specs().find(|spec| spec.key == entry.key) {
                self.option(spec, entry);
            } else if let Some(group) = schema.group(&entry.key) {
                self.group(group, entry);
            } else {
                let nearest = self.nearest_anywhere(&entry.key);
                self.unknown(entry.key, entry.line, nearest);
            }
        }
    }

    fn group(&mut self, group: &Group, entry: Entry) {
        let inner = match entry.content {
            Content::Table(inner) => inner,
            // A group whose keys are all commented out.
            Content::Value(RawValue::Unset) => return,
            Content::Value(_) | Content::Nested => {
                let expected = format!("the options of the group {} below it", group.name);
                return self.nesting(entry.key, entry.line, expected);
            }
        };
        for entry in inner {
            if let Some(spec) = group.specs.iter().find(|spec| spec.key == entry.key) {
                self.option(spec, entry);
                continue;
            }
            let nearest = nearest(&entry.key, group.specs.iter().flat_map(names))
                .and_then(|name| self.canonical(name))
                .or_else(|| self.nearest_anywhere(&entry.key));
            let key = format!("{}.{}", group.name, entry.key);
            self.unknown(key, entry.line, nearest);
        }
    }

    fn option(&mut self, spec: &OptionSpec, entry: Entry) {
        let Content::Value(raw) = entry.content else {
            let expected = match spec.shape {
                Shape::One | Shape::Optional => format!("one value: {}", spec.form),
                Shape::Many => format!("a list of values, each {}", spec.form),
            };
            return self.nesting(entry.key, entry.line, expected);
        };
        let value = FileValue {
            raw,
            source: source(self.file, entry.line),
            line: entry.line,
        };
        if let Some(first) = self.values.get(spec.key) {
            self.problems.push(Problem::Duplicate {
                key: entry.key,
                place: value.source,
                first: first.line,
            });
            return;
        }
        self.values.insert(spec.key, value);
    }

    fn unknown(&mut self, key: String, line: usize, nearest: Option<String>) {
        self.problems.push(Problem::UnknownKey {
            key,
            place: source(self.file, line),
            nearest,
        });
    }

    fn nesting(&mut self, key: String, line: usize, expected: String) {
        self.problems.push(Problem::Nesting {
            key,
            place: source(self.file, line),
            expected,
        });
    }

    /// The option or group whose name is nearest, the names of options' aliases included.
    fn nearest_anywhere(&self, key: &str) -> Option<String> {
        let groups = self.schema.groups.iter().map(|group| group.name);
        let name = nearest(key, self.schema.specs().flat_map(names).chain(groups))?;
        self.canonical(name).or_else(|| Some(name.to_owned()))
    }

    /// `group.key` of the option that a name belongs to.
    fn canonical(&self, name: &str) -> Option<String> {
        let mut specs = self.schema.specs();
        let spec = specs.find(|spec| names(spec).any(|own| own == name))?;
        Some(format!("{}.{}", spec.group, spec.key))
    }
}

/// Every name of an option: its key, and its flags without dashes in front.
fn names(spec: &OptionSpec) -> impl Iterator<Item = &str> {
    std::iter::once(spec.key).chain(spec.long_flags())
}

fn source(file: &ConfigFile, line: usize) -> Source {
    Source::File {
        name: file.name.clone(),
        line,
    }
}
