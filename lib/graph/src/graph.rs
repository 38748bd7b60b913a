//! A graph that has been checked: what the renderers read.

use crate::quantity::{Cpu, Memory};
use crate::secret_text::SecretText;
use std::fmt;

/// A deployment of components.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graph {
    /// Its name, as written.
    pub name: String,
    /// Its name as a DNS label.
    pub label: String,
    /// The components, in the order of the file; at least one.
    pub components: Vec<Component>,
}

/// A program with its flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Its name, as written.
    pub name: String,
    /// Its name as a DNS label; no other component has it.
    pub label: String,
    /// Its container image, or the graph's.
    pub image: Option<String>,
    /// The program and its first words.
    pub cmd: Vec<String>,
    /// The part it plays.
    pub role: Role,
    /// Where requests come from.
    pub input: Option<String>,
    /// What answers them.
    pub output: Option<String>,
    /// Its flags, in the order of the file.
    pub parameters: Vec<Parameter>,
    /// How much is logged: 0, 1 or 2.
    pub verbosity: u8,
    /// The nodes that one replica spans.
    pub nodes: Nodes,
    /// How many replicas run.
    pub replicas: u32,
    /// What one process needs.
    pub resources: Resources,
    /// Environment variables, the graph's first; each name once.
    pub environment: Vec<(String, SecretText)>,
    /// Secrets to load whole, the graph's first; each once.
    pub secrets: Vec<String>,
    /// Files that it reads, relative to the graph file.
    pub files: Vec<String>,
    /// What only Kubernetes knows.
    pub placement: Placement,
}

/// The part that a component plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Takes requests of clients.
    Frontend,
    /// Says which worker gets a request.
    Router,
    /// Scales the others.
    Planner,
    /// Serves an engine.
    Worker,
    /// Computes prompts for others.
    Prefill,
    /// Generates after others computed the prompt.
    Decode,
    /// Works through a file once and ends.
    Batch,
}

/// A flag with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Its name as written, dashes as underscores.
    pub name: String,
    /// Its value.
    pub value: ParameterValue,
    /// Whether several values are the flag several times. Else they all follow one flag.
    pub repeats: bool,
}

/// The value of a flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParameterValue {
    /// A text or a number, as written.
    Text(String),
    /// On or off.
    Switch(bool),
    /// Several values of one flag.
    List(Vec<String>),
    /// What a mapping becomes.
    Json(String),
}

/// The nodes of one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nodes {
    /// How many; at least one.
    pub count: u32,
    /// Port of the leader.
    pub leader_port: u16,
}

/// What one process needs; nothing where the graph says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Cores.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// GPUs.
    pub gpus: Option<u32>,
}

/// Where Kubernetes puts the pods, and what they see there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Labels that a node must have.
    pub node_selector: Vec<(String, String)>,
    /// Taints that the pods bear.
    pub tolerations: Vec<Toleration>,
    /// Volumes.
    pub volumes: Vec<Volume>,
}

/// A taint that pods bear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Key of the taint.
    pub key: Option<String>,
    /// How it is compared.
    pub operator: Option<String>,
    /// Its value.
    pub value: Option<String>,
    /// Its effect.
    pub effect: Option<String>,
}

/// A volume that pods see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The claim.
    pub claim: String,
    /// Where pods see it.
    pub mount_path: String,
}

// === impl Graph ===

impl Graph {
    /// The Secret whose keys `${{ secrets.KEY }}` names.
    pub fn secret_name(&self) -> String {
        format!("{}-secrets", self.label)
    }

    /// Keys of that Secret that are referred to, sorted, each once.
    pub fn secret_keys(&self) -> Vec<&str> {
        let components = self.components.iter();
        let mut keys: Vec<&str> = components.flat_map(Component::secret_keys).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Secrets that are loaded whole, sorted, each once.
    pub fn whole_secrets(&self) -> Vec<&str> {
        let components = self.components.iter();
        let mut names: Vec<&str> = components
            .flat_map(|it| it.secrets.iter().map(String::as_str))
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The name of the objects of a component.
    pub fn object_name(&self, component: &Component) -> String {
        format!("{}-{}", self.label, component.label)
    }
}

// === impl Component ===

impl Component {
    /// Keys of secrets that its environment refers to, in order.
    pub fn secret_keys(&self) -> impl Iterator<Item = &str> {
        self.environment
            .iter()
            .flat_map(|(_, value)| value.secrets())
    }

    /// The value of a variable of its environment.
    pub fn variable(&self, name: &str) -> Option<&SecretText> {
        let found = self.environment.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    /// The text of a flag.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|it| it.name == name)?;
        match &found.value {
            ParameterValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The command of this project that it runs, by its name: `frontend`, `serve`, `vllm`. None
    /// for any other program.
    pub fn own_command(&self) -> Option<&str> {
        own_command(&self.cmd)
    }

    /// Whether one replica is several processes.
    pub fn is_multi_node(&self) -> bool {
        self.nodes.count > 1
    }
}

/// The name of this project's command that these words start.
pub(crate) fn own_command(cmd: &[String]) -> Option<&str> {
    let program = cmd.first()?.rsplit('/').next()?;
    if program == "dynamo" {
        return cmd.get(1).map(String::as_str);
    }
    let is_python = program.starts_with("python");
    match (cmd.get(1).map(String::as_str), cmd.get(2)) {
        (Some("-m"), Some(module)) if is_python => module.strip_prefix("dynamo."),
        _ => None,
    }
}

// === impl Role ===

impl Role {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frontend => "frontend",
            Self::Router => "router",
            Self::Planner => "planner",
            Self::Worker => "worker",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::Batch => "batch",
        }
    }

    pub(crate) fn from_word(word: &str) -> Option<Self> {
        let roles = [
            Self::Frontend,
            Self::Router,
            Self::Planner,
            Self::Worker,
            Self::Prefill,
            Self::Decode,
            Self::Batch,
        ];
        roles.into_iter().find(|role| role.as_str() == word)
    }

    /// When it stops: whoever takes work in stops before whom it asks. Those of one stage stop
    /// together.
    pub fn stop_stage(self) -> u8 {
        match self {
            Self::Frontend | Self::Planner | Self::Batch => 0,
            Self::Router => 1,
            Self::Worker | Self::Decode => 2,
            Self::Prefill => 3,
        }
    }

    /// Whether clients reach it over HTTP.
    pub fn is_frontend(self) -> bool {
        self == Self::Frontend
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
