//! What the schema cannot say: each mistake with its message.

use crate::{AnyFlags, KnownFlags, ParameterValue, parse};

/// Knows one flag of one command.
struct OneFlag;

impl KnownFlags for OneFlag {
    fn problem(
        &self,
        command: &str,
        _: Option<&str>,
        parameter: &str,
        _: &ParameterValue,
    ) -> Option<String> {
        let is_unknown = command == "mocker" && parameter != "speedup_ratio";
        is_unknown.then(|| "dynamo mocker has no such flag; did you mean speedup_ratio".to_owned())
    }

    fn repeats(&self, _: &str, _: Option<&str>, _: &str) -> bool {
        false
    }
}

fn said(text: &str) -> String {
    match parse("graph.yaml", text, &OneFlag) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// A graph of these components.
fn of(components: &str) -> String {
    format!("version: 1.0\nname: g\ncomponents:\n{components}")
}

/// Mistakes and what has them: components, or a whole file where it begins like one.
const MISTAKES: &[(&str, &str)] = &[
    (
        "two names that are one on Kubernetes",
        "- name: vllm_worker\n- name: vllm-Worker\n",
    ),
    ("one name twice", "- name: a\n- name: b\n- name: a\n"),
    (
        "names that leave no room",
        "version: 1\nname: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\ncomponents:\n- name: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n",
    ),
    (
        "a Service that is another's",
        "- name: w\n  parameters: {num_nodes: 2}\n- name: w_nodes\n",
    ),
    (
        "a flag with two values",
        "- name: w\n  run_config:\n    model_path: a\n    parameters: {model-path: b}\n  parameters: {model_path: a}\n",
    ),
    (
        "a rank of its own",
        "- name: w\n  run_config: {num_nodes: 2, node_rank: 1}\n",
    ),
    (
        "a rank without nodes",
        "- name: w\n  run_config: {node_rank: 1}\n",
    ),
    (
        "too few GPUs",
        "- name: w\n  run_config: {tensor_parallel_size: 16, num_nodes: 2}\n  resources: {gpu: 4}\n",
    ),
    (
        "GPUs that disagree",
        "- name: w\n  resources: {gpu: 2}\n  environment: {CUDA_VISIBLE_DEVICES: \"0\"}\n",
    ),
    (
        "a conversation",
        "- name: w\n  run_config: {input: text, output: llamacpp}\n",
    ),
    (
        "several batches",
        "- name: w\n  replicas: 2\n  run_config: {input: \"batch:p.jsonl\", output: llamacpp}\n",
    ),
    (
        "a batch that is no batch",
        "- name: w\n  role: worker\n  run_config: {input: \"batch:p.jsonl\"}\n",
    ),
    (
        "a secret on the command line",
        "- name: w\n  parameters: {api_key: \"${{ secrets.KEY }}\"}\n  cmd: [run, \"${{ secrets.KEY }}\"]\n",
    ),
    (
        "a reference that is none",
        "- name: w\n  environment: {A: \"${{ env.A }}\", B: \"${{ secrets.B\"}\n",
    ),
    (
        "an engine that is nearly known",
        "- name: w\n  run_config: {input: \"dyn://a.b.c\", output: vlm}\n",
    ),
    (
        "a command that is nearly known",
        "- name: w\n  cmd: [dynamo, frontned]\n- name: v\n  cmd: [python3, -m, dynamo.sglnag]\n- name: o\n  cmd: [dynamo, another]\n",
    ),
    (
        "a command that is one text",
        "- name: w\n  cmd: dynamo frontend\n",
    ),
    (
        "one component without a list",
        "version: 1.0\nname: g\ncomponents:\n  name: w\n",
    ),
    (
        "an endpoint of four parts",
        "- name: w\n  run_config: {input: \"dyn://a.b.c.d\"}\n",
    ),
    (
        "a flag that its program does not have",
        "- name: w\n  cmd: [dynamo, mocker]\n  parameters: {speedup_ration: 2}\n",
    ),
    (
        "a file from elsewhere",
        "- name: w\n  files: [../secret, /etc/passwd]\n",
    ),
    (
        "a key at the wrong place",
        "- name: w\n  tensor_parallel_size: 2\n  replica: 2\n",
    ),
    ("a key twice", "- name: w\n  replicas: 1\n  replicas: 2\n"),
    ("no YAML", "version: 1\nname: [g\ncomponents: {}\n"),
    (
        "another kind of file",
        "apiVersion: nvidia.com/v1alpha1\nkind: DynamoGraphDeployment\n",
    ),
];

#[test]
fn mistakes_that_only_the_whole_shows() {
    let mut told = String::new();
    for (name, text) in MISTAKES {
        let text = match text.starts_with("- ") {
            true => of(text),
            false => (*text).to_owned(),
        };
        let message = said(&text);
        assert_ne!(message, "accepted", "{name}");
        told += &format!("# {name}\n{text}=> {message}\n\n");
    }
    insta::assert_snapshot!(told);
}

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_file() {
    let error =
        said("version: 2\nname: g\ncomponents:\n- name: a\n  replicas: x\n- name: A\n  role: w\n");
    let places: Vec<&str> = error
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        places,
        [
            "graph.yaml:1:10",
            "graph.yaml:5:13",
            "graph.yaml:6:9",
            "graph.yaml:7:9"
        ],
        "{error}"
    );
}

#[test]
fn what_the_graph_says_holds_for_every_component_unless_it_says_otherwise() {
    let text = "\
version: \"1\"
name: My_Graph
namespace: llama
image: all:1
environment: {A: 1, B: two}
secrets: [shared]
components:
- name: one
  image: own:1
  environment: {B: \"${{ secrets.B }}\", C: false}
  secrets: [Own_Secret, shared]
- name: two
";
    let graph = parse("graph.yaml", text, &AnyFlags).unwrap();
    assert_eq!(graph.label, "my-graph");
    let shown = |index: usize| {
        let component = &graph.components[index];
        let environment = component.environment.iter();
        let environment: Vec<String> = environment
            .map(|(name, value)| format!("{name}={}", value.shown()))
            .collect();
        (
            component.image.clone().unwrap(),
            environment.join(" "),
            component.secrets.join(" "),
        )
    };
    let two = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(
        shown(0),
        two(
            "own:1",
            "A=1 B=${{ secrets.B }} DYN_NAMESPACE=llama C=false",
            "shared own-secret"
        )
    );
    assert_eq!(
        shown(1),
        two("all:1", "A=1 B=two DYN_NAMESPACE=llama", "shared")
    );
    assert_eq!(graph.secret_keys(), ["B"]);
    assert_eq!(graph.whole_secrets(), ["own-secret", "shared"]);
}

#[test]
fn parts_are_told_by_input_and_program_unless_they_are_given() {
    let text = of("\
- {name: a, run_config: {input: http, output: dyn}}
- {name: b, cmd: [dynamo, frontend]}
- {name: c, cmd: [/usr/bin/python3, -m, dynamo.frontend]}
- {name: d, cmd: [dynamo, router]}
- {name: e, run_config: {input: \"batch:x\", output: echo}}
- {name: f, cmd: [./server]}
- {name: g, role: prefill, cmd: [python3, -m, dynamo.vllm]}
");
    let graph = parse("graph.yaml", &text, &AnyFlags).unwrap();
    let roles: Vec<&str> = graph.components.iter().map(|it| it.role.as_str()).collect();
    assert_eq!(
        roles,
        [
            "frontend", "frontend", "frontend", "router", "batch", "worker", "prefill"
        ]
    );
}
