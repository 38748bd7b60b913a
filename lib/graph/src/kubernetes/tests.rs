//! Manifests as snapshots; `tests/graph` validates them against the schemas of Kubernetes.

use super::*;
use crate::{AnyFlags, parse};

const EXAMPLE: &str = include_str!("../../tests/data/my-graph-config.yaml");
const FULL: &str = include_str!("../../tests/data/full.yaml");

fn options() -> KubernetesOptions {
    KubernetesOptions {
        image: "dynamo:latest".to_owned(),
        multinode: Multinode::StatefulSet,
        custom_resource: false,
    }
}

fn rendered(text: &str, options: &KubernetesOptions) -> String {
    let graph = parse("graph.yaml", text, &AnyFlags).unwrap();
    let carried = Carried::from([(
        "config/engine.json".to_owned(),
        "{\n  \"a\": 1\n}\n".to_owned(),
    )]);
    let rendered = render(&graph, &carried, options).unwrap();
    let again = render(&graph, &carried, options).unwrap();
    assert_eq!(rendered, again);
    let files = rendered
        .files
        .iter()
        .map(|file| format!("==> {}\n{}", file.path, file.text));
    files.collect()
}

#[test]
fn the_example_as_plain_objects() {
    insta::assert_snapshot!(rendered(EXAMPLE, &options()));
}

#[test]
fn the_example_as_a_custom_resource() {
    let options = KubernetesOptions {
        custom_resource: true,
        ..options()
    };
    insta::assert_snapshot!(rendered(EXAMPLE, &options));
}

#[test]
fn everything_that_a_graph_may_say() {
    insta::assert_snapshot!(rendered(FULL, &options()));
}

#[test]
fn leader_worker_sets() {
    let options = KubernetesOptions {
        multinode: Multinode::LeaderWorkerSet,
        ..options()
    };
    let text = "version: 1\nname: g\ncomponents: [{name: w, replicas: 2, run_config: {input: dyn://a.b.c, output: vllm, num_nodes: 3}}]\n";
    insta::assert_snapshot!(rendered(text, &options));
}

#[test]
fn a_deployment_of_an_operator_takes_so_many_services() {
    let names: String = (0..26).map(|n| format!("- name: c{n}\n")).collect();
    let graph = parse(
        "f",
        &format!("version: 1\nname: g\ncomponents:\n{names}"),
        &AnyFlags,
    )
    .unwrap();
    let options = KubernetesOptions {
        custom_resource: true,
        ..options()
    };
    let error = render(&graph, &Carried::new(), &options).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("takes 25 components, and the graph has 26"),
        "{error}"
    );
}
