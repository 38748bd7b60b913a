//! The graph as Kubernetes objects: plain ones, or one DynamoGraphDeployment for an operator.
//!
//! - [`pod`]: a component's pod template, one pure function; the operator makes the same pods
//! - `objects`: what stands around the pods
//! - `custom`: the DynamoGraphDeployment
//!
//! Secrets are referred to and never written.

mod custom;
mod objects;
pub mod pod;
#[cfg(test)]
mod tests;

use crate::command::{DEFAULT_HTTP_PORT, http_port};
use crate::graph::{Component, Graph};
use crate::rendered::{Carried, RenderError, Rendered, check_carried};
use crate::yaml;
use pod::{Multinode, PodContext};
use serde_json::Value;

/// How to render.
#[derive(Debug, Clone)]
pub struct KubernetesOptions {
    /// Image of components that name none.
    pub image: String,
    /// How replicas of several nodes are made.
    pub multinode: Multinode,
    /// Whether to make a DynamoGraphDeployment for an operator.
    pub custom_resource: bool,
}

/// Renders a graph: one file per component, or one for the DynamoGraphDeployment.
pub fn render(
    graph: &Graph,
    carried: &Carried,
    options: &KubernetesOptions,
) -> Result<Rendered, RenderError> {
    check_carried(graph, carried)?;
    let context = PodContext {
        graph,
        carried,
        image: &options.image,
        multinode: options.multinode,
    };
    let mut rendered = Rendered::default();
    for component in &graph.components {
        notes(&mut rendered, &context, component, options);
    }
    if options.custom_resource {
        let objects = custom::objects(&context)?;
        rendered.add(format!("{}.yaml", graph.label), file(graph, &objects));
    } else {
        for component in &graph.components {
            let objects = objects::objects(&context, component);
            rendered.add(format!("{}.yaml", component.label), file(graph, &objects));
        }
    }
    let readme = readme(graph, &rendered, options);
    rendered.add("README.md", readme);
    Ok(rendered)
}

fn file(graph: &Graph, objects: &[Value]) -> String {
    let head = format!(
        "# Written by dynamo deploy from the graph {}: change the graph and write it again.\n",
        graph.name
    );
    head + &yaml::documents(objects)
}

/// What the user should know of a component.
fn notes(
    rendered: &mut Rendered,
    context: &PodContext<'_>,
    component: &Component,
    options: &KubernetesOptions,
) {
    let name = &component.name;
    match component.image.as_deref() {
        None => rendered.note(format_args!(
            "{name} names no image: {} is written; see --image",
            options.image
        )),
        Some(image) if !is_image(image) => {
            rendered.note(format_args!("the image {image:?} of {name} is a placeholder: put an image there before kubectl apply"));
        }
        Some(_) => {}
    }
    for file in &component.files {
        if !context.carried.contains_key(file) {
            rendered.note(format_args!("{name} reads {file}, which is not beside the graph file: it has to be in the image, in the working folder"));
        }
    }
    if component.is_multi_node() {
        let how = match (options.custom_resource, options.multinode) {
            (true, _) => "the operator",
            (false, Multinode::StatefulSet) => {
                "two StatefulSets per replica, the leader's and the followers' (Kubernetes 1.31)"
            }
            (false, Multinode::LeaderWorkerSet) => {
                "a LeaderWorkerSet, whose controller has to be installed"
            }
        };
        rendered.note(format_args!(
            "{name} spans {} nodes: ranks and the leader's address come from {how}",
            component.nodes.count
        ));
    }
    let port = http_port(component);
    if options.custom_resource && component.role.is_frontend() && port != DEFAULT_HTTP_PORT {
        rendered.note(format_args!(
            "{name} listens on port {port}, and an operator's Service and probes ask port {DEFAULT_HTTP_PORT}: leave the port out"
        ));
    }
    if component.own_command().is_none() && component.role != crate::Role::Batch {
        rendered.note(format_args!(
            "{name} runs a program that is none of this project's: it has no probes"
        ));
    }
}

/// Whether a text can be the name of an image.
fn is_image(text: &str) -> bool {
    let is_end = |char: Option<char>| char.is_some_and(|it| it.is_ascii_alphanumeric());
    is_end(text.chars().next())
        && is_end(text.chars().last())
        && text
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || "._-/:@".contains(char))
}

fn readme(graph: &Graph, rendered: &Rendered, options: &KubernetesOptions) -> String {
    let mut text = format!("# {} on Kubernetes\n\n", graph.name);
    text += "    kubectl apply -f .\n    kubectl get pods -l app.kubernetes.io/part-of=";
    text += &format!("{}\n", graph.label);
    let fronts = graph.components.iter().filter(|it| it.role.is_frontend());
    for component in fronts.filter(|_| !options.custom_resource) {
        let (object, port) = (graph.object_name(component), http_port(component));
        text += &format!(
            "    kubectl port-forward service/{object} {port}:{port}    # then http://127.0.0.1:{port}/v1/models\n"
        );
    }
    text += &secrets(graph);
    if !options.custom_resource {
        text += &format!(
            "\nProcesses find each other through etcd at `{}` and may use NATS at `{}`: set\n`ETCD_ENDPOINTS` and `NATS_SERVER` under `environment` of the graph for others.\n",
            pod::ETCD_ENDPOINTS,
            pod::NATS_SERVER
        );
    }
    if !rendered.notes.is_empty() {
        text += &format!("\nTo know:\n\n{}", rendered.notes_in_markdown());
    }
    text
}

/// How the Secrets that the graph refers to are made. Values are never written.
fn secrets(graph: &Graph) -> String {
    let keys = graph.secret_keys();
    let whole = graph.whole_secrets();
    if keys.is_empty() && whole.is_empty() {
        return String::new();
    }
    let mut text = "\nSecrets have to be there first. Values are in no file here; a leading space keeps them out of\nthe history of most shells:\n\n".to_owned();
    if !keys.is_empty() {
        let literals: Vec<String> = keys
            .iter()
            .map(|key| format!("--from-literal={key}=..."))
            .collect();
        text += &format!(
            "    #  kubectl create secret generic {} {}\n",
            graph.secret_name(),
            literals.join(" ")
        );
    }
    for name in whole {
        text +=
            &format!("    #  kubectl create secret generic {name} --from-env-file={name}.env\n");
    }
    text
}
