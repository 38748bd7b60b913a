//! One component: its flags from the places where they may stand, and what must fit together.

use super::{Shared, environment, is_null, merge, number, pairs, text, texts};
use crate::document::{Content, Entry, Node};
use crate::flags::KnownFlags;
use crate::graph::{
    Component, Nodes, Parameter, ParameterValue, Placement, Resources, Role, Toleration, Volume,
    own_command,
};
use crate::names::label;
use crate::problem::{Mark, Problems, shown, suggestion};
use crate::quantity::{Cpu, Memory};
use crate::schema::form::{self, split_address};
use crate::secret_text::has_reference;
use serde_json::Value;

/// Port of a leader for whom the graph names none.
const DEFAULT_LEADER_PORT: u16 = 29_500;

/// Engines that this project knows. Others may be there: only a word that is nearly one of these
/// is taken for a typing error.
const ENGINES: [&str; 9] = [
    "dyn",
    "auto",
    "echo",
    "mocker",
    "llamacpp",
    "mistralrs",
    "vllm",
    "sglang",
    "trtllm",
];

/// Outputs that this project's own program computes by itself, so that its flags are all there
/// are. The others pass what they do not know to an engine.
const OWN_OUTPUTS: [&str; 5] = ["dyn", "auto", "echo", "mocker", "llamacpp"];

/// Parameters that name a file without being listed under `files`.
const FILE_PARAMETERS: [&str; 1] = ["extra_engine_args"];

/// Keys of `run_config` that are no flags.
const FORMS: [&str; 3] = ["input", "output", "parameters"];

/// Flags with a meaning here, which the target writes.
const MEANINGS: [&str; 4] = ["verbosity", "num_nodes", "node_rank", "leader_addr"];

/// A flag and where it stands.
struct Flag<'a> {
    name: String,
    node: &'a Node,
    mark: Mark,
    path: String,
}

/// What a component is read with.
struct Reading<'a, 'b> {
    node: &'a Node,
    path: &'a str,
    flags: Vec<Flag<'a>>,
    problems: &'b mut Problems,
}

/// Reads a component.
pub(super) fn read(
    node: &Node,
    path: &str,
    shared: &Shared,
    known: &dyn KnownFlags,
    problems: &mut Problems,
) -> Component {
    let flags = flags(node, path, problems);
    let mut reading = Reading {
        node,
        path,
        flags,
        problems,
    };
    let name = text(node, "name").unwrap_or_default();
    let component = Component {
        label: label(&name),
        name,
        image: text(node, "image").or_else(|| shared.image.clone()),
        cmd: reading.cmd(),
        role: Role::Worker,
        input: reading.form("input"),
        output: reading.form("output"),
        parameters: reading.parameters(),
        verbosity: reading.meaning("verbosity").unwrap_or(0),
        nodes: reading.nodes(),
        replicas: number(node, "replicas").unwrap_or(1),
        resources: resources(node),
        environment: reading.environment(shared),
        secrets: reading.secrets(shared),
        files: reading.files(),
        placement: placement(node),
    };
    let role = text(node, "role").and_then(|word| Role::from_word(&word));
    let component = Component {
        role: role.unwrap_or_else(|| role_of(&component)),
        ..component
    };
    reading.check_forms(&component);
    reading.check_nodes(&component);
    reading.check_gpus(&component);
    reading.check_flags(&component, known);
    component
}

/// Every flag once, in the order of the file. Two values of one flag are a problem.
fn flags<'a>(node: &'a Node, path: &str, problems: &mut Problems) -> Vec<Flag<'a>> {
    let mut flags: Vec<Flag<'a>> = Vec::new();
    let run_config = node.field("run_config");
    let inlined = run_config.map(|it| (it, format!("{path}.run_config"), &FORMS[..]));
    let below = run_config.and_then(|it| it.field("parameters"));
    let below = below.map(|it| (it, format!("{path}.run_config.parameters"), &[][..]));
    let beside = node
        .field("parameters")
        .map(|it| (it, format!("{path}.parameters"), &[][..]));
    for (node, path, without) in [inlined, below, beside].into_iter().flatten() {
        for Entry { key, mark, node } in node.entries() {
            let name = key.replace('-', "_");
            if without.contains(&name.as_str()) || is_null(node) {
                continue;
            }
            let path = format!("{path}.{key}");
            match flags.iter().find(|flag| flag.name == name) {
                None => flags.push(Flag {
                    name,
                    node,
                    mark: *mark,
                    path,
                }),
                Some(first) if value(first.node) == value(node) => {}
                Some(first) => {
                    let message = format!(
                        "has another value on line {}; a flag has one value, remove one of them",
                        first.mark.line
                    );
                    problems.add(*mark, path, message);
                }
            }
        }
    }
    flags
}

