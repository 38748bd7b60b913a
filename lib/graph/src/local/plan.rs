//! Which processes a graph is on one machine: each replica one, each node of a replica one.

use crate::command::{self, Hosts, Node, Word};
use crate::graph::{Component, Graph, Role};
use crate::secret_text::SecretText;
use std::collections::BTreeMap;

/// Variable that tells a process its GPUs.
const GPUS: &str = "CUDA_VISIBLE_DEVICES";

/// What there is on the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Machine {
    /// Its GPUs, as `CUDA_VISIBLE_DEVICES` names them.
    pub gpus: Vec<String>,
    /// The program that `dynamo` means.
    pub dynamo: String,
    /// Variables for every process that the graph does not set, such as where discovery is.
    pub environment: Vec<(String, String)>,
}

/// A process to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedProcess {
    /// Its name: component, replica, and the node where there are several.
    pub name: String,
    /// Name of its component.
    pub component: String,
    /// The part it plays.
    pub role: Role,
    /// Whether it ends by itself when its work is done.
    pub ends: bool,
    /// The replica that it is of, counted over all components: its nodes start and end together.
    pub group: usize,
    /// Its command.
    pub argv: Vec<String>,
    /// What is added to the environment that it inherits, in order.
    pub environment: Vec<(String, SecretText)>,
    /// Secrets whose keys are added whole.
    pub secrets: Vec<String>,
    /// Its GPUs.
    pub gpus: Vec<String>,
}

/// What keeps a graph from running on this machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// More GPUs are asked for than there are.
    #[error(
        "the graph asks for {asked} GPUs ({by}), and this machine has {there}; lower replicas or resources.gpu, or say with --gpus how many there are"
    )]
    TooFewGpus {
        /// How many.
        asked: usize,
        /// By whom.
        by: String,
        /// How many there are.
        there: usize,
    },
    /// Processes would share GPUs.
    #[error(
        "{component}: its {processes} processes would share the GPUs {gpus} of CUDA_VISIBLE_DEVICES; leave the variable out, and each gets GPUs of its own"
    )]
    SharedGpus {
        /// Whose.
        component: String,
        /// How many processes.
        processes: usize,
        /// The GPUs.
        gpus: String,
    },
    /// The graph names a GPU twice, or one that is not there.
    #[error("{component}: GPU {gpu} of CUDA_VISIBLE_DEVICES {problem}")]
    Gpu {
        /// Whose.
        component: String,
        /// The GPU.
        gpu: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Two frontends listen on one port.
    #[error(
        "{first} and {second} would both listen on port {port}; replicas take ports in a row, choose others"
    )]
    Port {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// The port.
        port: u16,
    },
    /// Ports in a row end at 65535.
    #[error(
        "{component}: {replicas} replicas from port {port} on end beyond port 65535; choose a lower one"
    )]
    PortsEnd {
        /// Whose.
        component: String,
        /// How many.
        replicas: u32,
        /// The first port.
        port: u16,
    },
}

/// Every process of a graph, or all that is in its way.
pub fn plan(graph: &Graph, machine: &Machine) -> Result<Vec<PlannedProcess>, Vec<PlanError>> {
    let mut errors = Vec::new();
    check_ports(graph, &mut errors);
    let mut free = free_gpus(graph, machine, &mut errors);
    let mut processes = Vec::new();
    let mut group = 0;
    for component in &graph.components {
        for replica in 0..component.replicas {
            for rank in 0..component.nodes.count {
                let gpus = take_gpus(component, &mut free);
                let process = process(component, machine, (replica, rank), gpus);
                processes.push(PlannedProcess { group, ..process });
            }
            group += 1;
        }
    }
    match errors.is_empty() {
        true => Ok(processes),
        false => Err(errors),
    }
}

fn process(
    component: &Component,
    machine: &Machine,
    (replica, rank): (u32, u32),
    gpus: Vec<String>,
) -> PlannedProcess {
    let mut name = format!("{}-{replica}", component.label);
    let node = match (component.is_multi_node(), rank) {
        (false, _) => Node::Only,
        (true, 0) => Node::Leader,
        (true, _) => Node::Follower,
    };
    if component.is_multi_node() {
        name = format!("{name}-{rank}");
    }
    let mut environment: Vec<(String, SecretText)> = Vec::new();
    for (name, value) in &machine.environment {
        if component.variable(name).is_none() {
            environment.push((name.clone(), SecretText::plain(value)));
        }
    }
    if component.resources.gpus.is_some() && component.variable(GPUS).is_none() {
        environment.push((GPUS.to_owned(), SecretText::plain(gpus.join(","))));
    }
    environment.extend(component.environment.iter().cloned());
    PlannedProcess {
        name,
        component: component.name.clone(),
        role: component.role,
        ends: component.role == Role::Batch,
        group: 0,
        argv: argv(component, machine, node, (replica, rank)),
        environment,
        secrets: component.secrets.clone(),
        gpus,
    }
}

