//! What must fit together in one component: its parts, its nodes, its GPUs, its program's flags.

use super::component::Reading;
use super::flags::{MEANINGS, value};
use crate::document::Node;
use crate::flags::KnownFlags;
use crate::graph::{Component, Role, own_command};
use crate::problem::{shown, suggestion};
use crate::schema::form;

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

/// Commands and components of this project that a graph may be made of. Others may be there, as
/// with engines.
const COMMANDS: [&str; 12] = [
    "serve",
    "run",
    "frontend",
    "router",
    "mocker",
    "metrics",
    "planner",
    "operator",
    "vllm",
    "sglang",
    "trtllm",
    "llama_cpp",
];

impl Reading<'_, '_> {
    /// Adds every problem to those that are known.
    pub(super) fn check(&mut self, component: &Component, known: &dyn KnownFlags) {
        self.check_command(component);
        self.check_forms(component);
        self.check_nodes(component);
        self.check_gpus(component);
        self.check_flags(component, known);
    }

    fn check_command(&mut self, component: &Component) {
        let Some(command) = own_command(&component.cmd) else {
            return;
        };
        let near = suggestion(command, COMMANDS);
        let words = self.node.field("cmd").map_or(&[][..], Node::items);
        let is_it = |node: &&Node| node.text().is_some_and(|word| word.ends_with(command));
        if let Some(index) = words.iter().position(|node| is_it(&node))
            && !COMMANDS.contains(&command)
            && !near.is_empty()
        {
            let message = format!("{} is no command of dynamo{near}", shown(command));
            let (mark, path) = (words[index].mark, format!("{}.cmd[{index}]", self.path));
            self.problems.add(mark, path, message);
        }
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
                "{} replicas would each work through the same file; leave replicas out",
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
            let enough = needed.div_ceil(component.nodes.count);
            let message = format!(
                "is {needed}, and resources.gpu is {gpus}{nodes}; each tensor-parallel rank needs a GPU of its own: make resources.gpu {enough}, or this lower"
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
                "names {listed} GPU{} where resources.gpu is {gpus}; make them agree, or leave the variable out",
                if listed == 1 { "" } else { "s" }
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