impl Reading<'_, '_> {
    fn cmd(&mut self) -> Vec<String> {
        let Some(node) = self.node.field("cmd") else {
            return vec!["dynamo".to_owned(), "serve".to_owned()];
        };
        for (index, item) in node.items().iter().enumerate() {
            if item.text().is_some_and(has_reference) {
                self.refuse_secret(item.mark, format!("{}.cmd[{index}]", self.path));
            }
        }
        texts(self.node, "cmd")
    }

    fn form(&self, key: &str) -> Option<String> {
        text(self.node.field("run_config")?, key)
    }

    fn flag(&self, name: &str) -> Option<&Flag<'_>> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    fn meaning<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.flag(name)?.node.text()?.parse().ok()
    }

    fn parameters(&mut self) -> Vec<Parameter> {
        let mut parameters = Vec::new();
        let mut secrets = Vec::new();
        for flag in &self.flags {
            if MEANINGS.contains(&flag.name.as_str()) {
                continue;
            }
            let value = value(flag.node);
            if texts_of(&value).iter().any(|text| has_reference(text)) {
                secrets.push((flag.mark, flag.path.clone()));
            }
            parameters.push(Parameter {
                name: flag.name.clone(),
                value,
            });
        }
        for (mark, path) in secrets {
            self.refuse_secret(mark, path);
        }
        parameters
    }

    fn refuse_secret(&mut self, mark: Mark, path: String) {
        let message = "has a secret, and command lines are seen by everybody on the machine; give it as a variable under environment";
        self.problems.add(mark, path, message);
    }

    fn nodes(&self) -> Nodes {
        let address: Option<String> = self.meaning("leader_addr");
        let port = address
            .as_deref()
            .and_then(split_address)
            .map(|(_, port)| port);
        Nodes {
            count: self
                .meaning("num_nodes")
                .filter(|count| *count > 0)
                .unwrap_or(1),
            leader_port: port.unwrap_or(DEFAULT_LEADER_PORT),
        }
    }

    fn environment(&mut self, shared: &Shared) -> Vec<(String, crate::secret_text::SecretText)> {
        let mut variables = shared.environment.clone();
        let path = format!("{}.environment", self.path);
        merge(&mut variables, environment(self.node, &path, self.problems));
        variables
    }

    fn secrets(&self, shared: &Shared) -> Vec<String> {
        let mut secrets = shared.secrets.clone();
        for name in texts(self.node, "secrets").iter().map(|name| label(name)) {
            if !secrets.contains(&name) {
                secrets.push(name);
            }
        }
        secrets
    }

    fn files(&mut self) -> Vec<String> {
        let mut files = Vec::new();
        let listed = self.node.field("files").map_or(&[][..], Node::items);
        for (index, item) in listed.iter().enumerate() {
            let Some(file) = item.text() else {
                continue;
            };
            if !is_beside(file) {
                let path = format!("{}.files[{index}]", self.path);
                let message = format!(
                    "{} is not beside the graph file; name a file by its path from there, without .. and without a leading /",
                    shown(file)
                );
                self.problems.add(item.mark, path, message);
            }
            files.push(file.to_owned());
        }
        for name in FILE_PARAMETERS {
            let file = self.flag(name).and_then(|flag| flag.node.text());
            // Braces are arguments in place of a file that holds them.
            let file = file.filter(|file| is_beside(file) && !file.contains('{'));
            files.extend(file.map(str::to_owned));
        }
        files.dedup();
        files
    }

    fn check_forms(&mut self, component: &Component) {
        let place = |node: Option<&Node>, path: &str, key: &str| {
            let node = node
                .and_then(|it| it.field("run_config"))
                .and_then(|it| it.field(key));
            node.map(|node| (node.mark, format!("{path}.run_config.{key}")))
        };
        if let Some(output) = &component.output
            && let Some((mark, path)) = place(Some(self.node), self.path, "output")
            && !ENGINES.contains(&output.as_str())
            && form::OUTPUT.is(output)
            && !output.contains("://")
        {
            let near = suggestion(output, ENGINES);
            if !near.is_empty() {
                let message = format!("{} is no engine{near}", shown(output));
                self.problems.add(mark, path, message);
            }
        }
        if component.role == Role::Batch && component.replicas > 1 {
            let mark = self
                .node
                .field("replicas")
                .map_or(self.node.mark, |node| node.mark);
            let message = format!(
                "{} replicas would each work through the same file; a batch has one",
                component.replicas
            );
            self.problems
                .add(mark, format!("{}.replicas", self.path), message);
        }
        let is_batch_input = component
            .input
            .as_deref()
            .is_some_and(|it| it.starts_with("batch:"));
        if is_batch_input && component.role != Role::Batch {
            let mark = self
                .node
                .field("role")
                .map_or(self.node.mark, |node| node.mark);
            let message = format!(
                "{} does not fit input batch:..., which ends when the file is done; leave role out",
                component.role
            );
            self.problems
                .add(mark, format!("{}.role", self.path), message);
        }
    }

    fn check_nodes(&mut self, component: &Component) {
        let rank: u32 = self.meaning("node_rank").unwrap_or(0);
        let is_multi = component.is_multi_node();
        if rank == 0 {
            return;
        }
        let Some(flag) = self.flag("node_rank") else {
            return;
        };
        let message = match is_multi {
            true => format!(
                "is {rank}, and a component with num_nodes: {} is all of its nodes: leader and followers are made of it; leave node_rank out, and remove components for single ranks",
                component.nodes.count
            ),
            false => {
                format!("is {rank} without num_nodes; give num_nodes, and leave node_rank out")
            }
        };
        let (mark, path) = (flag.mark, flag.path.clone());
        self.problems.add(mark, path, message);
    }

    fn check_gpus(&mut self, component: &Component) {
        let Some(gpus) = component.resources.gpus else {
            return;
        };
        let needed: Option<u32> = self.meaning("tensor_parallel_size");
        if let (Some(needed), Some(flag)) = (needed, self.flag("tensor_parallel_size"))
            && u64::from(needed) > u64::from(gpus) * u64::from(component.nodes.count)
        {
            let nodes = match component.nodes.count {
                1 => String::new(),
                count => format!(" on each of {count} nodes"),
            };
            let message = format!(
                "is {needed}, and resources.gpu is {gpus}{nodes}; a tensor-parallel rank needs a GPU of its own"
            );
            let (mark, path) = (flag.mark, flag.path.clone());
            self.problems.add(mark, path, message);
        }
        let Some(visible) = component
            .variable("CUDA_VISIBLE_DEVICES")
            .and_then(|it| it.as_plain())
        else {
            return;
        };
        let listed = visible
            .split(',')
            .filter(|it| !it.trim().is_empty())
            .count();
        let own = self
            .node
            .field("environment")
            .and_then(|it| it.field("CUDA_VISIBLE_DEVICES"));
        if listed != gpus as usize {
            let mark = own.map_or(self.node.mark, |node| node.mark);
            let message = format!(
                "names {listed} GPU where resources.gpu is {gpus}; make them agree, or leave the variable out"
            );
            self.problems.add(
                mark,
                format!("{}.environment.CUDA_VISIBLE_DEVICES", self.path),
                message,
            );
        }
    }

    fn check_flags(&mut self, component: &Component, known: &dyn KnownFlags) {
        let Some(command) = own_command(&component.cmd) else {
            return;
        };
        let output = component.output.as_deref();
        let is_run = matches!(command, "serve" | "run");
        let is_own = output.is_none_or(|it| OWN_OUTPUTS.contains(&it) || it.contains("://"));
        if is_run && !is_own {
            return;
        }
        for flag in &self.flags {
            if MEANINGS.contains(&flag.name.as_str()) {
                continue;
            }
            let value = value(flag.node);
            if let Some(message) = known.problem(command, output, &flag.name, &value) {
                self.problems.add(flag.mark, flag.path.clone(), message);
            }
        }
    }
}

