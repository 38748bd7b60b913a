//! From a component to its pod template: the one place that knows what a pod of ours looks like.
//!
//! The environment of a pod is what stands in it: three groups, the later ones winning by name:
//! how processes find each other and listen, and the graph's variables. Nothing else is added,
//! and Kubernetes' own variables for Services are turned off.

use crate::command::{self, Hosts, Node, Word};
use crate::graph::{Component, Graph, Role};
use crate::rendered::Carried;
use crate::secret_text::{Piece, SecretText};
use serde_json::{Map, Value, json};

/// etcd of the published platform's chart.
pub const ETCD_ENDPOINTS: &str = "http://dynamo-platform-etcd:2379";

/// NATS of the published platform's chart.
pub const NATS_SERVER: &str = "nats://dynamo-platform-nats:4222";

/// Port of the status server of everything but frontends.
pub const SYSTEM_PORT: u16 = 9_090;

/// Where files that are carried along stand in a pod.
pub const FILES_FOLDER: &str = "/etc/dynamo/files";

/// How long a pod may take to end: a drain of 30 s, twice.
const TERMINATION_GRACE_SECONDS: u32 = 60;

/// Shared memory of pods with GPUs: what NCCL and engines' workers exchange through.
const SHARED_MEMORY: &str = "8Gi";

/// Failed looks of 10 s until a start-up has failed: engines load weights for up to two hours.
const WORKER_STARTUP_FAILURES: u32 = 720;

/// The same for frontends, which load nothing.
const FRONTEND_STARTUP_FAILURES: u32 = 30;

/// How replicas of several nodes are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multinode {
    /// Two StatefulSets per replica: its leader, and its followers.
    StatefulSet,
    /// One LeaderWorkerSet.
    LeaderWorkerSet,
}

/// What all pods of a graph share.
#[derive(Debug, Clone, Copy)]
pub struct PodContext<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// Files that are carried along.
    pub carried: &'a Carried,
    /// Image of components that name none.
    pub image: &'a str,
    /// How replicas of several nodes are made.
    pub multinode: Multinode,
}

/// The pod template of a component's process. `leader` is the host of the leader where there are
/// several nodes.
pub fn pod_template(
    context: &PodContext<'_>,
    component: &Component,
    node: Node,
    leader: Option<&str>,
) -> Value {
    let mut spec = Map::new();
    let mut set = |key: &str, value: Value| spec.insert(key.to_owned(), value);
    if component.role == Role::Batch {
        set("restartPolicy", json!("Never"));
    }
    set(
        "terminationGracePeriodSeconds",
        json!(TERMINATION_GRACE_SECONDS),
    );
    set("enableServiceLinks", json!(false));
    if !needs_kubernetes(component) {
        set("automountServiceAccountToken", json!(false));
    }
    set(
        "securityContext",
        json!({ "seccompProfile": { "type": "RuntimeDefault" } }),
    );
    let placement = &component.placement;
    if !placement.node_selector.is_empty() {
        let labels = placement.node_selector.iter();
        let labels: Map<String, Value> = labels
            .map(|(key, value)| (key.clone(), json!(value)))
            .collect();
        set("nodeSelector", Value::Object(labels));
    }
    if !placement.tolerations.is_empty() {
        set("tolerations", tolerations(component));
    }
    let volumes = volumes(context, component);
    set(
        "containers",
        json!([container(context, component, node, leader)]),
    );
    if !volumes.is_empty() {
        let volumes: Vec<Value> = volumes.into_iter().map(|volume| volume.source).collect();
        set("volumes", json!(volumes));
    }
    json!({
        "metadata": { "labels": labels(context.graph, component) },
        "spec": spec,
    })
}

/// Whether a process asks Kubernetes for something.
fn needs_kubernetes(component: &Component) -> bool {
    let backend = component
        .variable("DYN_DISCOVERY_BACKEND")
        .and_then(SecretText::as_plain);
    component.role == Role::Planner || backend == Some("kubernetes")
}