/// The command on this machine. Files keep their names: processes run in the folder of the graph.
fn argv(
    component: &Component,
    machine: &Machine,
    node: Node,
    (replica, rank): (u32, u32),
) -> Vec<String> {
    let words = command::command(component, node, Hosts::Shared);
    let mut argv = command::written(&words, |word| match word {
        Word::Text(text) | Word::File(text) => text.clone(),
        Word::NodeRank => rank.to_string(),
        // Leaders of several replicas share the machine.
        Word::LeaderAddress => {
            format!(
                "127.0.0.1:{}",
                u32::from(component.nodes.leader_port) + replica
            )
        }
        Word::HttpPort(port) => (u32::from(*port) + replica).to_string(),
    });
    if argv.first().is_some_and(|program| program == "dynamo") && !machine.dynamo.is_empty() {
        argv[0].clone_from(&machine.dynamo);
    }
    argv
}

fn check_ports(graph: &Graph, errors: &mut Vec<PlanError>) {
    let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
    for component in &graph.components {
        let frontend = component
            .role
            .is_frontend()
            .then(|| command::http_port(component));
        let leader = component
            .is_multi_node()
            .then_some(component.nodes.leader_port);
        for port in [frontend.filter(|port| *port > 0), leader]
            .into_iter()
            .flatten()
        {
            if let Err(error) = take_ports(component, port, &mut taken) {
                errors.push(error);
            }
        }
    }
}

/// Takes a port for each replica, in a row.
fn take_ports<'a>(
    component: &'a Component,
    first: u16,
    taken: &mut BTreeMap<u16, &'a str>,
) -> Result<(), PlanError> {
    for replica in 0..component.replicas {
        let port = u16::try_from(replica)
            .ok()
            .and_then(|it| first.checked_add(it));
        let Some(port) = port else {
            let (component, replicas) = (component.name.clone(), component.replicas);
            return Err(PlanError::PortsEnd {
                component,
                replicas,
                port: first,
            });
        };
        if let Some(other) = taken.insert(port, &component.name) {
            let (first, second) = (other.to_owned(), component.name.clone());
            return Err(PlanError::Port {
                first,
                second,
                port,
            });
        }
    }
    Ok(())
}

/// The GPUs that the graph leaves to be given. Too few are a problem.
fn free_gpus(graph: &Graph, machine: &Machine, errors: &mut Vec<PlanError>) -> Vec<String> {
    let mut free = machine.gpus.clone();
    let mut asked = Vec::new();
    let mut named = 0;
    for component in &graph.components {
        let processes = component.replicas as usize * component.nodes.count as usize;
        let own = component.variable(GPUS).and_then(SecretText::as_plain);
        let each = component.resources.gpus.unwrap_or(0) as usize;
        if each * processes > 0 {
            asked.push((component.name.as_str(), each * processes));
        }
        let Some(gpus) = own.filter(|gpus| !gpus.trim().is_empty()) else {
            continue;
        };
        if processes > 1 {
            errors.push(PlanError::SharedGpus {
                component: component.name.clone(),
                processes,
                gpus: gpus.to_owned(),
            });
            continue;
        }
        for gpu in gpus.split(',').map(str::trim).filter(|_| processes > 0) {
            named += 1;
            match free.iter().position(|known| known == gpu) {
                Some(index) => drop(free.remove(index)),
                None => errors.push(PlanError::Gpu {
                    component: component.name.clone(),
                    gpu: gpu.to_owned(),
                    problem: match machine.gpus.iter().any(|known| known == gpu) {
                        true => "is another component's already".to_owned(),
                        false => format!(
                            "is not among those of this machine: {}",
                            shown(&machine.gpus)
                        ),
                    },
                }),
            }
        }
    }
    let all: usize = asked.iter().map(|(_, gpus)| gpus).sum();
    if all.max(named) > machine.gpus.len() {
        let by: Vec<String> = asked
            .iter()
            .map(|(name, gpus)| format!("{name}: {gpus}"))
            .collect();
        let (asked, there) = (all.max(named), machine.gpus.len());
        errors.push(PlanError::TooFewGpus {
            asked,
            by: by.join(", "),
            there,
        });
    }
    free
}

fn shown(gpus: &[String]) -> String {
    match gpus {
        [] => "it has none".to_owned(),
        gpus => gpus.join(", "),
    }
}