/// The part that input and program tell.
fn role_of(component: &Component) -> Role {
    let input = component.input.as_deref().unwrap_or_default();
    match own_command(&component.cmd) {
        _ if input == "http" || input == "grpc" => Role::Frontend,
        _ if input.starts_with("batch:") => Role::Batch,
        _ if !input.is_empty() => Role::Worker,
        Some("frontend") => Role::Frontend,
        Some("router") => Role::Router,
        Some("planner") => Role::Planner,
        _ => Role::Worker,
    }
}

fn is_beside(file: &str) -> bool {
    !file.starts_with('/') && file.split('/').all(|part| !matches!(part, "" | ".." | "."))
}

fn resources(node: &Node) -> Resources {
    let Some(node) = node.field("resources") else {
        return Resources::default();
    };
    Resources {
        cpu: text(node, "cpu").and_then(|text| Cpu::parse(&text)),
        memory: text(node, "memory").and_then(|text| Memory::parse(&text)),
        gpus: number(node, "gpu"),
    }
}

fn placement(node: &Node) -> Placement {
    let tolerations = node.field("tolerations").map_or(&[][..], Node::items);
    let volumes = node.field("volumes").map_or(&[][..], Node::items);
    Placement {
        node_selector: pairs(node, "node_selector"),
        tolerations: tolerations.iter().map(toleration).collect(),
        volumes: volumes.iter().filter_map(volume).collect(),
    }
}

