//! The command line: which command, which forms, which options. Pure but for reading the file
//! that `--config` names.

use crate::commands::{root, with_options};
use crate::deploy::{Child, Verb};
use crate::engine_flags;
use crate::forms::{FormError, Forms, worker_words};
use crate::loader::{Surroundings, read_config};
use crate::schemas::schema;
use clap::{ArgMatches, Command};
use clap_complete::Shell;
use dynamo_config::{ConfigError, Resolved, Sources};
use dynamo_llm::config::WorkerPlaceOptions;
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::discovery::EndpointId;
use std::ffi::OsString;
use std::path::PathBuf;

/// What the command line asks for.
pub(crate) enum Parsed {
    /// To run something.
    Run(Box<Invocation>),
    /// To see a text.
    Print(String),
    /// To write the reference pages to a folder.
    Reference(PathBuf),
    /// To become a process of a graph.
    Become(Child),
}

/// A command to run, and its options.
pub(crate) struct Invocation {
    pub(crate) command: CommandKind,
    pub(crate) options: Resolved,
    /// How often `-v` was given.
    pub(crate) verbosity: u8,
}

/// The commands that run.
#[derive(Debug)]
pub(crate) enum CommandKind {
    /// `run` and `serve`: any input with any output.
    Run(Forms),
    /// The HTTP server for whatever workers announce.
    Frontend,
    /// A worker with the embedded engine, and its model if it is a word.
    LlamaCpp(EndpointId, Option<String>),
    /// Simulated workers.
    Mocker,
    /// The router as a component of its own.
    Router,
    /// Workers' figures for Prometheus.
    Metrics,
    /// The planner: its place on the command line.
    Planner,
    /// Load on a server, measured.
    BenchServe,
    /// Compare routing modes in virtual time.
    BenchRouter,
    /// Measure the router's index.
    BenchIndex,
    /// Replay seeds of the simulator.
    Simulate,
    /// Deploy a graph, or look at one that runs.
    Deploy(Verb),
    /// What is wrong with a frontend's routing.
    DoctorRouting,
    /// Fetch a model and print where it is.
    ModelFetch(String),
    /// Print a model's card.
    ModelShow(String),
}