/// Labels of everything that belongs to a component.
pub fn labels(graph: &Graph, component: &Component) -> Value {
    json!({
        "app.kubernetes.io/name": component.label,
        "app.kubernetes.io/part-of": graph.label,
        "app.kubernetes.io/component": component.role.as_str(),
        "app.kubernetes.io/managed-by": "dynamo-deploy",
    })
}

/// The container that runs the component.
pub fn container(
    context: &PodContext<'_>,
    component: &Component,
    node: Node,
    leader: Option<&str>,
) -> Value {
    let mut container = Map::new();
    let mut set = |key: &str, value: Value| container.insert(key.to_owned(), value);
    set("name", json!("main"));
    set(
        "image",
        json!(component.image.as_deref().unwrap_or(context.image)),
    );
    let words = words(context, component, node, leader);
    let (program, arguments) = words.split_at(component.cmd.len());
    set("command", json!(program));
    if !arguments.is_empty() {
        set("args", json!(arguments));
    }
    set("env", json!(environment(context, component, node)));
    if !component.secrets.is_empty() {
        let sources = component.secrets.iter();
        let sources: Vec<Value> = sources
            .map(|name| json!({ "secretRef": { "name": name } }))
            .collect();
        set("envFrom", json!(sources));
    }
    if component.own_command().is_some() && component.role != Role::Batch {
        set("ports", json!([port(component)]));
    }
    if let Some(resources) = resources(component) {
        set("resources", resources);
    }
    for (name, probe) in probes(component) {
        set(name, probe);
    }
    set(
        "securityContext",
        json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } }),
    );
    let mounts: Vec<Value> = volumes(context, component)
        .into_iter()
        .map(|it| it.mount)
        .collect();
    if !mounts.is_empty() {
        set("volumeMounts", json!(mounts));
    }
    Value::Object(container)
}

/// The command, in which Kubernetes fills in rank and leader.
fn words(
    context: &PodContext<'_>,
    component: &Component,
    node: Node,
    leader: Option<&str>,
) -> Vec<String> {
    let words = command::command(component, node, Hosts::Own);
    command::written(&words, |word| match word {
        Word::Text(text) => escaped(text),
        Word::NodeRank => match context.multinode {
            Multinode::StatefulSet => "$(NODE_RANK)".to_owned(),
            Multinode::LeaderWorkerSet => "$(LWS_WORKER_INDEX)".to_owned(),
        },
        Word::LeaderAddress => {
            let leader = leader.unwrap_or("$(LWS_LEADER_ADDRESS)");
            format!("{leader}:{}", component.nodes.leader_port)
        }
        Word::File(file) if context.carried.contains_key(file) => format!("{FILES_FOLDER}/{file}"),
        Word::File(file) => escaped(file),
        Word::HttpPort(port) => port.to_string(),
    })
}

/// A text in which Kubernetes replaces nothing.
fn escaped(text: &str) -> String {
    text.replace("$(", "$$(")
}

/// The whole environment of a pod.
fn environment(context: &PodContext<'_>, component: &Component, node: Node) -> Vec<Value> {
    let mut variables = vec![field("POD_IP", "status.podIP")];
    if node == Node::Follower && context.multinode == Multinode::StatefulSet {
        let label = "metadata.labels['apps.kubernetes.io/pod-index']";
        variables.push(field("NODE_RANK", label));
    }
    let mut settings = vec![("DYN_DISCOVERY_BACKEND", "etcd".to_owned())];
    if component.variable("DYN_DISCOVERY_BACKEND").is_none() {
        settings.push(("ETCD_ENDPOINTS", ETCD_ENDPOINTS.to_owned()));
    }
    settings.push(("NATS_SERVER", NATS_SERVER.to_owned()));
    settings.extend(listening(component));
    settings.extend(ports(component));
    variables.extend(unless_given(component, settings));
    variables.extend(given(context.graph, component));
    variables
}

/// The environment of a pod whose operator sees to discovery and ports.
pub(super) fn environment_under_operator(
    context: &PodContext<'_>,
    component: &Component,
) -> Vec<Value> {
    let mut variables = vec![field("POD_IP", "status.podIP")];
    variables.extend(unless_given(component, listening(component)));
    variables.extend(given(context.graph, component));
    variables
}