fn toleration(node: &Node) -> Toleration {
    Toleration {
        key: text(node, "key"),
        operator: text(node, "operator"),
        value: text(node, "value"),
        effect: text(node, "effect"),
    }
}

fn volume(node: &Node) -> Option<Volume> {
    Some(Volume {
        claim: label(&text(node, "claim")?),
        mount_path: text(node, "mount_path")?,
    })
}

fn value(node: &Node) -> ParameterValue {
    match &node.content {
        Content::Plain(text) => match text.as_str() {
            "true" | "True" | "TRUE" => ParameterValue::Switch(true),
            "false" | "False" | "FALSE" => ParameterValue::Switch(false),
            _ => ParameterValue::Text(text.clone()),
        },
        Content::Quoted(text) => ParameterValue::Text(text.clone()),
        Content::Null => ParameterValue::Text(String::new()),
        Content::List(items) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|it| it.text().map(str::to_owned))
                .collect();
            texts.map_or_else(
                || ParameterValue::Json(json(node).to_string()),
                ParameterValue::List,
            )
        }
        Content::Map(_) => ParameterValue::Json(json(node).to_string()),
    }
}

/// A value as JSON, by the rules of YAML's core schema.
fn json(node: &Node) -> Value {
    match &node.content {
        Content::Null => Value::Null,
        Content::Quoted(text) => Value::String(text.clone()),
        Content::Plain(text) => match text.as_str() {
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            // What reads as a JSON number is one.
            text => serde_json::from_str(text)
                .ok()
                .filter(Value::is_number)
                .unwrap_or_else(|| Value::String(text.to_owned())),
        },
        Content::List(items) => items.iter().map(json).collect(),
        Content::Map(entries) => {
            let pairs = entries
                .iter()
                .map(|entry| (entry.key.clone(), json(&entry.node)));
            Value::Object(pairs.collect())
        }
    }
}

fn texts_of(value: &ParameterValue) -> Vec<&str> {
    match value {
        ParameterValue::Text(text) | ParameterValue::Json(text) => vec![text],
        ParameterValue::List(texts) => texts.iter().map(String::as_str).collect(),
        ParameterValue::Switch(_) => Vec::new(),
    }
}
