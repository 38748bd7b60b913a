//! The batch script: asks for nodes, starts what processes find each other by, keeps one step per
//! replica running, and stops them in order.
//!
//! What was learnt of Slurm 22.05: SIGTERM to `srun` kills its processes at once, so that steps
//! are told through `scancel --signal`, by their names. A plain `scancel` of the job tells all
//! steps and the script; a second SIGTERM would cut off what they finish, so that the script then
//! only waits.

use super::allocation::Group;
use super::component::ADDRESS_OF;
use super::shell::quoted;
use super::{SlurmDiscovery, SlurmOptions};
use crate::graph::{Component, Graph};

/// Seconds before the time limit at which the graph is stopped in order.
const SECONDS_TO_STOP: u32 = 90;

/// Stops a job in order and waits for its end.
pub(super) const STOP: &str = r#"#!/usr/bin/env bash
# Stops a job of this graph: frontends finish what they have, then workers. Waits for the end.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "usage: $0 JOB    (squeue --me lists jobs)" >&2
    exit 2
fi
scancel --batch --signal=TERM "$1"
# Steps that do not end are killed by the job itself: ten minutes are for queues of a cluster.
for _ in $(seq 600); do
    [ -n "$(squeue --noheader --jobs="$1" 2>/dev/null)" ] || exit 0
    sleep 1
done
echo "job $1 does not end; scancel $1 ends it" >&2
exit 1
"#;

/// The program that submits.
pub(super) fn submit(graph: &Graph) -> String {
    let label = &graph.label;
    let mut checks = String::new();
    for key in graph.secret_keys() {
        let file = format!("secrets/{}.env", graph.secret_name());
        checks += &format!(
            "if [ -z \"${{{key}-}}\" ] && ! grep -qs '^\\(export \\)\\?{key}=' {file}; then\n    echo \"the secret {key} is missing: set {key}, or write it to $PWD/{file}\" >&2\n    exit 1\nfi\n"
        );
    }
    for name in graph.whole_secrets() {
        let file = quoted(&format!("secrets/{name}.env"));
        checks += &format!(
            "if [ ! -r {file} ]; then\n    echo \"the Secret {name} is missing: write KEY=VALUE lines to $PWD/\"{file} >&2\n    exit 1\nfi\n"
        );
    }
    format!(
        "#!/usr/bin/env bash\n# Submits the graph and prints the number of its job. Options go to sbatch.\nset -euo pipefail\ncd \"$(dirname \"$0\")\"\n\n{checks}job=$(sbatch --parsable \"$@\" {label}.sbatch)\njob=${{job%%;*}}\necho \"$job\"\necho \"logs: $PWD/logs/$job    stop: $PWD/stop.sh $job\" >&2\n"
    )
}

