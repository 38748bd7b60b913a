//! What stands around a component's pods: a Deployment, StatefulSets, a LeaderWorkerSet or a Job;
//! Services; the ConfigMap of its files.

use super::pod::{
    Multinode, PodContext, carried_files, file_keys, files_name, labels, pod_template, port,
};
use crate::command::Node;
use crate::graph::{Component, Role};
use serde_json::{Map, Value, json};

/// Times that a batch is begun anew when it fails.
const BATCH_RETRIES: u32 = 3;

/// Every object of a component, in the order in which they are needed.
pub(super) fn objects(context: &PodContext<'_>, component: &Component) -> Vec<Value> {
    let mut objects = Vec::new();
    objects.extend(files(context, component));
    if component.role.is_frontend() {
        objects.push(http_service(context, component));
    }
    if component.role == Role::Batch {
        objects.push(job(context, component));
    } else if !component.is_multi_node() {
        objects.push(deployment(context, component));
    } else {
        match context.multinode {
            Multinode::LeaderWorkerSet => objects.push(leader_worker_set(context, component)),
            Multinode::StatefulSet => {
                objects.push(nodes_service(context, component));
                for replica in 0..component.replicas {
                    objects.extend(stateful_sets(context, component, replica));
                }
            }
        }
    }
    objects
}

fn object(api: &str, kind: &str, metadata: Value, spec: Value) -> Value {
    let mut object = json!({ "apiVersion": api, "kind": kind });
    object["metadata"] = metadata;
    object["spec"] = spec;
    object
}

fn metadata(context: &PodContext<'_>, component: &Component, name: &str) -> Value {
    json!({ "name": name, "labels": labels(context.graph, component) })
}

/// Labels that tell a component's pods from all others.
fn selector(context: &PodContext<'_>, component: &Component) -> Value {
    json!({
        "app.kubernetes.io/name": component.label,
        "app.kubernetes.io/part-of": context.graph.label,
    })
}

/// The ConfigMap of the files that are carried along.
pub(super) fn files(context: &PodContext<'_>, component: &Component) -> Option<Value> {
    let files = carried_files(context, component);
    if files.is_empty() {
        return None;
    }
    let data: Map<String, Value> = file_keys(&files)
        .into_iter()
        .map(|(key, file)| (key, json!(context.carried.get(file))))
        .collect();
    let name = files_name(context.graph, component);
    Some(json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(context, component, &name),
        "data": data,
    }))
}

fn http_service(context: &PodContext<'_>, component: &Component) -> Value {
    let name = context.graph.object_name(component);
    let port = port(component)["containerPort"].clone();
    let mut selector = selector(context, component);
    if component.is_multi_node() {
        // Followers have no input.
        selector[NODE_LABEL] = json!(LEADER);
    }
    let spec = json!({
        "type": "ClusterIP",
        "selector": selector,
        "ports": [{ "name": "http", "port": port, "targetPort": "http", "protocol": "TCP" }],
    });
    object("v1", "Service", metadata(context, component, &name), spec)
}

fn deployment(context: &PodContext<'_>, component: &Component) -> Value {
    let name = context.graph.object_name(component);
    let spec = json!({
        "replicas": component.replicas,
        "selector": { "matchLabels": selector(context, component) },
        "template": pod_template(context, component, Node::Only, None),
    });
    object(
        "apps/v1",
        "Deployment",
        metadata(context, component, &name),
        spec,
    )
}

/// A batch ends: it is a Job.
pub(super) fn job(context: &PodContext<'_>, component: &Component) -> Value {
    let name = context.graph.object_name(component);
    let spec = json!({
        "backoffLimit": BATCH_RETRIES,
        "template": pod_template(context, component, Node::Only, None),
    });
    object("batch/v1", "Job", metadata(context, component, &name), spec)
}

/// The label that tells a leader from its followers.
const NODE_LABEL: &str = "deploy.dynamo/node";
const LEADER: &str = "leader";
const FOLLOWER: &str = "follower";

/// Gives pods names in DNS, before they are ready too: a leader waits for its followers.
fn nodes_service(context: &PodContext<'_>, component: &Component) -> Value {
    let name = nodes_service_name(context, component);
    let spec = json!({
        "clusterIP": "None",
        "publishNotReadyAddresses": true,
        "selector": selector(context, component),
        "ports": [{ "name": "leader", "port": component.nodes.leader_port, "protocol": "TCP" }],
    });
    object("v1", "Service", metadata(context, component, &name), spec)
}

fn nodes_service_name(context: &PodContext<'_>, component: &Component) -> String {
    format!("{}-nodes", context.graph.object_name(component))
}

/// The leader and the followers of one replica. Followers are numbered from 1: the number of a
/// pod is its rank.
fn stateful_sets(context: &PodContext<'_>, component: &Component, replica: u32) -> [Value; 2] {
    let base = format!("{}-{replica}", context.graph.object_name(component));
    let service = nodes_service_name(context, component);
    let leader = format!("{base}-{LEADER}-0.{service}");
    let set = |role: &str, node: Node, replicas: u32, first: u32| {
        let name = format!("{base}-{role}");
        let mut selector = selector(context, component);
        let own = [
            (NODE_LABEL, json!(role)),
            (REPLICA_LABEL, json!(replica.to_string())),
        ];
        let mut template = pod_template(context, component, node, Some(&leader));
        for (key, value) in own {
            template["metadata"]["labels"][key] = value.clone();
            selector[key] = value;
        }
        let mut spec = json!({
            "replicas": replicas,
            "serviceName": service,
            "podManagementPolicy": "Parallel",
            "selector": { "matchLabels": selector },
            "template": template,
        });
        if first > 0 {
            spec["ordinals"] = json!({ "start": first });
        }
        object(
            "apps/v1",
            "StatefulSet",
            metadata(context, component, &name),
            spec,
        )
    };
    [
        set(LEADER, Node::Leader, 1, 0),
        set(FOLLOWER, Node::Follower, component.nodes.count - 1, 1),
    ]
}

/// The label that tells the replicas of several nodes apart.
const REPLICA_LABEL: &str = "deploy.dynamo/replica";

fn leader_worker_set(context: &PodContext<'_>, component: &Component) -> Value {
    let name = context.graph.object_name(component);
    let template = |role: &str, node: Node| {
        let mut template = pod_template(context, component, node, None);
        template["metadata"]["labels"][NODE_LABEL] = json!(role);
        template
    };
    let spec = json!({
        "replicas": component.replicas,
        "startupPolicy": "LeaderCreated",
        "leaderWorkerTemplate": {
            "size": component.nodes.count,
            "leaderTemplate": template(LEADER, Node::Leader),
            "workerTemplate": template(FOLLOWER, Node::Follower),
        },
    });
    let api = "leaderworkerset.x-k8s.io/v1";
    object(
        api,
        "LeaderWorkerSet",
        metadata(context, component, &name),
        spec,
    )
}