/// Why the command line makes no sense.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("{0}")]
    Clap(#[from] clap::Error),
    #[error(transparent)]
    Form(#[from] FormError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("dynamo deploy takes its graph with -f: write dynamo deploy -f {0}")]
    GraphWithoutFlag(String),
    #[error("{0:#}")]
    File(#[from] anyhow::Error),
}

/// Reads the command line, the environment and the config file.
pub(crate) fn parse(surroundings: &Surroundings) -> Result<Parsed, UsageError> {
    if let Some(file) = graph_without_flag(&surroundings.arguments) {
        return Err(UsageError::GraphWithoutFlag(file.to_owned()));
    }
    let arguments = with_short_form(&surroundings.arguments);
    let arguments = engine_flags::set_apart(&arguments, || schema("run-python"));
    let matches = root().try_get_matches_from(arguments)?;
    match matches.subcommand() {
        Some(("completions", matches)) => Ok(Parsed::Print(completions(matches))),
        Some(("reference", matches)) => Ok(Parsed::Reference(required_path(matches, "folder"))),
        Some(("model", matches)) => match matches.subcommand() {
            Some((verb, matches)) => {
                let model = required_text(matches, "model");
                let command = match verb {
                    "fetch" => CommandKind::ModelFetch(model),
                    _ => CommandKind::ModelShow(model),
                };
                resolve("model", matches, surroundings, |_| Ok(command))
            }
            None => Ok(Parsed::Print(root().render_long_help().to_string())),
        },
        Some(("frontend", matches)) => resolve("frontend", matches, surroundings, |_| {
            Ok(CommandKind::Frontend)
        }),
        Some(("bench", matches)) => match matches.subcommand() {
            Some(("index", matches)) => resolve("bench-index", matches, surroundings, |_| {
                Ok(CommandKind::BenchIndex)
            }),
            Some(("router", matches)) => resolve("bench-router", matches, surroundings, |_| {
                Ok(CommandKind::BenchRouter)
            }),
            Some((_, matches)) => resolve("bench-serve", matches, surroundings, |_| {
                Ok(CommandKind::BenchServe)
            }),
            None => Ok(Parsed::Print(root().render_long_help().to_string())),
        },
        Some(("doctor", matches)) => match matches.subcommand() {
            Some((_, matches)) => resolve("doctor", matches, surroundings, |_| {
                Ok(CommandKind::DoctorRouting)
            }),
            None => Ok(Parsed::Print(root().render_long_help().to_string())),
        },
        Some(("deploy", matches)) => deploy(matches, surroundings),
        Some((dynamo_deploy::child::COMMAND, matches)) => Ok(Parsed::Become(Child::of(matches))),
        Some(("simulate", matches)) => resolve("simulate", matches, surroundings, |_| {
            Ok(CommandKind::Simulate)
        }),
        Some(("llama_cpp", matches)) => resolve("llama_cpp", matches, surroundings, |options| {
            let words = matches.get_many::<String>("words").into_iter().flatten();
            let place = &options.get::<WorkerPlaceOptions>().endpoint;
            let namespace = &options.get::<RuntimeOptions>().namespace;
            let (endpoint, model) = worker_words(words.map(String::as_str), place, namespace)?;
            Ok(CommandKind::LlamaCpp(endpoint, model))
        }),
        Some(("mocker", matches)) => {
            resolve("mocker", matches, surroundings, |_| Ok(CommandKind::Mocker))
        }
        Some(("router", matches)) => {
            resolve("router", matches, surroundings, |_| Ok(CommandKind::Router))
        }
        Some(("planner", matches)) => resolve("planner", matches, surroundings, |_| {
            Ok(CommandKind::Planner)
        }),
        Some(("metrics", matches)) => resolve("metrics-component", matches, surroundings, |_| {
            Ok(CommandKind::Metrics)
        }),
        Some((_, matches)) => resolve("run", matches, surroundings, |options| {
            let words = matches.get_many::<String>("forms").into_iter().flatten();
            let namespace = &options.get::<RuntimeOptions>().namespace;
            let mut forms = Forms::parse(words.map(String::as_str), namespace)?;
            let words = matches.get_many::<String>("engine-words");
            forms.engine_words = words.into_iter().flatten().cloned().collect();
            Ok(CommandKind::Run(forms))
        }),
        None => Ok(Parsed::Print(root().render_long_help().to_string())),
    }
}

fn deploy(matches: &ArgMatches, surroundings: &Surroundings) -> Result<Parsed, UsageError> {
    let verb = match matches.subcommand() {
        None => ("deploy", matches, Verb::Graph),
        Some(("status", matches)) => (
            "deploy-runs",
            matches,
            Verb::Status(optional_text(matches, "graph")),
        ),
        Some(("logs", matches)) => {
            let (graph, process) = (
                required_text(matches, "graph"),
                optional_text(matches, "process"),
            );
            ("deploy-logs", matches, Verb::Logs(graph, process))
        }
        Some((_, matches)) => (
            "deploy-runs",
            matches,
            Verb::Stop(required_text(matches, "graph")),
        ),
    };
    let (schema, matches, verb) = verb;
    resolve(schema, matches, surroundings, |_| {
        Ok(CommandKind::Deploy(verb))
    })
}

fn resolve(
    name: &str,
    matches: &ArgMatches,
    surroundings: &Surroundings,
    command: impl FnOnce(&Resolved) -> Result<CommandKind, UsageError>,
) -> Result<Parsed, UsageError> {
    let mut sources = Sources::new()
        .args(matches.clone())
        .env(surroundings.environment.iter().cloned());
    let file = matches.get_one::<PathBuf>("config").cloned();
    let file = file.or_else(|| surroundings.variable("DYN_CONFIG").map(PathBuf::from));
    if let Some(path) = file {
        sources = sources.file(read_config(&path)?);
    }
    let options = schema(name).resolve(&sources)?;
    if matches.get_flag("print-config") {
        return Ok(Parsed::Print(options.print()));
    }
    let command = command(&options)?;
    Ok(Parsed::Run(Box::new(Invocation {
        command,
        options,
        verbosity: matches.get_count("verbose"),
    })))
}

/// The options of a process that is not a command of this program, by the name of a schema.
pub(crate) fn options_of(name: &str, surroundings: &Surroundings) -> Result<Resolved, UsageError> {
    let command = with_options(name, Command::new(name.to_owned())).no_binary_name(true);
    let matches = command.try_get_matches_from(&surroundings.arguments)?;
    let sources = Sources::new()
        .args(matches)
        .env(surroundings.environment.iter().cloned());
    Ok(schema(name).resolve(&sources)?)
}

/// The file of `dynamo deploy graph.yaml`.
fn graph_without_flag(arguments: &[OsString]) -> Option<&str> {
    let mut words = arguments.iter().skip(1).map(|word| word.to_str());
    let is_deploy = words.next()? == Some("deploy");
    let file = words.next()?.filter(|_| is_deploy)?;
    (file.ends_with(".yaml") || file.ends_with(".yml")).then_some(file)
}

/// `dynamo --model M` is short for `dynamo run in=text --model M`, and `--out_dir` is what the
/// design of graphs called `--out-dir`.
fn with_short_form(arguments: &[OsString]) -> Vec<OsString> {
    let mut arguments = arguments.to_vec();
    if arguments.get(1).is_some_and(|word| word == "deploy") {
        for word in &mut arguments {
            let rest = word
                .to_str()
                .and_then(|text| text.strip_prefix("--out_dir"));
            if let Some(rest) = rest.filter(|rest| rest.is_empty() || rest.starts_with('=')) {
                *word = format!("--out-dir{rest}").into();
            }
        }
    }
    let first = arguments.get(1).and_then(|word| word.to_str());
    let is_option = first.is_some_and(|word| {
        word.starts_with('-') && !matches!(word, "-h" | "--help" | "-V" | "--version")
    });
    if is_option {
        arguments.splice(1..1, ["run".into(), "in=text".into()]);
    }
    arguments
}

fn completions(matches: &ArgMatches) -> String {
    let mut script = Vec::new();
    if let Some(shell) = matches.get_one::<Shell>("shell") {
        clap_complete::generate(*shell, &mut root(), "dynamo", &mut script);
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// An argument that clap has checked to be there.
fn required_text(matches: &ArgMatches, name: &str) -> String {
    matches.get_one::<String>(name).cloned().unwrap_or_default()
}

fn optional_text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.get_one::<String>(name).cloned()
}

fn required_path(matches: &ArgMatches, name: &str) -> PathBuf {
    matches
        .get_one::<PathBuf>(name)
        .cloned()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schemas::REFERENCE;

    #[test]
    fn the_command_line_and_every_schema_are_sound() {
        root().debug_assert();
        for (command, _) in REFERENCE {
            assert_eq!(schema(command).check(), [""; 0], "{command}");
        }
    }

    #[test]
    fn options_without_a_command_start_a_conversation() {
        let words = |words: &[&str]| -> Vec<OsString> { words.iter().map(Into::into).collect() };
        assert_eq!(
            with_short_form(&words(&["dynamo", "--model", "m.gguf"])),
            words(&["dynamo", "run", "in=text", "--model", "m.gguf"])
        );
        for untouched in [
            vec!["dynamo"],
            vec!["dynamo", "--version"],
            vec!["dynamo", "run", "--threads", "1"],
        ] {
            assert_eq!(with_short_form(&words(&untouched)), words(&untouched));
        }
    }
}
