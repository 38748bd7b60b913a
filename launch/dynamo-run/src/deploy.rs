//! `dynamo deploy`: which graph goes where, and what a graph's processes begin as.

use crate::deploy_flags::OwnFlags;
use crate::loader::Surroundings;
use crate::output::{complain, print, print_line, tell};
use crate::process::Process;
use clap::{Arg, ArgMatches, Command, value_parser};
use dynamo_deploy::child;
use dynamo_deploy::config::{
    DeployOptions, KubernetesTargetOptions, LocalTargetOptions, LogsOptions, RunFolderOptions,
    SlurmTargetOptions, Target,
};
use dynamo_deploy::local::{self, LocalRun};
use dynamo_deploy::run_folder::RunFolder;
use dynamo_deploy::screen::Output;
use dynamo_deploy::secrets::{SecretSources, Secrets};
use dynamo_deploy::source::{self, Source};
use dynamo_deploy::{DeployError, follow, out_dir};
use dynamo_graph::command::{Hosts, Node, Word, command, written};
use dynamo_graph::kubernetes::pod::Multinode;
use dynamo_graph::kubernetes::{self, KubernetesOptions};
use dynamo_graph::local::plan::{Machine, plan};
use dynamo_graph::local::supervisor::Policy;
use dynamo_graph::slurm::{self, SlurmDiscovery, SlurmOptions};
use dynamo_graph::{Graph, Rendered};
use dynamo_runtime::config::RuntimeOptions;
use dynamo_runtime::shutdown::{ExitStatus, Signals};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What processes get on top of their own drain until they are killed: time to let go.
const LETTING_GO: Duration = Duration::from_secs(5);

/// What is asked of `dynamo deploy`.
#[derive(Debug)]
pub(crate) enum Verb {
    /// To deploy a graph.
    Graph,
    /// To show what runs.
    Status(Option<String>),
    /// To show what a graph logged, or a process of it.
    Logs(String, Option<String>),
    /// To stop a graph.
    Stop(String),
}

/// Writes to this process's streams.
struct Streams;

impl Output for Streams {
    fn data(&self, line: &str) {
        print_line(line);
    }

    fn say(&self, text: &str) {
        tell(text);
    }
}

/// `dynamo deploy` and what is below it.
pub(crate) async fn deploy(process: Process, verb: Verb) -> anyhow::Result<ExitStatus> {
    let done = match verb {
        Verb::Graph => graph(&process).await,
        Verb::Status(name) => runs(&process)
            .and_then(|runs| follow::status(&runs, name.as_deref(), &Streams))
            .map(|()| ExitStatus::Success),
        Verb::Logs(name, only) => logs(&process, &name, only.as_deref()).await,
        Verb::Stop(name) => match runs(&process) {
            Ok(runs) => follow::stop(&runs, &name, &Streams)
                .await
                .map(|()| ExitStatus::Success),
            Err(error) => Err(error),
        },
    };
    match done {
        Err(error) if error.is_usage() => {
            complain(&format!("error: {error}"));
            Ok(ExitStatus::Usage)
        }
        done => Ok(done?),
    }
}

fn runs(process: &Process) -> Result<RunFolder, DeployError> {
    let options: &RunFolderOptions = process.options.get();
    let folders = process.surroundings.system_folders();
    let path = options.run_dir.clone();
    RunFolder::open(&path.unwrap_or_else(|| RunFolder::default_path(&folders)))
}

async fn logs(
    process: &Process,
    name: &str,
    only: Option<&str>,
) -> Result<ExitStatus, DeployError> {
    let options: &LogsOptions = process.options.get();
    let runs = runs(process)?;
    let how = (options.follow, options.tail);
    let shown = follow::logs(&runs, (name, only), how, &Streams);
    // Whoever follows ends it with Ctrl-C.
    let interrupted = async {
        if let Ok(mut signals) = Signals::system() {
            signals.next().await;
        }
    };
    tokio::select! {
        biased;
        () = interrupted => Ok(ExitStatus::Success),
        shown = shown => shown.map(|()| ExitStatus::Success),
    }
}

