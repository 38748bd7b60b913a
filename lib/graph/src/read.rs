//! From a tree to a graph: what the schema cannot say is checked here. Where a value is missing
//! or wrong, a default stands in for it, so that everything else is checked all the same.

mod component;
mod fit;
mod flags;
#[cfg(test)]
mod tests;

use crate::document::{self, Content, Entry, Node};
use crate::flags::KnownFlags;
use crate::graph::{Component, Graph};
use crate::names::{MAX_OBJECT_NAME, NODES_SUFFIX, label};
use crate::problem::{GraphError, Mark, Problems};
use crate::schema::{self, GRAPH};
use crate::secret_text::SecretText;
use std::collections::BTreeMap;

/// Reads a graph, or says everything that is wrong with it. `file` is its name in messages.
pub fn parse(file: &str, text: &str, flags: &dyn KnownFlags) -> Result<Graph, GraphError> {
    let mut problems = Problems::default();
    let graph = document::parse(text, &mut problems).map(|node| {
        if let Some(kind) = node.field("apiVersion").and(node.field("kind")).and_then(Node::text) {
            let message = format!("this is a Kubernetes object of kind {kind} and no graph; kubectl apply -f takes it as it is");
            problems.add(node.mark, "", message);
            return Graph { name: String::new(), label: String::new(), components: Vec::new() };
        }
        schema::check::check(&node, &GRAPH, &mut problems);
        graph(&node, flags, &mut problems)
    });
    match (problems.into_error(file), graph) {
        (Some(error), _) => Err(error),
        (None, Some(graph)) => Ok(graph),
        (None, None) => unreachable!("text without a tree is a problem"),
    }
}

/// What all components have.
struct Shared {
    image: Option<String>,
    environment: Vec<(String, SecretText)>,
    secrets: Vec<String>,
}

/// A component's place in the file.
#[derive(Debug, Clone)]
struct Spot {
    mark: Mark,
    path: String,
}

fn graph(node: &Node, flags: &dyn KnownFlags, problems: &mut Problems) -> Graph {
    let name = text(node, "name").unwrap_or_default();
    let mut environment = environment(node, "environment", problems);
    if let Some(namespace) = text(node, "namespace") {
        merge(
            &mut environment,
            vec![("DYN_NAMESPACE".to_owned(), SecretText::plain(namespace))],
        );
    }
    let shared = Shared {
        image: text(node, "image"),
        environment,
        secrets: texts(node, "secrets")
            .iter()
            .map(|name| label(name))
            .collect(),
    };
    let nodes = node.field("components").map_or(&[][..], Node::items);
    let mut components = Vec::new();
    let mut spots = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let path = format!("components[{index}]");
        let mark = node.field("name").map_or(node.mark, |name| name.mark);
        components.push(component::read(node, &path, &shared, flags, problems));
        spots.push(Spot {
            mark,
            path: format!("{path}.name"),
        });
    }
    let graph = Graph {
        label: label(&name),
        name,
        components,
    };
    check_names(&graph, &spots, problems);
    graph
}

/// Names must differ as labels, and leave room for what objects are named after them.
fn check_names(graph: &Graph, spots: &[Spot], problems: &mut Problems) {
    let mut seen: BTreeMap<&str, (&Component, &Spot)> = BTreeMap::new();
    for (component, spot) in graph.components.iter().zip(spots) {
        if component.label.is_empty() {
            continue;
        }
        if let Some((first, place)) = seen.insert(&component.label, (component, spot)) {
            let line = place.mark.line;
            let message = match first.name == component.name {
                true => format!(
                    "{} stands on line {line} already; each component has a name of its own",
                    component.name
                ),
                false => format!(
                    "{} and {} on line {line} both become {} on Kubernetes; rename one of them",
                    component.name, first.name, component.label
                ),
            };
            problems.add(spot.mark, &spot.path, message);
        }
        let suffix = if component.is_multi_node() {
            NODES_SUFFIX
        } else {
            0
        };
        let object = graph.object_name(component);
        let most = MAX_OBJECT_NAME - suffix;
        if object.len() > most {
            let message = format!(
                "objects of {} are called {object}, which has {} characters; {most} at most, so that names of pods fit: shorten this name or that of the graph",
                component.name,
                object.len()
            );
            problems.add(spot.mark, &spot.path, message);
        }
    }
    let services = graph.components.iter().filter(|it| it.is_multi_node());
    for component in services {
        let taken = format!("{}-nodes", component.label);
        if let Some((other, spot)) = seen.get(taken.as_str()) {
            let message = format!(
                "{} becomes {taken}, which is the name of the Service of the nodes of {}; rename one of them",
                other.name, component.name
            );
            problems.add(spot.mark, &spot.path, message);
        }
    }
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.field(key)?.text().map(str::to_owned)
}

fn texts(node: &Node, key: &str) -> Vec<String> {
    let items = node.field(key).map_or(&[][..], Node::items);
    items
        .iter()
        .filter_map(|item| item.text().map(str::to_owned))
        .collect()
}

fn number<T: std::str::FromStr>(node: &Node, key: &str) -> Option<T> {
    node.field(key)?.text()?.parse().ok()
}

fn pairs(node: &Node, key: &str) -> Vec<(String, String)> {
    let entries = node.field(key).map_or(&[][..], Node::entries);
    let pair = |entry: &Entry| Some((entry.key.clone(), entry.node.text()?.to_owned()));
    entries.iter().filter_map(pair).collect()
}

/// Variables with their values; what is wrong with a reference is a problem.
fn environment(node: &Node, path: &str, problems: &mut Problems) -> Vec<(String, SecretText)> {
    let entries = node.field("environment").map_or(&[][..], Node::entries);
    let mut variables = Vec::new();
    for entry in entries {
        let Some(text) = entry.node.text() else {
            continue;
        };
        match SecretText::parse(text) {
            Ok(value) => variables.push((entry.key.clone(), value)),
            Err(message) => problems.add(entry.node.mark, format!("{path}.{}", entry.key), message),
        }
    }
    variables
}

/// Adds variables; those of a name that is there already win, in its place.
fn merge(variables: &mut Vec<(String, SecretText)>, more: Vec<(String, SecretText)>) {
    for (name, value) in more {
        match variables.iter_mut().find(|(known, _)| *known == name) {
            Some((_, former)) => *former = value,
            None => variables.push((name, value)),
        }
    }
}

/// Whether a node holds anything.
fn is_null(node: &Node) -> bool {
    node.content == Content::Null
}
