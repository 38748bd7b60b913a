//! The command line: which command, which forms, which options. Pure but for reading the file
//! that `--config` names.

use crate::deploy::{Child, Verb};
use crate::forms::{FormError, Forms, worker_words};
use crate::loader::{Surroundings, read_config};
use crate::schemas::schema;
use clap::{Arg, ArgAction, ArgMatches, Command, ValueHint, value_parser};
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
    #[error("{0:#}")]
    File(#[from] anyhow::Error),
}

const RUN_HELP: &str = "\
Forms:
  in=text|stdin|http|batch:FILE.jsonl|dyn://NAMESPACE.COMPONENT.ENDPOINT|none
  out=echo|llamacpp|vllm|sglang|trtllm|auto|dyn://NAMESPACE.COMPONENT.ENDPOINT|http://HOST:PORT
  MODEL  a GGUF file, a Hugging Face folder, or a Hugging Face id

  in defaults to text in a terminal and to stdin otherwise, out to llamacpp with a model and to
  auto without one.

Examples:
  dynamo run in=http out=llamacpp model.gguf     one process, OpenAI-compatible server
  dynamo run in=dyn://dynamo.backend.generate out=llamacpp model.gguf     a worker
  dynamo run in=http out=auto                    a frontend for whatever workers announce
  dynamo run in=http out=vllm Qwen/Qwen3-0.6B -- --max-model-len 8192     an engine in Python
  dynamo run in=http out=http://a:8000 out=http://b:8000     OpenAI-compatible servers as they are
  dynamo run in=batch:prompts.jsonl out=llamacpp model.gguf";

const LLAMA_CPP_HELP: &str = "\
Examples:
  dynamo llama_cpp model.gguf                    a worker at dyn://dynamo.backend.generate
  dynamo llama_cpp dyn://mine.backend.generate --model-path model.gguf --threads 4
                                                 one of another namespace";

const MOCKER_HELP: &str = "\
Examples:
  dynamo mocker                                  one worker, bytes as tokens, no files needed
  dynamo mocker --model-path FOLDER --model-name NAME --num-workers 16 --speedup-ratio 10
                                                 a fleet with a real model's tokenizer";

const BENCH_SERVE_HELP: &str = "\
Examples:
  dynamo bench serve --concurrency 16 --requests 500        16 clients, each asks when answered
  dynamo bench serve --request-rate 20 --duration 1m        20 arrivals a second, come what may
  dynamo bench serve --trace trace.jsonl --trace-speedup 10 a recorded day in a tenth of its time
  dynamo bench serve --turns 5 --prefix-tokens 1000 --goodput ttft:500ms,itl:50ms --report r.html";

const ROUTER_HELP: &str = "\
Examples:
  dynamo router                                  say over HTTP where requests should go
  dynamo router --endpoint dyn://dynamo.backend.generate --serve-endpoint dyn://routed.router.generate
                                                 route for frontends started with --namespace routed";

const DEPLOY_HELP: &str = "\
Examples:
  dynamo deploy -f graph.yaml --target k8s --out-dir manifests     manifests for kubectl apply
  dynamo deploy -f graph.yaml --crd              a DynamoGraphDeployment for an operator
  dynamo deploy -f graph.yaml --target slurm     a job; its submit.sh submits it
  dynamo deploy -f graph.yaml --target local     run it here until Ctrl-C
  dynamo deploy status                           what runs here, from another terminal
  dynamo deploy -f graph.yaml --check            only check it, and show its commands";

const METRICS_HELP: &str = "\
Examples:
  dynamo metrics                                 every worker, at http://127.0.0.1:9091/metrics
  dynamo metrics --component backend --endpoint generate --host 0.0.0.0 --port 9091
                                                 one endpoint's, for a Prometheus elsewhere";