/// Settings that the graph does not have.
fn unless_given(component: &Component, settings: Vec<(&str, String)>) -> Vec<Value> {
    let settings = settings
        .into_iter()
        .filter(|(name, _)| component.variable(name).is_none());
    settings
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect()
}

/// The variables of the graph.
fn given(graph: &Graph, component: &Component) -> Vec<Value> {
    let variables = component.environment.iter();
    variables
        .flat_map(|(name, value)| variable(graph, name, value))
        .collect()
}

/// Pods are reached from others: whatever listens, listens on all addresses.
fn listening(component: &Component) -> Vec<(&'static str, String)> {
    let all = || "0.0.0.0".to_owned();
    let mut settings = vec![
        ("DYN_TCP_RPC_HOST", all()),
        ("DYN_ADVERTISE_HOST", "$(POD_IP)".to_owned()),
    ];
    match component.role {
        Role::Frontend => settings.push(("DYN_HTTP_HOST", all())),
        Role::Batch => {}
        _ => settings.push(("DYN_SYSTEM_HOST", all())),
    }
    settings
}

/// Ports that only a default would name.
fn ports(component: &Component) -> Option<(&'static str, String)> {
    match component.role {
        Role::Frontend if command::named_port(component).is_none() => {
            Some(("DYN_HTTP_PORT", command::http_port(component).to_string()))
        }
        Role::Frontend | Role::Batch => None,
        _ => Some(("DYN_SYSTEM_PORT", SYSTEM_PORT.to_string())),
    }
}

fn field(name: &str, path: &str) -> Value {
    json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } })
}

/// A variable of the graph. A secret in the middle of a text gets a variable of its own, which
/// Kubernetes then puts into the text.
fn variable(graph: &Graph, name: &str, value: &SecretText) -> Vec<Value> {
    let reference = |name: &str, key: &str| {
        let source = json!({ "secretKeyRef": { "name": graph.secret_name(), "key": key } });
        json!({ "name": name, "valueFrom": source })
    };
    if let [Piece::Secret(key)] = value.pieces() {
        return vec![reference(name, key)];
    }
    let own = |key: &str| format!("GRAPH_SECRET_{key}");
    let mut variables: Vec<Value> = value
        .secrets()
        .map(|key| reference(&own(key), key))
        .collect();
    let text = value.written(|piece| match piece {
        Piece::Text(text) => escaped(text),
        Piece::Secret(key) => format!("$({})", own(key)),
    });
    variables.push(json!({ "name": name, "value": text }));
    variables
}

/// The port that others ask: requests of a frontend, the status of the rest.
pub(crate) fn port(component: &Component) -> Value {
    let (name, port) = match component.role {
        Role::Frontend => ("http", command::http_port(component)),
        _ => ("system", system_port(component)),
    };
    json!({ "name": name, "containerPort": port, "protocol": "TCP" })
}

fn system_port(component: &Component) -> u16 {
    let variable = component
        .variable("DYN_SYSTEM_PORT")
        .and_then(SecretText::as_plain);
    variable
        .and_then(|text| text.parse().ok())
        .unwrap_or(SYSTEM_PORT)
}

/// What one process needs: memory and GPUs are limited to what is requested; cores are not.
pub(crate) fn resources(component: &Component) -> Option<Value> {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    let resources = &component.resources;
    if let Some(cpu) = resources.cpu {
        requests.insert("cpu".to_owned(), json!(cpu.to_string()));
    }
    if let Some(memory) = resources.memory {
        requests.insert("memory".to_owned(), json!(memory.to_string()));
        limits.insert("memory".to_owned(), json!(memory.to_string()));
    }
    if let Some(gpus) = resources.gpus.filter(|gpus| *gpus > 0) {
        requests.insert("nvidia.com/gpu".to_owned(), json!(gpus.to_string()));
        limits.insert("nvidia.com/gpu".to_owned(), json!(gpus.to_string()));
    }
    let mut value = Map::new();
    for (name, amounts) in [("requests", requests), ("limits", limits)] {
        if !amounts.is_empty() {
            value.insert(name.to_owned(), Value::Object(amounts));
        }
    }
    (!value.is_empty()).then_some(Value::Object(value))
}