/// The batch script.
pub(super) fn script(graph: &Graph, groups: &[Group<'_>], options: &SlurmOptions) -> String {
    let mut script = format!(
        "#!/usr/bin/env bash\n# Runs the graph {} as one job. Written by dynamo deploy: change the graph and write it again.\n",
        graph.name
    );
    script += &header(graph, groups, options);
    script += PREPARE;
    script += &discovery(options);
    script += KEEP;
    script += &format!(
        "\n# The job's parts, whose steps can be told something.\njobs={}\n",
        jobs(groups.len())
    );
    script += STOPPING;
    script += "\n# STAGE NAME OPTIONS-OF-SRUN COMMAND: frontends are of stage 0 and stop first.\n";
    for (index, group) in groups.iter().enumerate() {
        let part = (groups.len() > 1).then(|| format!("--het-group={index}"));
        for component in &group.components {
            for replica in 0..component.replicas {
                script += &start(group, component, replica, part.as_deref(), options);
            }
        }
    }
    script + FINISH
}

fn header(graph: &Graph, groups: &[Group<'_>], options: &SlurmOptions) -> String {
    let mut text = format!(
        "#SBATCH --job-name={0}\n#SBATCH --output=%x-%j.log\n#SBATCH --signal=B:TERM@{SECONDS_TO_STOP}\n",
        graph.label
    );
    for (index, group) in groups.iter().enumerate() {
        if index > 0 {
            text += "#SBATCH hetjob\n";
        }
        let names: Vec<&str> = group.components.iter().map(|it| it.name.as_str()).collect();
        text += &format!("# Group {index}: {}\n", names.join(", "));
        for option in group.request().iter().chain(&options.options) {
            text += &format!("#SBATCH {option}\n");
        }
    }
    text
}

const PREPARE: &str = r#"
set -u
cd "$SLURM_SUBMIT_DIR" || exit 1
export GRAPH_FOLDER=$PWD
export GRAPH_LOGS=$PWD/logs/$SLURM_JOB_ID
mkdir -p logs && mkdir -m 700 "$GRAPH_LOGS" || exit 1
scratch=${TMPDIR:-/tmp}/$SLURM_JOB_NAME-$SLURM_JOB_ID
servers=()
"#;

fn discovery(options: &SlurmOptions) -> String {
    let mut text = match &options.discovery {
        SlurmDiscovery::Folder(folder) => {
            let folder = folder.as_ref().map_or_else(
                || "$GRAPH_LOGS/discovery".to_owned(),
                |folder| format!("{}/$SLURM_JOB_ID", quoted(folder)),
            );
            format!(
                "\n# Processes find each other in a folder that all nodes see.\nexport DYN_DISCOVERY_BACKEND=file\nexport DYN_FILE_KV={folder}\n"
            )
        }
        SlurmDiscovery::Etcd => ETCD.to_owned(),
    };
    if options.nats {
        text += NATS;
    }
    match options.nats || options.discovery == SlurmDiscovery::Etcd {
        true => format!("{ADDRESS_OF}head=$(address_of \"$SLURMD_NODENAME\")\n{text}"),
        false => text,
    }
}

/// Ports differ between jobs, which may share their first node.
const ETCD: &str = r#"
# Processes find each other at an etcd on this node.
etcd_port=$((20000 + SLURM_JOB_ID % 4000))
etcd --name default --data-dir "$scratch/etcd" \
    --listen-client-urls "http://0.0.0.0:$etcd_port" \
    --advertise-client-urls "http://$head:$etcd_port" \
    --listen-peer-urls "http://127.0.0.1:$((etcd_port + 4000))" \
    --initial-advertise-peer-urls "http://127.0.0.1:$((etcd_port + 4000))" \
    --initial-cluster "default=http://127.0.0.1:$((etcd_port + 4000))" \
    >"$GRAPH_LOGS/etcd.log" 2>&1 &
servers+=($!)
export DYN_DISCOVERY_BACKEND=etcd
export ETCD_ENDPOINTS=http://$head:$etcd_port
"#;

const NATS: &str = r#"
# A NATS server on this node.
nats_port=$((28000 + SLURM_JOB_ID % 4000))
nats-server --addr 0.0.0.0 --port "$nats_port" >"$GRAPH_LOGS/nats-server.log" 2>&1 &
servers+=($!)
export NATS_SERVER=nats://$head:$nats_port
"#;

const KEEP: &str = r#"
# Keeps one step running: started again when it fails, five times in a row at most. What ran for a
# minute was well. A program that says that its command line is wrong (2) is not asked again.
keep() {
    local name=$1 failures=0 began code
    shift
    trap '' TERM
    while :; do
        began=$SECONDS
        srun --job-name="$name" --output="$GRAPH_LOGS/$name.log" --open-mode=append \
            --kill-on-bad-exit=1 "$@"
        code=$?
        [ -e "$GRAPH_LOGS/stopping" ] && return
        if [ "$code" -eq 0 ]; then
            echo "$name is done"
            return
        fi
        [ $((SECONDS - began)) -lt 60 ] || failures=0
        failures=$((failures + 1))
        if [ "$code" -eq 2 ] || [ "$failures" -gt 5 ]; then
            echo "$name failed for good with code $code, see $GRAPH_LOGS/$name.log; the job ends"
            touch "$GRAPH_LOGS/failed"
            kill -USR1 $$
            return
        fi
        echo "$name ended with code $code; it starts again in $((1 << (failures - 1))) s"
        sleep $((1 << (failures - 1)))
        [ -e "$GRAPH_LOGS/stopping" ] && return
    done
}

stages=() names=() pids=()
start() {
    stages+=("$1") names+=("$2")
    shift
    keep "$@" &
    pids+=($!)
}
"#;

const STOPPING: &str = r#"
# Tells the steps of a stage to end, and waits until they have.
stop_stage() {
    local stage=$1 index step
    for index in "${!pids[@]}"; do
        [ "${stages[index]}" = "$stage" ] || continue
        for step in $(squeue --noheader --steps --jobs="$jobs" --format='%i %j' |
            awk -v name="${names[index]}" '$2 == name { print $1 }'); do
            scancel --signal=TERM "$step"
        done
    done
    for index in "${!pids[@]}"; do
        [ "${stages[index]}" != "$stage" ] || wait "${pids[index]}"
    done
}

stop_all() {
    touch "$GRAPH_LOGS/stopping"
    # After a plain scancel every step knows already, and a second signal would cut it off.
    if [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%T | head -n 1)" = RUNNING ]; then
        for stage in 0 1 2 3; do stop_stage "$stage"; done
    fi
    wait "${pids[@]}"
}

is_any_running() {
    local pid
    for pid in "${pids[@]}"; do
        if kill -0 "$pid" 2>/dev/null; then return 0; fi
    done
    return 1
}

stopping=
trap 'stopping=1' TERM INT USR1
"#;

fn jobs(groups: usize) -> String {
    if groups < 2 {
        return "$SLURM_JOB_ID".to_owned();
    }
    let ids: Vec<String> = (0..groups)
        .map(|index| format!("$SLURM_JOB_ID_HET_GROUP_{index}"))
        .collect();
    ids.join(",")
}

fn start(
    group: &Group<'_>,
    component: &Component,
    replica: u32,
    part: Option<&str>,
    options: &SlurmOptions,
) -> String {
    let label = &component.label;
    let mut words: Vec<String> = part.map(str::to_owned).into_iter().collect();
    words.extend(group.step(component));
    if let Some(image) = component.image.as_deref().filter(|_| options.containers) {
        words.push(quoted(&format!("--container-image={image}")));
        words.push("--container-mounts=\"$GRAPH_FOLDER:$GRAPH_FOLDER\"".to_owned());
    }
    format!(
        "start {} {label}-{replica} {} \\\n    \"$GRAPH_FOLDER/components/{label}.sh\" {replica}\n",
        component.role.stop_stage(),
        words.join(" ")
    )
}

const FINISH: &str = r#"
echo "started ${#pids[@]} steps; logs are in $GRAPH_LOGS"
while [ -z "$stopping" ] && is_any_running; do
    sleep 1 &
    wait $!
done
[ -z "$stopping" ] || echo "stopping"
stop_all
[ ${#servers[@]} -eq 0 ] || kill "${servers[@]}"
wait
rm -rf "$scratch"
echo "stopped"
[ ! -e "$GRAPH_LOGS/failed" ]
"#;
