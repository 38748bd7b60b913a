//! One component, from its node. What must fit together in it is checked in `fit`.

use super::flags::{Flag, MEANINGS, flags, texts_of, value};
use super::{Shared, environment, merge, number, pairs, text, texts};
use crate::document::Node;
use crate::flags::KnownFlags;
use crate::graph::{
    Component, Nodes, Parameter, Placement, Resources, Role, Toleration, Volume, own_command,
};
use crate::names::label;
use crate::problem::{Mark, Problems, shown};
use crate::quantity::{Cpu, Memory};
use crate::schema::form::split_address;
use crate::secret_text::has_reference;

/// Port of a leader for whom the graph names none.
const DEFAULT_LEADER_PORT: u16 = 29_500;

/// Parameters that name a file without being listed under `files`.
const FILE_PARAMETERS: [&str; 1] = ["extra_engine_args"];

/// What a component is read with.
pub(super) struct Reading<'a, 'b> {
    pub(super) node: &'a Node,
    pub(super) path: &'a str,
    pub(super) flags: Vec<Flag<'a>>,
    pub(super) problems: &'b mut Problems,
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
    let cmd = reading.cmd();
    let component = Component {
        label: label(&name),
        name,
        image: text(node, "image").or_else(|| shared.image.clone()),
        role: Role::Worker,
        input: reading.form("input"),
        output: reading.form("output"),
        parameters: reading.parameters(&cmd, known),
        verbosity: reading.meaning("verbosity").unwrap_or(0),
        nodes: reading.nodes(),
        replicas: number(node, "replicas").unwrap_or(1),
        resources: resources(node),
        environment: reading.environment(shared),
        secrets: reading.secrets(shared),
        files: reading.files(),
        placement: placement(node),
        cmd,
    };
    let role = text(node, "role").and_then(|word| Role::from_word(&word));
    let component = Component {
        role: role.unwrap_or_else(|| role_of(&component)),
        ..component
    };
    reading.check(&component, known);
    component
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

    pub(super) fn flag(&self, name: &str) -> Option<&Flag<'_>> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    pub(super) fn meaning<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.flag(name)?.node.text()?.parse().ok()
    }

    fn parameters(&mut self, cmd: &[String], known: &dyn KnownFlags) -> Vec<Parameter> {
        let output = self.form("output");
        let repeats = |name: &str| {
            let command = own_command(cmd);
            command.is_some_and(|command| known.repeats(command, output.as_deref(), name))
        };
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
                repeats: repeats(&flag.name),
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
            // That an empty one is none has been said.
            if !file.is_empty() && !is_beside(file) {
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
