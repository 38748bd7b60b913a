//! Options of `dynamo deploy`, each declared here and nowhere else.

use dynamo_config::{choices, options};
use std::path::PathBuf;

choices! {
    /// Where a graph runs.
    pub enum Target {
        /// Kubernetes: manifests are written.
        Kubernetes = "k8s" | "kubernetes",
        /// This machine: the graph runs until it is stopped.
        Local = "local",
        /// Slurm: a batch script is written, and what submits and stops it.
        Slurm = "slurm",
    }
}

options! {
    /// Deploying a graph.
    pub struct DeployOptions("deploy") {
        /// The graph: a YAML file, see `docs/reference/graph.md`.
        file: Option<PathBuf> = None, short = 'f', alias = "--graph";
        /// Where it runs.
        target: Target = Target::Kubernetes;
        /// Folder to write to, `--out_dir` too. Not given, it is called after graph and target.
        out_dir: Option<PathBuf> = None;
        /// Only check the graph, and show the command of each component.
        check: bool = false;
        /// Print the JSON schema of graph files.
        schema: bool = false;
    }
}

options! {
    /// Graphs on Kubernetes.
    pub struct KubernetesTargetOptions("deploy-k8s") {
        /// Image of components that name none.
        image: String = "dynamo:latest".to_owned();
        /// Write one DynamoGraphDeployment, for an operator, in place of plain objects.
        crd: bool = false;
        /// Make components of several nodes LeaderWorkerSets in place of StatefulSets.
        leader_worker_set: bool = false, alias = "--lws";
    }
}

options! {
    /// Graphs on Slurm.
    pub struct SlurmTargetOptions("deploy-slurm") {
        /// A further option of `sbatch` for every group of nodes, such as `--partition=gpu`.
        slurm_option: Vec<String> = Vec::new();
        /// Start an etcd in the job, by which processes find each other.
        slurm_etcd: bool = false;
        /// Start a `nats-server` in the job.
        slurm_nats: bool = false;
        /// Folder that all nodes see, by which processes find each other without an etcd. Not
        /// given, it is among the logs of the job.
        slurm_shared_dir: Option<String> = None;
        /// Give every component nodes of its own.
        slurm_separate: bool = false;
        /// Run each component in its image, with pyxis.
        slurm_containers: bool = false;
    }
}

options! {
    /// Graphs on this machine.
    pub struct LocalTargetOptions("deploy-local") {
        /// GPUs of this machine, numbered from 0. Not given: those of `CUDA_VISIBLE_DEVICES`, or
        /// every `/dev/nvidia0`, `/dev/nvidia1`, ...
        gpus: Option<u32> = None, max = 1_024;
        /// File of `KEY=VALUE` lines with the secrets that the graph refers to.
        secrets_file: Option<PathBuf> = None;
        /// Folder with a file `NAME.env` of `KEY=VALUE` lines for each Secret that is loaded
        /// whole. Not given, it is `secrets` beside the graph file.
        secrets_dir: Option<PathBuf> = None;
        /// Show what the processes log.
        logs: bool = true;
    }
}

options! {
    /// Graphs that run on this machine.
    pub struct RunFolderOptions("deploy-runs") {
        /// Folder of this user with what is known of running graphs, and their logs. Not given:
        /// `dynamo-deploy` in `$XDG_RUNTIME_DIR`, or `dynamo-deploy-UID` in the folder for
        /// temporary files.
        run_dir: Option<PathBuf> = None, env = "DYN_DEPLOY_DIR";
    }
}

options! {
    /// Logs of a graph that runs on this machine.
    pub struct LogsOptions("deploy-logs") {
        /// Go on showing what is logged, until the graph ends.
        follow: bool = false;
        /// Lines of each log to begin with.
        tail: usize = 200, max = 100_000;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_config::Schema;

    #[test]
    fn the_declarations_are_sound() {
        let schema = Schema::new()
            .with::<DeployOptions>()
            .with::<KubernetesTargetOptions>()
            .with::<SlurmTargetOptions>()
            .with::<LocalTargetOptions>()
            .with::<RunFolderOptions>()
            .with::<LogsOptions>();
        assert_eq!(schema.check(), [""; 0]);
    }
}