/// Reads the command line, the environment and the config file.
pub(crate) fn parse(surroundings: &Surroundings) -> Result<Parsed, UsageError> {
    let matches = root().try_get_matches_from(with_short_form(&surroundings.arguments))?;
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

/// The whole command line, for parsing and for shell completions.
pub(crate) fn root() -> Command {
    Command::new("dynamo")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Distributed LLM inference: one command from a laptop to a cluster")
        .after_help("dynamo --model MODEL is short for: dynamo run in=text --model MODEL")
        .subcommand_required(false)
        .subcommand(run_command(
            "run",
            "Connect an input to an engine, in one process",
        ))
        .subcommand(run_command(
            "serve",
            "Serve one component; the same forms as run",
        ))
        .subcommand(with_options(
            "frontend",
            Command::new("frontend")
                .about("Serve the OpenAI API for whatever models workers announce"),
        ))
        .subcommand(llama_cpp_command())
        .subcommand(with_options(
            "mocker",
            Command::new("mocker")
                .about("Serve simulated workers: real scheduling and KV events, invented tokens")
                .after_help(MOCKER_HELP),
        ))
        .subcommand(with_options(
            "router",
            Command::new("router")
                .about("Route requests as a component of its own: for frontends, and over HTTP")
                .after_help(ROUTER_HELP),
        ))
        .subcommand(with_options(
            "metrics-component",
            Command::new("metrics")
                .about("Show workers' load and KV caches per endpoint to Prometheus")
                .after_help(METRICS_HELP),
        ))
        .subcommand(with_options(
            "planner",
            Command::new("planner")
                .about("Scale workers to hold latency targets (not part of this version)"),
        ))
        .subcommand(model_command())
        .subcommand(bench_command())
        .subcommand(doctor_command())
        .subcommand(deploy_command())
        .subcommand(Child::command())
        .subcommand(with_options(
            "simulate",
            Command::new("simulate").about(
                "Replay a seed of the deterministic simulation: a cluster under faults, in virtual time",
            ),
        ))
        .subcommand(
            Command::new("completions")
                .about("Print completions for a shell")
                .arg(
                    Arg::new("shell")
                        .required(true)
                        .value_parser(value_parser!(Shell)),
                ),
        )
        .subcommand(
            Command::new("reference")
                .about("Write the reference pages of all options")
                .hide(true)
                .arg(
                    Arg::new("folder")
                        .required(true)
                        .value_parser(value_parser!(PathBuf)),
                ),
        )
}

fn run_command(name: &'static str, about: &'static str) -> Command {
    let forms = Arg::new("forms")
        .value_name("in=INPUT out=OUTPUT MODEL")
        .num_args(0..)
        .help("What asks, what answers, and the model, in any order");
    with_options(
        "run",
        Command::new(name)
            .about(about)
            .arg(forms)
            .arg(
                Arg::new("engine-words")
                    .value_name("ENGINE FLAGS")
                    .num_args(0..)
                    .last(true)
                    .allow_hyphen_values(true)
                    .help("Flags of the engine itself, for out=vllm, sglang and trtllm"),
            )
            .after_help(RUN_HELP),
    )
}

fn llama_cpp_command() -> Command {
    let words = Arg::new("words")
        .value_name("dyn://ENDPOINT MODEL")
        .num_args(0..)
        .help("Where to serve, and the model, in any order");
    with_options(
        "llama_cpp",
        Command::new("llama_cpp")
            .alias("llama-cpp")
            .about("Serve a GGUF model as a worker, with the embedded engine")
            .arg(words)
            .after_help(LLAMA_CPP_HELP),
    )
}

fn model_command() -> Command {
    let model = |help: &'static str| {
        Arg::new("model")
            .required(true)
            .value_name("MODEL")
            .help(help)
    };
    let fetch = Command::new("fetch")
        .about("Fetch a model from the Hugging Face hub and print where it is")
        .arg(model(
            "A Hugging Face id: ORG/NAME, ORG/NAME@REVISION or ORG/NAME:FILE.gguf",
        ));
    let show = Command::new("show")
        .about("Print what is known about a model, as JSON")
        .arg(model("A GGUF file, a Hugging Face folder, or an id"));
    Command::new("model")
        .about("Look at models and fetch them")
        .arg_required_else_help(true)
        .subcommand(with_options("model", fetch))
        .subcommand(with_options("model", show))
}

fn bench_command() -> Command {
    let serve = Command::new("serve")
        .about("Send load to any OpenAI-compatible server and measure what comes back")
        .after_help(BENCH_SERVE_HELP);
    let router = Command::new("router").about(
        "Replay a trace through the router and simulated workers in virtual time, and compare modes",
    );
    let index = Command::new("index")
        .about("Measure the router's index of KV blocks on a trace; prints one line of JSON");
    Command::new("bench")
        .about("Measure servers")
        .arg_required_else_help(true)
        .subcommand(with_options("bench-serve", serve))
        .subcommand(with_options("bench-router", router))
        .subcommand(with_options("bench-index", index))
}

fn doctor_command() -> Command {
    let routing = Command::new("routing").about(
        "Say why a frontend's KV-aware routing finds too little in caches, and what mends it",
    );
    Command::new("doctor")
        .about("Look for what is wrong with a running service")
        .arg_required_else_help(true)
        .subcommand(with_options("doctor", routing))
}

fn deploy_command() -> Command {
    let graph = |required: bool| {
        Arg::new("graph")
            .required(required)
            .value_name("NAME")
            .help("The graph's name")
    };
    let process = Arg::new("process")
        .value_name("PROCESS")
        .help("Only this process, or those of this component");
    let status = Command::new("status").about("Show graphs that run on this machine");
    let logs = Command::new("logs").about("Show what the processes of a graph logged");
    let stop = Command::new("stop").about("Stop a graph: frontends finish first, then workers");
    let command = Command::new("deploy")
        .about("Deploy a graph of components: on Kubernetes, on Slurm or on this machine")
        .args_conflicts_with_subcommands(true)
        .after_help(DEPLOY_HELP)
        .subcommand(with_options("deploy-runs", status.arg(graph(false))))
        .subcommand(with_options(
            "deploy-logs",
            logs.arg(graph(true)).arg(process),
        ))
        .subcommand(with_options("deploy-runs", stop.arg(graph(true))));
    with_options("deploy", command)
}

/// Adds the options of `name`, and what every command has.
fn with_options(name: &str, command: Command) -> Command {
    // There, the file is the graph.
    let short = (name != "deploy").then_some('f');
    let command = command
        .arg(
            Arg::new("verbose")
                .short('v')
                .action(ArgAction::Count)
                .help("Log more: -v is --log-level debug, -vv is --log-level trace"),
        )
        .arg(
            Arg::new("config")
                .long("config")
                .short(short)
                .value_name("FILE")
                .value_hint(ValueHint::FilePath)
                .value_parser(value_parser!(PathBuf))
                .help("Read options from a YAML or TOML file [env: DYN_CONFIG]"),
        )
        .arg(
            Arg::new("print-config")
                .long("print-config")
                .action(ArgAction::SetTrue)
                .help("Print every option with its value and where it came from, and exit"),
        );
    schema(name).clap_args(command)
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
