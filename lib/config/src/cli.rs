//! Options as flags of a clap command, and back.
//!
//! Every argument is taken as text: clap sees to names, we see to values. A flag given twice
//! counts the second time, so that a script can append what it overrides.

use crate::choices::Choice;
use crate::schema::Schema;
use crate::spec::{OptionSpec, prose};
use crate::value::{Kind, RawValue, Shape};
use clap::builder::{PossibleValue, StringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::ffi::OsStr;

/// Adds the flags of every option to a command, under one heading per group.
pub(crate) fn with_args(schema: &Schema, command: Command) -> Command {
    schema.groups.iter().fold(command, |command, group| {
        let heading = heading(group.name);
        let args = group.specs.iter().flat_map(|spec| {
            let off = spec.is_switch().then(|| off_arg(spec));
            std::iter::once(arg(spec)).chain(off)
        });
        command.args(args.map(|arg| arg.help_heading(heading.clone())))
    })
}

/// The flag that is given, with its value.
pub(crate) fn given(matches: &ArgMatches, spec: &OptionSpec) -> Option<(String, RawValue)> {
    if spec.is_switch() && is_off(matches, spec) {
        let flag = format!("--no-{}", spec.flag.trim_start_matches('-'));
        return Some((flag, RawValue::One(false.to_string())));
    }
    // An id that the command does not have reads like one that is not given.
    let texts = matches.try_get_many::<String>(spec.key).ok().flatten()?;
    let mut texts: Vec<String> = texts.cloned().collect();
    let raw = match spec.shape {
        Shape::One | Shape::Optional => RawValue::One(texts.pop()?),
        Shape::Many => RawValue::Many(texts),
    };
    Some((spec.flag.clone(), raw))
}

fn is_off(matches: &ArgMatches, spec: &OptionSpec) -> bool {
    matches
        .try_get_one::<bool>(&off_id(spec))
        .ok()
        .flatten()
        .copied()
        .unwrap_or(false)
}

fn heading(group: &str) -> String {
    let mut letters = group.chars();
    let first = letters.next().map(|char| char.to_ascii_uppercase());
    let name: String = first.into_iter().chain(letters).collect();
    format!("{} options", name.replace(['-', '_'], " "))
}

fn arg(spec: &OptionSpec) -> Arg {
    let mut arg = Arg::new(spec.key)
        .long(spec.flag.trim_start_matches('-').to_owned())
        .visible_aliases(spec.aliases.iter().map(|flag| flag.trim_start_matches('-')))
        .aliases(
            spec.deprecated_aliases
                .iter()
                .map(|flag| flag.trim_start_matches('-')),
        )
        .value_parser(Texts(spec.choices))
        .value_name(value_name(spec.kind))
        .help(help(spec, first_paragraph(&spec.doc)))
        .long_help(help(spec, &spec.doc));
    if let Some(letter) = spec.short {
        arg = arg.short(letter);
    }
    if matches!(spec.kind, Kind::Integer | Kind::Number) {
        arg = arg.allow_negative_numbers(true);
    }
    if spec.kind == Kind::Path {
        arg = arg.value_hint(clap::ValueHint::AnyPath);
    }
    match spec.shape {
        Shape::Many => arg.action(ArgAction::Append),
        Shape::One | Shape::Optional if spec.is_switch() => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .overrides_with_all([spec.key.to_owned(), off_id(spec)]),
        Shape::One | Shape::Optional => arg.overrides_with(spec.key),
    }
}

/// The flag that turns a switch off. It shares the help of the one that turns it on.
fn off_arg(spec: &OptionSpec) -> Arg {
    let mut flags = spec.long_flags().map(|flag| format!("no-{flag}"));
    let arg = Arg::new(off_id(spec)).action(ArgAction::SetTrue).hide(true);
    let arg = match flags.next() {
        Some(flag) => arg.long(flag),
        None => arg,
    };
    arg.aliases(flags)
        .overrides_with_all([spec.key.to_owned(), off_id(spec)])
}

/// The id of the flag that turns a switch off: no field can have that name.
fn off_id(spec: &OptionSpec) -> String {
    format!("no:{}", spec.key)
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Bool => "BOOL",
        Kind::Integer | Kind::Number => "NUMBER",
        Kind::Text => "TEXT",
        Kind::Path => "PATH",
        Kind::Duration => "DURATION",
        Kind::Size => "SIZE",
        Kind::Choice => "CHOICE",
        Kind::Secret => "SECRET",
    }
}

fn first_paragraph(doc: &str) -> &str {
    doc.split("\n\n").next().unwrap_or(doc)
}

/// The doc text, followed by what clap is not told.
fn help(spec: &OptionSpec, doc: &str) -> String {
    let mut facts = Vec::new();
    if spec.is_switch() {
        let name = spec.flag.trim_start_matches('-');
        facts.push(format!("[--no-{name} turns it off]"));
    }
    if let Some(bounds) = spec.bounds() {
        facts.push(format!("[{bounds}]"));
    }
    match &spec.default {
        _ if spec.required => facts.push("[required]".to_owned()),
        value if spec.is_unset(value) => {}
        RawValue::One(text) if !text.is_empty() => facts.push(format!("[default: {text}]")),
        RawValue::Many(texts) if !texts.is_empty() => {
            facts.push(format!("[default: {}]", texts.join(",")));
        }
        RawValue::One(_) | RawValue::Many(_) | RawValue::Unset => {}
    }
    facts.extend(spec.env.first().map(|name| format!("[env: {name}]")));
    format!("{doc} {}", facts.join(" "))
}

/// Takes any text, and shows the words of a choice in help and completions.
#[derive(Clone)]
struct Texts(&'static [Choice]);

impl TypedValueParser for Texts {
    type Value = String;

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, arg, value)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        if self.0.is_empty() {
            return None;
        }
        Some(Box::new(self.0.iter().map(|choice| {
            PossibleValue::new(choice.name)
                .aliases(choice.aliases.iter().copied())
                .help(prose(choice.doc))
        })))
    }
}
