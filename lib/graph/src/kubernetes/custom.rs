//! The graph as a DynamoGraphDeployment (`nvidia.com/v1alpha1`) for an operator, which adds what
//! it adds: discovery, probes, ports. Ranks and the leader's address are the operator's, too.

use super::objects;
use super::pod::{PodContext, container, environment_under_operator, volumes};
use crate::command::Node;
use crate::graph::{Component, Role};
use crate::rendered::RenderError;
use serde_json::{Map, Value, json};

/// Most services of one object: the definition's own bound.
const MAX_SERVICES: usize = 25;

/// The object, what it refers to, and Jobs for batches, which it cannot hold.
pub(super) fn objects(context: &PodContext<'_>) -> Result<Vec<Value>, RenderError> {
    let graph = context.graph;
    let (batches, served): (Vec<_>, Vec<_>) = graph
        .components
        .iter()
        .partition(|it| it.role == Role::Batch);
    if served.len() > MAX_SERVICES {
        return Err(RenderError::TooManyServices {
            most: MAX_SERVICES,
            count: served.len(),
        });
    }
    let mut objects: Vec<Value> = graph
        .components
        .iter()
        .filter_map(|it| objects::files(context, it))
        .collect();
    if !served.is_empty() {
        let services = served
            .iter()
            .map(|it| (it.label.clone(), service(context, it)));
        let services: Map<String, Value> = services.collect();
        objects.push(json!({
            "apiVersion": "nvidia.com/v1alpha1",
            "kind": "DynamoGraphDeployment",
            "metadata": {
                "name": graph.label,
                "labels": {
                    "app.kubernetes.io/part-of": graph.label,
                    "app.kubernetes.io/managed-by": "dynamo-deploy",
                },
            },
            "spec": { "services": services },
        }));
    }
    objects.extend(batches.into_iter().map(|it| objects::job(context, it)));
    Ok(objects)
}

fn service(context: &PodContext<'_>, component: &Component) -> Value {
    let mut service = Map::new();
    let mut set = |key: &str, value: Value| service.insert(key.to_owned(), value);
    let (kind, sub_kind) = match component.role {
        Role::Frontend => ("frontend", None),
        Role::Planner => ("planner", None),
        Role::Prefill => ("worker", Some("prefill")),
        Role::Decode => ("worker", Some("decode")),
        Role::Router => ("default", None),
        Role::Worker | Role::Batch => ("worker", None),
    };
    set("componentType", json!(kind));
    if let Some(sub_kind) = sub_kind {
        set("subComponentType", json!(sub_kind));
    }
    set("replicas", json!(component.replicas));
    if component.is_multi_node() {
        set("multinode", json!({ "nodeCount": component.nodes.count }));
    }
    if let Some(resources) = resources(component) {
        set("resources", resources);
    }
    let pod = pod_spec(context, component);
    set("extraPodSpec", pod);
    Value::Object(service)
}

/// The form of the definition: GPUs by their own key.
fn resources(component: &Component) -> Option<Value> {
    let mut resources = super::pod::resources(component)?;
    for amounts in resources.as_object_mut()?.values_mut() {
        let gpus = amounts
            .as_object_mut()
            .and_then(|it| it.shift_remove("nvidia.com/gpu"));
        if let Some(gpus) = gpus {
            amounts["gpu"] = gpus;
        }
    }
    Some(resources)
}

/// The pod as the graph has it; without what the operator writes.
fn pod_spec(context: &PodContext<'_>, component: &Component) -> Value {
    let mut pod = super::pod::pod_template(context, component, Node::Only, None)["spec"].take();
    let mut main = container(context, component, Node::Only, None);
    if let Some(main) = main.as_object_mut() {
        for key in [
            "name",
            "resources",
            "startupProbe",
            "livenessProbe",
            "readinessProbe",
            "ports",
            "securityContext",
        ] {
            main.shift_remove(key);
        }
        main.insert(
            "env".to_owned(),
            json!(environment_under_operator(context, component)),
        );
    }
    let mounted = volumes(context, component)
        .into_iter()
        .filter(|it| it.source["name"] != "shared-memory");
    let (sources, mounts): (Vec<Value>, Vec<Value>) =
        mounted.map(|it| (it.source, it.mount)).unzip();
    let Some(spec) = pod.as_object_mut() else {
        return pod;
    };
    // The operator has its own of these, and shared memory is on without asking.
    for key in [
        "containers",
        "volumes",
        "enableServiceLinks",
        "automountServiceAccountToken",
        "securityContext",
        "terminationGracePeriodSeconds",
    ] {
        spec.shift_remove(key);
    }
    if let Some(main) = main.as_object_mut() {
        main.shift_remove("volumeMounts");
        if !mounts.is_empty() {
            main.insert("volumeMounts".to_owned(), json!(mounts));
        }
    }
    if !sources.is_empty() {
        spec.insert("volumes".to_owned(), json!(sources));
    }
    spec.insert("mainContainer".to_owned(), main);
    pod
}
