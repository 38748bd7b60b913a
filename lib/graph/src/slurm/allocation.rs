//! Which processes share which nodes. In a heterogeneous job no node is in two groups, so that
//! few groups waste few nodes:
//!
//! - everything without GPUs and on one node shares the first node of the job
//! - components with the same number of GPUs per process share a group
//! - a component that spans nodes has a group to itself

use crate::graph::{Component, Graph};

/// Nodes of one kind, and who runs there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub(super) kind: GroupKind,
    pub(super) components: Vec<&'a Component>,
}

/// What a group is asked for by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GroupKind {
    /// One node, with cores and memory of all processes together.
    OneNode,
    /// Processes anywhere, each with so many GPUs.
    Processes { gpus: u32 },
    /// Whole replicas over several nodes each.
    Nodes,
}

/// The groups of a job; the first one is where the batch script runs.
pub(super) fn groups(graph: &Graph, separate: bool) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for component in graph.components.iter().filter(|it| it.replicas > 0) {
        let kind = kind(component);
        let shares = !separate && kind != GroupKind::Nodes;
        match groups.iter_mut().find(|group| shares && group.kind == kind) {
            Some(group) => group.components.push(component),
            None => groups.push(Group {
                kind,
                components: vec![component],
            }),
        }
    }
    // Servers that the job starts belong to processes that ask for little.
    groups.sort_by_key(|group| group.kind != GroupKind::OneNode);
    groups
}

fn kind(component: &Component) -> GroupKind {
    match component.resources.gpus.unwrap_or(0) {
        _ if component.is_multi_node() => GroupKind::Nodes,
        0 => GroupKind::OneNode,
        gpus => GroupKind::Processes { gpus },
    }
}

// === impl Group ===

impl Group<'_> {
    /// Options of `sbatch` that ask for the group.
    pub(super) fn request(&self) -> Vec<String> {
        let cores = self
            .components
            .iter()
            .map(|it| cores(it))
            .max()
            .unwrap_or(1);
        let processes: u64 = self.components.iter().map(|it| processes(it)).sum();
        let mut options = Vec::new();
        match self.kind {
            GroupKind::OneNode => {
                let cores: u64 = self.components.iter().map(|it| cores_of_all(it)).sum();
                options.push(format!("--nodes=1 --ntasks={cores} --cpus-per-task=1"));
                let memory: Option<u64> = self
                    .components
                    .iter()
                    .map(|it| Some(memory(it)? * u64::from(it.replicas)))
                    .sum();
                options.extend(memory.map(|memory| format!("--mem={memory}M")));
            }
            GroupKind::Processes { gpus } => {
                options.push(format!(
                    "--ntasks={processes} --cpus-per-task={cores} --gpus-per-task={gpus}"
                ));
                let memory: Option<Vec<u64>> =
                    self.components.iter().map(|it| memory(it)).collect();
                let memory = memory.and_then(|each| each.into_iter().max());
                options.extend(
                    memory.map(|memory| format!("--mem-per-cpu={}M", memory.div_ceil(cores))),
                );
            }
            GroupKind::Nodes => {
                let component = self.components[0];
                options.push(format!(
                    "--nodes={processes} --ntasks-per-node=1 --cpus-per-task={cores}"
                ));
                options.extend(gpus(component).map(|gpus| format!("--gpus-per-node={gpus}")));
                options.extend(memory(component).map(|memory| format!("--mem={memory}M")));
            }
        }
        options
    }

    /// Options of `srun` that take one replica's part of the group.
    pub(super) fn step(&self, component: &Component) -> Vec<String> {
        let nodes = component.nodes.count;
        let mut options = vec![
            format!("--nodes={nodes}"),
            format!("--ntasks={nodes}"),
            format!("--cpus-per-task={}", cores(component)),
            // Only what the step asks for, so that others find the rest.
            "--exact".to_owned(),
        ];
        if nodes > 1 {
            options.push("--ntasks-per-node=1".to_owned());
            options.extend(gpus(component).map(|gpus| format!("--gpus-per-node={gpus}")));
        } else {
            options.extend(gpus(component).map(|gpus| format!("--gpus-per-task={gpus}")));
        }
        let knows_all = self.components.iter().all(|it| memory(it).is_some());
        options.push(match (memory(component), self.kind) {
            (Some(memory), GroupKind::Processes { .. }) if knows_all => {
                format!("--mem-per-cpu={}M", memory.div_ceil(cores(component)))
            }
            (Some(memory), _) if knows_all => format!("--mem={memory}M"),
            // All of the job's, shared.
            _ => "--mem=0".to_owned(),
        });
        options
    }
}

fn cores(component: &Component) -> u64 {
    component.resources.cpu.map_or(1, |cpu| cpu.cores())
}

fn cores_of_all(component: &Component) -> u64 {
    cores(component) * u64::from(component.replicas)
}

fn processes(component: &Component) -> u64 {
    u64::from(component.replicas) * u64::from(component.nodes.count)
}

/// Mebibytes of one process.
fn memory(component: &Component) -> Option<u64> {
    component.resources.memory.map(|memory| memory.mebibytes())
}

fn gpus(component: &Component) -> Option<u32> {
    component.resources.gpus.filter(|gpus| *gpus > 0)
}