async fn graph(process: &Process) -> Result<ExitStatus, DeployError> {
    let options: &DeployOptions = process.options.get();
    if options.schema {
        print(&format!("{:#}\n", dynamo_graph::json_schema()));
        return Ok(ExitStatus::Success);
    }
    let file = options.file.as_deref().ok_or(DeployError::NoFile)?;
    let source = source::read(file, &OwnFlags)?;
    if options.target == Target::Local {
        return Box::pin(here(process, file, source)).await;
    }
    let rendered = rendered(process, options.target, &source)?;
    if options.check {
        for line in commands(&source.graph) {
            print_line(&line);
        }
    } else {
        let folder = options.out_dir.clone();
        let folder = folder
            .unwrap_or_else(|| PathBuf::from(format!("{}-{}", source.graph.label, options.target)));
        for path in out_dir::write(&folder, &rendered)? {
            print_line(&path.display().to_string());
        }
    }
    for note in &rendered.notes {
        complain(&format!("note: {note}"));
    }
    Ok(ExitStatus::Success)
}

fn rendered(process: &Process, target: Target, source: &Source) -> Result<Rendered, DeployError> {
    let rendered = match target {
        Target::Slurm => {
            let options: &SlurmTargetOptions = process.options.get();
            let options = SlurmOptions {
                options: options.slurm_option.clone(),
                discovery: match options.slurm_etcd {
                    true => SlurmDiscovery::Etcd,
                    false => SlurmDiscovery::Folder(options.slurm_shared_dir.clone()),
                },
                nats: options.slurm_nats,
                separate: options.slurm_separate,
                containers: options.slurm_containers,
            };
            slurm::render(&source.graph, &source.carried, &options)
        }
        Target::Kubernetes | Target::Local => {
            let options: &KubernetesTargetOptions = process.options.get();
            let options = KubernetesOptions {
                image: options.image.clone(),
                multinode: match options.leader_worker_set {
                    true => Multinode::LeaderWorkerSet,
                    false => Multinode::StatefulSet,
                },
                custom_resource: options.crd,
            };
            kubernetes::render(&source.graph, &source.carried, &options)
        }
    };
    Ok(rendered?)
}

/// The command of each component, where the target says ranks and addresses.
fn commands(graph: &Graph) -> Vec<String> {
    let line = |component: &dynamo_graph::Component| {
        let node = if component.is_multi_node() {
            Node::Leader
        } else {
            Node::Only
        };
        let words = command(component, node, Hosts::Own);
        let words = written(&words, |word| match word {
            Word::Text(text) | Word::File(text) => text.clone(),
            Word::NodeRank => "RANK".to_owned(),
            Word::LeaderAddress => format!("LEADER:{}", component.nodes.leader_port),
            Word::HttpPort(port) => port.to_string(),
        });
        format!(
            "{}: {} x {}",
            component.name,
            component.replicas,
            words.join(" ")
        )
    };
    graph.components.iter().map(line).collect()
}

