//! Every command with its words of help: the tree that the command line is parsed by.

use crate::deploy::Child;
use crate::schemas::schema;
use clap::{Arg, ArgAction, Command, ValueHint, value_parser};
use clap_complete::Shell;
use std::path::PathBuf;

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
  dynamo run in=http out=vllm Qwen/Qwen3-0.6B --max-model-len 8192     an engine in Python
  dynamo run in=http out=http://a:8000 out=http://b:8000     OpenAI-compatible servers as they are
  dynamo run in=batch:prompts.jsonl out=llamacpp model.gguf";

const SERVE_HELP: &str = "\
A graph of components in Python, each a process of its own:
  dynamo serve MODULE:GRAPH -f FILE      dynamo serve MODULE:GRAPH --help says more
  dynamo serve examples.mocker.agg:GRAPH -f configs/deployments/mocker/agg.yaml

One component:";

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

/// The whole command line, for parsing and for shell completions.
pub(crate) fn root() -> Command {
    Command::new("dynamo")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Distributed LLM inference: one command from a laptop to a cluster")
        .after_help("dynamo --model MODEL is short for: dynamo run in=text --model MODEL")
        .subcommand_required(false)
        .subcommand(
            run_command("run", "Connect an input to an engine, in one process")
                .after_help(RUN_HELP),
        )
        .subcommand(
            run_command(
                "serve",
                "Serve a graph of components, or one component; the same forms as run",
            )
            .override_usage("dynamo serve MODULE:GRAPH -f FILE\n       dynamo serve [OPTIONS] [in=INPUT out=OUTPUT MODEL]... [-- [ENGINE FLAGS]...]")
            .after_help(format!("{SERVE_HELP}\n{RUN_HELP}")),
        )
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
        Command::new(name).about(about).arg(forms).arg(
            Arg::new("engine-words")
                .value_name("ENGINE FLAGS")
                .num_args(0..)
                .last(true)
                .allow_hyphen_values(true)
                .help(
                    "Flags of the engine itself, for out=vllm, sglang and trtllm; they need no --",
                ),
        ),
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
pub(crate) fn with_options(name: &str, command: Command) -> Command {
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
