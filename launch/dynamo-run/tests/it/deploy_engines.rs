//! Graphs with engines that are not this program: several nodes of one worker that live and die
//! together, and flags as such programs read them.

use crate::deploy::{await_end_of, deploy, pid, run, state};
use crate::process::{Dynamo, Place, until};
use rustix::process::{Pid, Signal, kill_process};

/// A worker of two nodes, of which rank 1 does not end when it is asked to, and a frontend.
const RANKS: &str = "\
version: 1.0
name: small
components:
- name: front
  cmd: [dynamo, frontend]
  parameters: {http_port: 0}
- name: wide
  cmd: [sh, -c, 'case \"$*\" in *\"--node-rank 1\"*) trap \"\" TERM;; esac; echo dyn://rank.is.up; while :; do sleep 0.1; done', sh]
  parameters: {num_nodes: 2}
";

/// The ids of both ranks, once they are others than these and have said that they are up.
fn ranks(place: &Place, graph: &Dynamo, former: &[Pid]) -> Vec<Pid> {
    let mut now = Vec::new();
    until(&format!("both ranks run: {}", graph.log()), || {
        let names = ["wide-0-0", "wide-0-1"];
        now = names.iter().filter_map(|name| pid(place, name)).collect();
        let are_up = state(place).is_some_and(|state| {
            let processes = state["processes"].as_array().unwrap().iter();
            processes.skip(1).all(|it| !it["address"].is_null())
        });
        are_up && now.len() == 2 && now.iter().all(|pid| !former.contains(pid))
    });
    now
}

fn restarts(place: &Place) -> Vec<u64> {
    let state = state(place).unwrap();
    let processes = state["processes"].as_array().unwrap();
    let counts = processes.iter().map(|it| it["restarts"].as_u64().unwrap());
    counts.collect()
}

#[test]
fn ranks_of_one_worker_start_again_together_whichever_of_them_dies() {
    let place = Place::new();
    let mut graph = deploy(&place, RANKS, &["--drain-timeout", "0s"]);
    let front = pid(&place, "front-0").unwrap();
    let first = ranks(&place, &graph, &[]);

    kill_process(first[1], Signal::KILL).unwrap();
    graph.await_log("wide-0-1 * ended with signal 9");
    graph.await_log("wide-0-0 * is asked to end: wide-0-1 has, and they work together");
    let second = ranks(&place, &graph, &first);
    assert_eq!(restarts(&place), [0, 1, 1]);

    // Rank 1 does not end by itself, and rank 0 waits for it.
    kill_process(second[0], Signal::KILL).unwrap();
    graph.await_log("wide-0-1 * is asked to end: wide-0-0 has, and they work together");
    let shown = run(&place, &["deploy", "status", "small"]).stdout;
    assert!(
        shown.contains("stopping (with wide-0-0)"),
        "the table says why: {shown}"
    );
    let third = ranks(&place, &graph, &second);
    assert_eq!(restarts(&place), [0, 2, 2]);
    assert_eq!(pid(&place, "front-0"), Some(front));

    graph.signal(Signal::TERM);
    graph.wait();
    await_end_of(&[first, second, third].concat());
}

/// A program that writes down what it was told, as `argparse` reads it.
const ENGINE: &str = "\
import argparse, pathlib, sys, time
parser = argparse.ArgumentParser()
parser.add_argument('--names', nargs='+')
parser.add_argument('--sizes', type=int, nargs='*')
parser.add_argument('--offset')
parser.add_argument('--tensor-parallel-size', type=int)
args, rest = parser.parse_known_args()
args.rest = rest
pathlib.Path('told.new').write_text(repr(args))
pathlib.Path('told.new').rename('told')
print('dyn://it.is.there', flush=True)
time.sleep(1000)
";

const LISTS: &str = "
  parameters: {names: [a, b c], sizes: [1, -2], offset: \"-x\"}
";

#[test]
fn a_list_is_one_flag_with_its_values_for_engines_in_python() {
    let place = Place::new();
    std::fs::create_dir_all(place.path("python/dynamo/vllm")).unwrap();
    place.write("python/dynamo/vllm/__main__.py", ENGINE);
    let told = |component: &str| {
        let graph = format!(
            "version: 1\nname: small\ncomponents:\n- name: front\n  cmd: [dynamo, frontend]\n  parameters: {{http_port: 0}}\n- name: worker\n  environment: {{PYTHONPATH: python}}\n{component}{LISTS}"
        );
        let file = place.write("graph.yaml", &graph);
        let check = run(&place, &["deploy", "-f", &file, "--check"]).stdout;
        assert!(
            check.contains("--names a b c --sizes 1 -2 --offset=-x"),
            "{check}"
        );
        std::fs::remove_file(place.path("told")).ok();
        let mut graph = deploy(&place, &graph, &[]);
        until(&format!("it was told: {}", graph.log()), || {
            place.path("told").exists()
        });
        graph.signal(Signal::TERM);
        graph.wait();
        std::fs::read_to_string(place.path("told")).unwrap()
    };
    let expected = "names=['a', 'b c'], sizes=[1, -2], offset='-x', tensor_parallel_size=";
    let own = told("  cmd: [python3, -m, dynamo.vllm]");
    assert!(own.contains(&format!("{expected}None, rest=[]")), "{own}");
    let run_config = "  run_config: {input: \"dyn://a.b.c\", output: vllm, model_path: M, tensor_parallel_size: 2, api_key: [x, y]}";
    let served = told(run_config);
    // The keys are the frontend's, which is this program's.
    let rest = "rest=['--model-path', 'M', '--endpoint', 'dyn://a.b.c']";
    assert!(served.contains(&format!("{expected}2, {rest}")), "{served}");
}

#[test]
fn every_target_writes_lists_alike() {
    let place = Place::new();
    let component = format!("- name: worker\n  cmd: [python3, -m, dynamo.vllm]{LISTS}");
    let own = "- {name: front, cmd: [dynamo, frontend], parameters: {api_key: [one, two]}}\n";
    let graph = format!("version: 1\nname: small\ncomponents:\n{own}{component}");
    let file = place.write("graph.yaml", &graph);
    let out = |target: &str| {
        let folder = place.path(target);
        let words = ["deploy", "-f", &file, "--target", target, "--out-dir"];
        let words = [&words[..], &[folder.to_str().unwrap()]].concat();
        let ended = run(&place, &words);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let texts = ended.stdout.lines().map(std::fs::read_to_string);
        texts.map(Result::unwrap).collect::<String>()
    };
    let slurm = out("slurm");
    for said in [
        "--names a 'b c' --sizes 1 -2 --offset=-x",
        "--api-key one --api-key two",
    ] {
        assert!(slurm.contains(said), "{slurm}");
    }
    let k8s: String = out("k8s").split_whitespace().collect();
    for said in [
        r#""--names"-a-"bc"-"--sizes"-"1"-"-2"-"--offset=-x""#,
        r#""--api-key"-one-"--api-key"-two"#,
    ] {
        assert!(k8s.contains(said), "{k8s}");
    }
}