/// Runs the graph on this machine.
async fn here(process: &Process, file: &Path, source: Source) -> Result<ExitStatus, DeployError> {
    let deploy: &DeployOptions = process.options.get();
    let options: &LocalTargetOptions = process.options.get();
    let runtime: &RuntimeOptions = process.options.get();
    let surroundings = &process.surroundings;
    let graph = source.graph;
    let place = runs(process)?.graph(&graph.label);
    let dynamo = own_program(surroundings)?;
    let mut machine = Machine {
        gpus: local::gpus_of_this_machine(
            options.gpus,
            surroundings.variable("CUDA_VISIBLE_DEVICES"),
        ),
        dynamo: dynamo.display().to_string(),
        environment: Vec::new(),
    };
    let finds_otherwise = ["DYN_DISCOVERY_BACKEND", "DYN_FILE_KV"];
    if !finds_otherwise
        .iter()
        .any(|name| surroundings.variable(name).is_some())
    {
        let folder = place.discovery().display().to_string();
        machine
            .environment
            .push(("DYN_DISCOVERY_BACKEND".to_owned(), "file".to_owned()));
        machine.environment.push(("DYN_FILE_KV".to_owned(), folder));
    }
    let processes = plan(&graph, &machine).map_err(DeployError::Plan)?;
    if deploy.check {
        for line in local::plan_lines(&processes) {
            print_line(&line);
        }
        return Ok(ExitStatus::Success);
    }
    let missing =
        local::missing_programs(&processes, surroundings.variable("PATH"), &source.folder);
    if !missing.is_empty() {
        return Err(DeployError::Missing(missing));
    }
    let secrets_folder = options.secrets_dir.clone();
    let sources = SecretSources {
        file: options.secrets_file.as_deref(),
        folder: secrets_folder.unwrap_or_else(|| source.folder.join("secrets")),
        environment: &surroundings.environment,
    };
    let secrets = Secrets::find(&graph, &sources)?;
    for line in local::plan_lines(&processes) {
        complain(&line);
    }
    let run = LocalRun {
        name: graph.name,
        file: file.to_owned(),
        folder: source.folder,
        processes,
        secrets,
        place,
        dynamo,
        policy: Policy {
            grace: runtime.drain_timeout + LETTING_GO,
            ..Policy::default()
        },
        shows_logs: options.logs,
        tasks: &process.tasks,
    };
    let signals = Signals::system().map_err(|source| DeployError::Io {
        what: "listen for signals of",
        path: run.dynamo.clone(),
        source,
    })?;
    Box::pin(local::run(
        &run,
        signals,
        &Streams,
        surroundings.stderr_is_terminal,
    ))
    .await
}

/// This program, which the word `dynamo` of a graph means.
pub(crate) fn own_program(surroundings: &Surroundings) -> Result<PathBuf, DeployError> {
    // Where Python runs this, the program is the script that the wheel has put beside it.
    if let Some(interpreter) = &surroundings.interpreter {
        return Ok(interpreter.with_file_name("dynamo"));
    }
    std::env::current_exe().map_err(|source| DeployError::Io {
        what: "find the program",
        path: PathBuf::from("dynamo"),
        source,
    })
}

/// A process of a graph, before it is its program.
pub(crate) struct Child {
    supervisor: u32,
    program: OsString,
    arguments: Vec<OsString>,
}

// === impl Child ===

impl Child {
    /// The command that graphs' processes are started with; nobody types it.
    pub(crate) fn command() -> Command {
        Command::new(child::COMMAND)
            .about("Become a process of a graph")
            .hide(true)
            .disable_help_flag(true)
            .arg(
                Arg::new("supervisor")
                    .required(true)
                    .value_parser(value_parser!(u32)),
            )
            .arg(
                Arg::new("words")
                    .required(true)
                    .num_args(1..)
                    .trailing_var_arg(true)
                    .allow_hyphen_values(true)
                    .value_parser(value_parser!(OsString)),
            )
    }

    pub(crate) fn of(matches: &ArgMatches) -> Self {
        let mut words = matches
            .get_many::<OsString>("words")
            .into_iter()
            .flatten()
            .cloned();
        Self {
            supervisor: matches
                .get_one::<u32>("supervisor")
                .copied()
                .unwrap_or_default(),
            program: words.next().unwrap_or_default(),
            arguments: words.collect(),
        }
    }
}

/// Becomes the program. If that fails, the exit code is the one that shells have for it.
pub(crate) fn become_program(child: &Child) -> u8 {
    let error = child::become_program(child.supervisor, &child.program, &child.arguments);
    complain(&format!(
        "error: cannot start {}: {error}",
        child.program.display()
    ));
    child::NOT_STARTED
}