/// The next free GPUs for one process.
fn take_gpus(component: &Component, free: &mut Vec<String>) -> Vec<String> {
    if let Some(own) = component.variable(GPUS).and_then(SecretText::as_plain) {
        let own = own.split(',').map(str::trim).filter(|gpu| !gpu.is_empty());
        return own.map(str::to_owned).collect();
    }
    let count = component.resources.gpus.unwrap_or(0) as usize;
    free.drain(..count.min(free.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AnyFlags, parse};

    fn machine(gpus: &[&str]) -> Machine {
        Machine {
            gpus: gpus.iter().map(|gpu| (*gpu).to_owned()).collect(),
            dynamo: "/opt/dynamo".to_owned(),
            environment: vec![("DYN_FILE_KV".to_owned(), "/run/g".to_owned())],
        }
    }

    fn planned(components: &str, gpus: &[&str]) -> String {
        let text = format!("version: 1\nname: g\ncomponents:\n{components}");
        let graph = parse("graph.yaml", &text, &AnyFlags).unwrap();
        let lines: Vec<String> = match plan(&graph, &machine(gpus)) {
            Ok(processes) => processes.iter().map(line).collect(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        };
        lines.join("\n")
    }

    fn line(process: &PlannedProcess) -> String {
        let variables = process.environment.iter();
        let variables = variables.map(|(name, value)| format!("{name}={} ", value.shown()));
        format!(
            "{}: {}{}",
            process.name,
            variables.collect::<String>(),
            process.argv.join(" ")
        )
    }

    #[test]
    fn replicas_and_nodes_are_processes_with_ports_and_gpus_of_their_own() {
        let components = "\
- name: front
  replicas: 2
  run_config: {input: http, output: dyn, port: 8080}
- name: two_nodes
  replicas: 2
  run_config: {input: dyn://a.b.c, output: vllm, num_nodes: 2, leader_addr: \"10.0.0.1:7000\"}
  resources: {gpu: 1}
- name: pinned
  cmd: [python3, -m, dynamo.sglang]
  resources: {gpu: 2}
  environment: {CUDA_VISIBLE_DEVICES: \"1,3\", HF_TOKEN: \"${{ secrets.HF }}\", DYN_FILE_KV: /own}
- name: none
  cmd: [dynamo, mocker]
  resources: {gpu: 0}
";
        insta::assert_snapshot!(planned(components, &["0", "1", "2", "3", "4", "5"]), @r"
        front-0: DYN_FILE_KV=/run/g /opt/dynamo serve in=http out=dyn --port 8080
        front-1: DYN_FILE_KV=/run/g /opt/dynamo serve in=http out=dyn --port 8081
        two-nodes-0-0: DYN_FILE_KV=/run/g CUDA_VISIBLE_DEVICES=0 /opt/dynamo serve in=dyn://a.b.c out=vllm --num-nodes 2 --node-rank 0 --leader-addr 127.0.0.1:7000
        two-nodes-0-1: DYN_FILE_KV=/run/g CUDA_VISIBLE_DEVICES=2 /opt/dynamo serve in=none out=vllm --num-nodes 2 --node-rank 1 --leader-addr 127.0.0.1:7000
        two-nodes-1-0: DYN_FILE_KV=/run/g CUDA_VISIBLE_DEVICES=4 /opt/dynamo serve in=dyn://a.b.c out=vllm --num-nodes 2 --node-rank 0 --leader-addr 127.0.0.1:7001
        two-nodes-1-1: DYN_FILE_KV=/run/g CUDA_VISIBLE_DEVICES=5 /opt/dynamo serve in=none out=vllm --num-nodes 2 --node-rank 1 --leader-addr 127.0.0.1:7001
        pinned-0: CUDA_VISIBLE_DEVICES=1,3 HF_TOKEN=${{ secrets.HF }} DYN_FILE_KV=/own python3 -m dynamo.sglang
        none-0: DYN_FILE_KV=/run/g CUDA_VISIBLE_DEVICES= /opt/dynamo mocker
        ");
    }

    #[test]
    fn what_does_not_fit_the_machine_is_told_at_once() {
        let components = "\
- {name: a, replicas: 2, resources: {gpu: 2}, environment: {CUDA_VISIBLE_DEVICES: \"0,1\"}}
- {name: b, resources: {gpu: 2}, environment: {CUDA_VISIBLE_DEVICES: \"1,7\"}}
- {name: c, resources: {gpu: 1}, environment: {CUDA_VISIBLE_DEVICES: \"1\"}}
- {name: f, cmd: [dynamo, frontend], replicas: 3}
- {name: h, cmd: [dynamo, frontend], parameters: {http_port: 8002}}
- {name: high, cmd: [dynamo, frontend], replicas: 3, parameters: {http_port: 65534}}
";
        insta::assert_snapshot!(planned(components, &["0", "1"]), @r"
        f and h would both listen on port 8002; replicas take ports in a row, choose others
        high: 3 replicas from port 65534 on end beyond port 65535; choose a lower one
        a: its 2 processes would share the GPUs 0,1 of CUDA_VISIBLE_DEVICES; leave the variable out, and each gets GPUs of its own
        b: GPU 7 of CUDA_VISIBLE_DEVICES is not among those of this machine: 0, 1
        c: GPU 1 of CUDA_VISIBLE_DEVICES is another component's already
        the graph asks for 7 GPUs (a: 4, b: 2, c: 1), and this machine has 2; lower replicas or resources.gpu, or say with --gpus how many there are
        ");
        insta::assert_snapshot!(planned("- {name: a, replicas: 3, resources: {gpu: 2}}\n", &[]), @r#"the graph asks for 6 GPUs (a: 6), and this machine has 0; lower replicas or resources.gpu, or say with --gpus how many there are"#);
    }
}
