//! Scripts as snapshots, and what bash says of them; `tests/graph` runs them on a real Slurm.

use super::*;
use crate::{AnyFlags, parse};
use std::io::Write;
use std::process::{Command, Stdio};

const EXAMPLE: &str = include_str!("../../tests/data/my-graph-config.yaml");
const FULL: &str = include_str!("../../tests/data/full.yaml");

fn options() -> SlurmOptions {
    SlurmOptions {
        options: Vec::new(),
        discovery: SlurmDiscovery::Folder(None),
        nats: false,
        separate: false,
        containers: false,
    }
}

fn rendered(text: &str, options: &SlurmOptions) -> Rendered {
    let graph = parse("graph.yaml", text, &AnyFlags).unwrap();
    let carried = Carried::from([("config/engine.json".to_owned(), "{}\n".to_owned())]);
    let rendered = render(&graph, &carried, options).unwrap();
    for file in rendered
        .files
        .iter()
        .filter(|file| file.text.starts_with("#!"))
    {
        check(&file.path, &file.text);
    }
    rendered
}

/// `bash -n`: a script that does not parse fails here and not on a cluster.
fn check(path: &str, text: &str) {
    let mut bash = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    bash.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    assert!(
        bash.wait().unwrap().success(),
        "{path} is no shell script:\n{text}"
    );
}

fn shown(rendered: &Rendered) -> String {
    let files = rendered.files.iter().map(|file| {
        let mark = if file.is_program { "*" } else { "" };
        format!("==> {}{mark}\n{}", file.path, file.text)
    });
    files.collect()
}

#[test]
fn the_example_as_a_job() {
    insta::assert_snapshot!(shown(&rendered(EXAMPLE, &options())));
}

#[test]
fn everything_that_a_graph_and_options_may_say() {
    let options = SlurmOptions {
        options: vec!["--partition=gpu".to_owned(), "--time=1:00:00".to_owned()],
        discovery: SlurmDiscovery::Etcd,
        nats: true,
        separate: true,
        containers: true,
    };
    insta::assert_snapshot!(shown(&rendered(FULL, &options)));
}

#[test]
fn what_needs_no_gpu_shares_a_node_and_its_job_is_a_plain_one() {
    let text = "version: 1\nname: g\ncomponents:\n- {name: f, cmd: [dynamo, frontend], resources: {cpu: 2, memory: 1Gi}}\n- {name: m, cmd: [dynamo, mocker], replicas: 2, resources: {memory: 512Mi}}\n";
    let rendered = rendered(text, &options());
    let script = &rendered.files[0].text;
    assert!(
        script.contains("#SBATCH --nodes=1 --ntasks=4 --cpus-per-task=1\n#SBATCH --mem=2048M\n"),
        "{script}"
    );
    assert!(!script.contains("het"), "{script}");
    assert!(
        script.contains("start 2 m-1 --nodes=1 --ntasks=1 --cpus-per-task=1 --exact --mem=512M"),
        "{script}"
    );
}