/// Programs of this project say how they are; what others would say is not known.
fn probes(component: &Component) -> Vec<(&'static str, Value)> {
    if component.own_command().is_none() || component.role == Role::Batch {
        return Vec::new();
    }
    let (port, startup) = match component.role {
        Role::Frontend => ("http", FRONTEND_STARTUP_FAILURES),
        _ => ("system", WORKER_STARTUP_FAILURES),
    };
    let probe = |path: &str, failures: u32| {
        json!({
            "httpGet": { "path": path, "port": port },
            "periodSeconds": 10,
            "timeoutSeconds": 4,
            "failureThreshold": failures,
        })
    };
    vec![
        ("startupProbe", probe("/live", startup)),
        ("livenessProbe", probe("/live", 3)),
        ("readinessProbe", probe("/health", 3)),
    ]
}

fn tolerations(component: &Component) -> Value {
    let tolerations = component.placement.tolerations.iter();
    let tolerations = tolerations.map(|toleration| {
        let parts = [
            ("key", &toleration.key),
            ("operator", &toleration.operator),
            ("value", &toleration.value),
            ("effect", &toleration.effect),
        ];
        let parts = parts
            .into_iter()
            .filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?))));
        Value::Object(parts.collect())
    });
    tolerations.collect()
}

/// A volume with where it is seen.
pub(crate) struct VolumeMount {
    pub(crate) source: Value,
    pub(crate) mount: Value,
}

pub(crate) fn volumes(context: &PodContext<'_>, component: &Component) -> Vec<VolumeMount> {
    let mut volumes = Vec::new();
    if component.resources.gpus.is_some_and(|gpus| gpus > 0) {
        volumes.push(VolumeMount {
            source: json!({ "name": "shared-memory", "emptyDir": { "medium": "Memory", "sizeLimit": SHARED_MEMORY } }),
            mount: json!({ "name": "shared-memory", "mountPath": "/dev/shm" }),
        });
    }
    let files = carried_files(context, component);
    if !files.is_empty() {
        let items: Vec<Value> = file_keys(&files)
            .into_iter()
            .map(|(key, file)| json!({ "key": key, "path": file }))
            .collect();
        let name = files_name(context.graph, component);
        volumes.push(VolumeMount {
            source: json!({ "name": "files", "configMap": { "name": name, "items": items } }),
            mount: json!({ "name": "files", "mountPath": FILES_FOLDER, "readOnly": true }),
        });
    }
    for (index, volume) in component.placement.volumes.iter().enumerate() {
        let name = format!("volume-{index}");
        volumes.push(VolumeMount {
            source: json!({ "name": name, "persistentVolumeClaim": { "claimName": volume.claim } }),
            mount: json!({ "name": name, "mountPath": volume.mount_path }),
        });
    }
    volumes
}

/// The component's files that are there.
pub(crate) fn carried_files<'a>(
    context: &PodContext<'_>,
    component: &'a Component,
) -> Vec<&'a str> {
    let files = component.files.iter().map(String::as_str);
    files
        .filter(|file| context.carried.contains_key(*file))
        .collect()
}

/// The name of the ConfigMap with a component's files.
pub(crate) fn files_name(graph: &Graph, component: &Component) -> String {
    format!("{}-files", graph.object_name(component))
}

/// Files with their keys in the ConfigMap, which take no slashes and differ from each other.
pub(crate) fn file_keys<'a>(files: &[&'a str]) -> Vec<(String, &'a str)> {
    let is_allowed = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    let mut keys: Vec<(String, &str)> = Vec::new();
    for file in files {
        let chars = file
            .chars()
            .map(|char| if is_allowed(char) { char } else { '_' });
        let mut key: String = chars.collect();
        while keys.iter().any(|(taken, _)| *taken == key) {
            key.push('_');
        }
        keys.push((key, file));
    }
    keys
}
