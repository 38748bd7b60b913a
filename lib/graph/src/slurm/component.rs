//! What runs on a node: environment and command of one component.

use super::shell::{comment, quoted};
use crate::command::{self, Hosts, Node, Word};
use crate::graph::{Component, Graph};
use crate::rendered::Carried;
use crate::secret_text::{Piece, SecretText};

/// Reads secrets where they are needed. Sourced by the components that have some.
pub(super) const SECRETS: &str = r#"# Secrets for the scripts beside this one; there are none in here.

# Runs COMMAND KEY VALUE for each KEY=VALUE line of a file. Values are taken as they are, without
# the quotes around them.
each_secret() {
    local file=$1 line key value
    shift
    while IFS= read -r line || [ -n "$line" ]; do
        line=${line#export }
        case $line in '' | '#'*) continue ;; esac
        key=${line%%=*}
        value=${line#*=}
        case $value in
            '"'*'"' | "'"*"'") value=${value:1:${#value}-2} ;;
        esac
        "$@" "$key" "$value"
    done <"$file"
}

# Puts every key of a Secret into the environment.
load_secret() {
    local file=$folder/secrets/$1.env
    if [ ! -r "$file" ]; then
        echo "$component: the Secret $1 is missing: write KEY=VALUE lines to $file" >&2
        exit 1
    fi
    set_variable() { export "$1=$2"; }
    each_secret "$file" set_variable
}

# Sets `secret` to one key: of the Secret's file if that is there, else of the environment.
find_secret() {
    local file=$folder/secrets/$1.env wanted=$2
    secret=${!wanted-}
    keep_wanted() { if [ "$1" = "$wanted" ]; then secret=$2; fi; }
    if [ -r "$file" ]; then each_secret "$file" keep_wanted; fi
    if [ -z "$secret" ]; then
        echo "$component: the secret $wanted is missing: set $wanted where you submit, or write it to $file" >&2
        exit 1
    fi
}
"#;

/// Gives the address by which Slurm itself reaches a node: names need not lead anywhere.
pub(super) const ADDRESS_OF: &str = r#"
# The address of a node, as Slurm knows it.
address_of() {
    scontrol show node --oneliner "$1" | sed 's/.* NodeAddr=\([^ ]*\).*/\1/'
}
"#;

/// The script that a step of the job runs on each of its nodes.
pub(super) fn script(graph: &Graph, component: &Component, carried: &Carried) -> String {
    let mut script = format!(
        "#!/usr/bin/env bash\n# {}: what each of its processes does on its node. The job starts it: {}.sh REPLICA\nset -euo pipefail\n\ncomponent={}\nreplica=$1\nfolder=$GRAPH_FOLDER\n",
        comment(&component.name),
        component.label,
        quoted(&component.name)
    );
    script += ADDRESS_OF;
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            script.push_str(&format!("\n# {title}\n{}\n", lines.join("\n")));
        }
    };
    section("Where it is reached.", listening(component));
    section("Secrets.", secrets(graph, component));
    section("The graph's environment.", environment(component));
    section("The nodes of this replica.", nodes(component));
    section("The program.", program(component, carried));
    script
}

fn listening(component: &Component) -> Vec<String> {
    let mut lines = vec!["address=$(address_of \"$SLURMD_NODENAME\")".to_owned()];
    let mut set = |name: &str, value: &str| {
        if component.variable(name).is_none() {
            lines.push(format!("export {name}={value}"));
        }
    };
    set("DYN_TCP_RPC_HOST", "0.0.0.0");
    set("DYN_ADVERTISE_HOST", "$address");
    if component.role.is_frontend() {
        set("DYN_HTTP_HOST", "0.0.0.0");
        let port = command::http_port(component);
        if port > 0 {
            let port = match component.replicas {
                0 | 1 => port.to_string(),
                _ => format!("$(({port} + replica))"),
            };
            let file = format!("$GRAPH_LOGS/{}-$replica.address", component.label);
            lines.push(format!("echo \"http://$address:{port}\" >\"{file}\""));
        }
    }
    lines
}

fn secrets(graph: &Graph, component: &Component) -> Vec<String> {
    let keys: Vec<&str> = component.secret_keys().collect();
    if keys.is_empty() && component.secrets.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![". \"$folder/components/secrets\"".to_owned()];
    lines.extend(
        component
            .secrets
            .iter()
            .map(|name| format!("load_secret {}", quoted(name))),
    );
    let mut seen = Vec::new();
    for key in keys {
        if !seen.contains(&key) {
            seen.push(key);
            lines.push(format!(
                "find_secret {} {key}; secret_{key}=$secret",
                quoted(&graph.secret_name())
            ));
        }
    }
    lines
}

fn environment(component: &Component) -> Vec<String> {
    let line = |(name, value): &(String, SecretText)| {
        let value = value.written(|piece| match piece {
            Piece::Text(text) => quoted(text),
            Piece::Secret(key) => format!("\"$secret_{key}\""),
        });
        format!("export {name}={value}")
    };
    component.environment.iter().map(line).collect()
}

fn nodes(component: &Component) -> Vec<String> {
    if !component.is_multi_node() {
        return Vec::new();
    }
    vec![
        "rank=$SLURM_NODEID".to_owned(),
        "leader=$(scontrol show hostnames \"$SLURM_STEP_NODELIST\" | head -n 1)".to_owned(),
        format!(
            "leader_address=$(address_of \"$leader\"):{}",
            component.nodes.leader_port
        ),
    ]
}

fn program(component: &Component, carried: &Carried) -> Vec<String> {
    let exec = |node: Node| {
        let words = command::command(component, node, Hosts::Shared);
        let words = command::written(&words, |word| match word {
            Word::Text(text) => quoted(text),
            Word::NodeRank => "\"$rank\"".to_owned(),
            Word::LeaderAddress => "\"$leader_address\"".to_owned(),
            Word::File(file) if carried.contains_key(file) => {
                format!("\"$folder\"/{}", quoted(&format!("files/{file}")))
            }
            Word::File(file) => quoted(file),
            Word::HttpPort(port) => format!("\"$(({port} + replica))\""),
        });
        format!("exec {}", words.join(" "))
    };
    if !component.is_multi_node() {
        return vec![exec(Node::Only)];
    }
    vec![
        "if [ \"$rank\" -eq 0 ]; then".to_owned(),
        format!("    {}", exec(Node::Leader)),
        "else".to_owned(),
        format!("    {}", exec(Node::Follower)),
        "fi".to_owned(),
    ]
}
