//! The graph as one Slurm job: a batch script, what each component does on its node, and programs
//! that submit and stop it.
//!
//! - `allocation`: which processes share which nodes
//! - `job`: the batch script
//! - `component`: what runs on a node
//! - `shell`: texts in shell scripts
//!
//! Ranks and the leader's host come from Slurm's environment. Secrets are read where they are
//! needed, from the submitter's environment or from files, and are in no script.

mod allocation;
mod component;
mod job;
mod shell;
#[cfg(test)]
mod tests;

use crate::graph::Graph;
use crate::rendered::{Carried, RenderError, Rendered, check_carried};
use std::collections::BTreeSet;

/// How to render.
#[derive(Debug, Clone)]
pub struct SlurmOptions {
    /// Further options of every group of nodes, such as `--partition=gpu`.
    pub options: Vec<String>,
    /// Where processes find each other.
    pub discovery: SlurmDiscovery,
    /// Whether a `nats-server` is started in the job.
    pub nats: bool,
    /// Whether every component gets nodes of its own.
    pub separate: bool,
    /// Whether components run in their images (pyxis).
    pub containers: bool,
}

/// Where processes of a job find each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlurmDiscovery {
    /// In a folder that all nodes see; without one given, in the job's logs.
    Folder(Option<String>),
    /// At an etcd that the job starts.
    Etcd,
}

/// Renders a graph.
pub fn render(
    graph: &Graph,
    carried: &Carried,
    options: &SlurmOptions,
) -> Result<Rendered, RenderError> {
    check_carried(graph, carried)?;
    let groups = allocation::groups(graph, options.separate);
    let mut rendered = Rendered::default();
    notes(&mut rendered, graph, carried, options, groups.len());
    rendered.add(
        format!("{}.sbatch", graph.label),
        job::script(graph, &groups, options),
    );
    rendered.add_program("submit.sh", job::submit(graph));
    rendered.add_program("stop.sh", job::STOP);
    for component in &graph.components {
        let script = component::script(graph, component, carried);
        rendered.add_program(format!("components/{}.sh", component.label), script);
    }
    if !graph.secret_keys().is_empty() || !graph.whole_secrets().is_empty() {
        rendered.add("components/secrets", component::SECRETS);
    }
    let files: BTreeSet<&String> = graph.components.iter().flat_map(|it| &it.files).collect();
    for file in files {
        if let Some(text) = carried.get(file) {
            rendered.add(format!("files/{file}"), text.clone());
        }
    }
    let readme = readme(graph, &rendered, options);
    rendered.add("README.md", readme);
    Ok(rendered)
}

/// What the user should know.
fn notes(
    rendered: &mut Rendered,
    graph: &Graph,
    carried: &Carried,
    options: &SlurmOptions,
    groups: usize,
) {
    if groups > 1 {
        rendered.note(format_args!(
            "the job is heterogeneous: {groups} groups of nodes, no node in two of them"
        ));
    }
    for component in &graph.components {
        let name = &component.name;
        if component.resources.cpu.is_none() {
            rendered.note(format_args!(
                "{name} names no cpu: Slurm gives each of its processes one core"
            ));
        }
        match component.image.as_deref() {
            Some(image) if options.containers => {
                rendered.note(format_args!("{name} runs in {image} (pyxis)"))
            }
            None if options.containers => rendered.note(format_args!(
                "{name} names no image: it runs outside of containers"
            )),
            _ => {}
        }
        for (key, value) in &component.placement.node_selector {
            rendered.note(format_args!("{name} selects nodes by {key}: {value}, which Slurm does not know: name a feature of your nodes with --slurm-option=--constraint=..."));
        }
        for volume in &component.placement.volumes {
            rendered.note(format_args!(
                "{name} expects {} on its nodes",
                volume.mount_path
            ));
        }
        for file in &component.files {
            if !carried.contains_key(file) {
                rendered.note(format_args!("{name} reads {file}, which is not beside the graph file: it has to be in the folder that the job is submitted from"));
            }
        }
    }
    if !options.containers {
        rendered.note("images are not used: programs are those on the PATH of the nodes; see --slurm-containers");
    }
}

fn readme(graph: &Graph, rendered: &Rendered, options: &SlurmOptions) -> String {
    let label = &graph.label;
    let mut text = format!(
        "# {} on Slurm\n\nThis folder has to be seen by all nodes.\n\n    ./submit.sh                  # prints the number of the job; takes options of sbatch\n    tail -f logs/JOB/*.log       # one log per process\n    cat logs/JOB/*.address       # where frontends are\n    ./stop.sh JOB                # frontends finish first, then workers\n\n`scancel JOB` stops everything at once; what is in flight has the cluster's KillWait to end.\nThe job's own log is `{label}-JOB.log`.\n",
        graph.name
    );
    text += match options.discovery {
        SlurmDiscovery::Etcd => {
            "\nProcesses find each other at an etcd on the first node, which every process of the cluster can\nreach.\n"
        }
        SlurmDiscovery::Folder(_) => {
            "\nProcesses find each other in a folder whose file locks have to work between nodes; `--slurm-etcd`\nstarts an etcd in the job instead.\n"
        }
    };
    let keys = graph.secret_keys();
    if !keys.is_empty() {
        text += &format!(
            "\nSecrets {} are read from the environment of `submit.sh`, or from `secrets/{}.env` with\n`KEY=VALUE` in each line and mode 0600, which keeps them out of Slurm.\n",
            keys.join(", "),
            graph.secret_name()
        );
    }
    for name in graph.whole_secrets() {
        text += &format!(
            "\nThe Secret {name} is the file `secrets/{name}.env` with `KEY=VALUE` in each line and mode 0600.\n"
        );
    }
    text + &format!("\nTo know:\n\n{}", rendered.notes_in_markdown())
}
