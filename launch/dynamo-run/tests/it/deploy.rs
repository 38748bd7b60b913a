//! `dynamo deploy`: graphs as real processes that are killed, frozen and stopped, and whose
//! supervisor is killed; what is written, and what is refused before anything starts.

use crate::process::{Dynamo, Ended, Place, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use std::process::Command;

const SMALL: &str = "\
version: 1.0
name: small
components:
- name: front
  cmd: [dynamo, frontend]
  parameters: {http_port: 0}
- name: mock_worker
  cmd: [dynamo, mocker]
  replicas: 2
";

/// The binary with these words, and a folder of running graphs of the test's own. Discovery is
/// the graph's.
fn command(place: &Place, words: &[&str]) -> Command {
    let mut command = place.command(words);
    command
        .env("DYN_DEPLOY_DIR", place.path("runs"))
        .env_remove("DYN_FILE_KV");
    command
}

pub(crate) fn run(place: &Place, words: &[&str]) -> Ended {
    place.spawn("once", command(place, words)).wait()
}

/// Runs a graph here, and waits until its frontend serves.
pub(crate) fn deploy(place: &Place, graph: &str, more: &[&str]) -> Dynamo {
    let file = place.write("graph.yaml", graph);
    let words = [&["deploy", "--target", "local", "-f", &file], more].concat();
    place.serve("deploy", command(place, &words))
}

pub(crate) fn state(place: &Place) -> Option<Value> {
    let text = std::fs::read(place.path("runs/small/state.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

/// The pid of a process of the graph, if it runs.
pub(crate) fn pid(place: &Place, name: &str) -> Option<Pid> {
    let state = state(place)?;
    let processes = state["processes"].as_array()?;
    let process = processes.iter().find(|it| it["name"] == name)?;
    Pid::from_raw(i32::try_from(process["id"]["pid"].as_i64()?).ok()?)
}

fn pids(place: &Place) -> Vec<Pid> {
    let names = ["front-0", "mock-worker-0", "mock-worker-1"];
    names.iter().map(|name| pid(place, name).unwrap()).collect()
}

pub(crate) fn await_end_of(pids: &[Pid]) {
    until("its processes are gone", || {
        pids.iter().all(|pid| test_kill_process(*pid).is_err())
    });
}

fn chat(server: &Dynamo) -> u16 {
    let body = serde_json::json!({
        "model": "mock",
        "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 4,
    });
    server
        .post("/v1/chat/completions", &body.to_string())
        .status
}

#[test]
fn a_graph_serves_survives_killed_processes_and_is_looked_at_and_stopped_from_elsewhere() {
    let place = Place::new();
    let mut graph = deploy(&place, SMALL, &[]);
    graph.await_models(&["mock"]);
    assert_eq!(chat(&graph), 200);
    let plan = graph.log();
    assert!(
        plan.contains("mock-worker-1: DYN_DISCOVERY_BACKEND=file DYN_FILE_KV="),
        "{plan}"
    );

    let killed = pid(&place, "mock-worker-0").unwrap();
    kill_process(killed, Signal::KILL).unwrap();
    graph.await_log("mock-worker-0 * ended with signal 9");
    until("it runs again", || {
        pid(&place, "mock-worker-0").is_some_and(|pid| pid != killed)
    });
    let shown = run(&place, &["deploy", "status"]).stdout;
    assert!(shown.contains("front-0        running"), "{shown}");
    until("the table says what the worker serves", || {
        let shown = run(&place, &["deploy", "status", "small"]).stdout;
        let line = shown.lines().find(|line| line.starts_with("mock-worker-0"));
        line.is_some_and(|line| {
            line.contains("running") && line.contains("dyn://dynamo.backend.generate")
        })
    });
    let logs = run(&place, &["deploy", "logs", "small", "mock_worker"]).stdout;
    assert!(
        logs.contains("mock-worker-1 | ") && !logs.contains("front-0"),
        "{logs}"
    );
    assert_eq!(chat(&graph), 200);

    let pids = pids(&place);
    let stopped = run(&place, &["deploy", "stop", "small"]);
    assert_eq!(stopped.code, Some(0), "{}", stopped.stderr);
    let ended = graph.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    await_end_of(&pids);
    assert_eq!(state(&place), None);
    let unknown = run(&place, &["deploy", "stop", "small"]);
    assert_eq!(unknown.code, Some(1));
    assert!(
        unknown
            .stderr
            .contains("no graph small runs here; none does"),
        "{}",
        unknown.stderr
    );
    let logs = run(&place, &["deploy", "logs", "small", "--tail", "1"]).stdout;
    assert_eq!(logs.lines().count(), 3, "{logs}");
}

#[test]
fn frontends_have_ended_before_workers_are_asked_to() {
    let place = Place::new();
    let mut graph = deploy(&place, SMALL, &["--no-logs"]);
    graph.await_models(&["mock"]);
    let pids = pids(&place);
    // A frontend that is frozen does not end: nobody after it is asked.
    kill_process(pids[0], Signal::STOP).unwrap();
    graph.signal(Signal::INT);
    graph.await_log("stopping: frontends finish first");
    until("the frontend is asked", || {
        let state = state(&place).unwrap();
        state["processes"][0]["standing"] == "stopping"
    });
    assert_eq!(
        state(&place).unwrap()["processes"][1]["standing"],
        "running"
    );
    kill_process(pids[0], Signal::CONT).unwrap();
    let ended = graph.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    await_end_of(&pids);
}

#[test]
fn who_does_not_end_in_time_is_killed_and_a_second_request_kills_at_once() {
    let place = Place::new();
    let mut graph = deploy(&place, SMALL, &["--drain-timeout", "1s"]);
    let frozen = pids(&place);
    kill_process(frozen[2], Signal::STOP).unwrap();
    graph.signal(Signal::TERM);
    let ended = graph.wait();
    assert_eq!(ended.code, Some(3), "{}", ended.stderr);
    await_end_of(&frozen);

    let mut graph = deploy(&place, SMALL, &[]);
    let frozen = pids(&place);
    kill_process(frozen[0], Signal::STOP).unwrap();
    graph.signal(Signal::INT);
    graph.await_log("stopping");
    graph.signal(Signal::INT);
    assert_eq!(graph.wait().code, Some(3));
    await_end_of(&frozen);
}

#[test]
fn a_killed_supervisor_leaves_nothing_and_the_next_one_takes_over() {
    let place = Place::new();
    let mut first = deploy(&place, SMALL, &[]);
    first.await_models(&["mock"]);
    let file = place.path("graph.yaml");
    let words = ["deploy", "--target", "local", "-f", file.to_str().unwrap()];
    let second = run(&place, &words);
    assert_eq!(second.code, Some(1));
    assert!(
        second.stderr.contains("the graph small runs already"),
        "{}",
        second.stderr
    );

    let orphans = pids(&place);
    first.signal(Signal::KILL);
    assert_eq!(first.wait().code, None);
    await_end_of(&orphans);
    let shown = run(&place, &["deploy", "status"]).stdout;
    assert!(
        shown.contains("is dead, and dynamo deploy stop small cleans up"),
        "{shown}"
    );

    let mut next = place.serve("next", command(&place, &words));
    next.await_models(&["mock"]);
    let pids = pids(&place);
    next.signal(Signal::TERM);
    assert_eq!(next.wait().code, Some(0));
    await_end_of(&pids);
}

#[test]
fn secrets_reach_processes_and_nothing_that_is_shown_or_kept() {
    let place = Place::new();
    let graph = "\
version: 1
name: small
components:
- name: front
  cmd: [dynamo, frontend]
  parameters: {http_port: 0}
- name: keeper
  cmd: [sh, -c, '[ \"${#TOKEN}-${#A}\" = 7-7 ] && echo dyn://it.is.there; exec sleep 1000']
  environment: {TOKEN: \"${{ secrets.TOKEN }}\"}
  secrets: [whole]
";
    let file = place.write("graph.yaml", graph);
    let refused = run(&place, &["deploy", "--target", "local", "-f", &file]);
    assert_eq!(refused.code, Some(1));
    for said in [
        "keeper: the secret TOKEN is missing",
        "keeper: the Secret whole is missing",
    ] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    std::fs::create_dir(place.path("secrets")).unwrap();
    place.write("secrets/whole.env", "A=hunter3\n");
    let secrets = place.write("own.env", "TOKEN=hunter2\n");
    let mut graph = deploy(&place, graph, &["--secrets-file", &secrets]);
    until("the secrets are there", || {
        state(&place).is_some_and(|state| state["processes"][1]["address"] == "dyn://it.is.there")
    });
    let kept = std::fs::read_to_string(place.path("runs/small/state.json")).unwrap();
    assert!(!kept.contains("hunter2") && !kept.contains("hunter3"));
    graph.signal(Signal::TERM);
    let ended = graph.wait();
    let plan = ended.stderr.clone() + &ended.stdout;
    assert!(
        plan.contains("keeper-0: [Secret whole]") && plan.contains("TOKEN='${{ secrets.TOKEN }}'"),
        "{plan}"
    );
    assert!(
        !plan.contains("hunter2"),
        "the plan or the log shows a secret"
    );
}

#[test]
fn what_cannot_run_here_is_told_before_anything_starts() {
    let place = Place::new();
    let of = |components: &str| format!("version: 1\nname: small\ncomponents:\n{components}");
    let cases = [
        (
            of("- {name: w, cmd: [dynamo, mocker], replicas: 2, resources: {gpu: 2}}\n"),
            &["--gpus", "3"][..],
            1,
            "asks for 4 GPUs (w: 4), and this machine has 3",
        ),
        (
            of("- {name: w, cmd: [no-such-program]}\n"),
            &[],
            1,
            "w: the program no-such-program is not there",
        ),
        (
            of("- {name: w, cmd: [dynamo, mocker], parameters: {speedup_ration: 2}}\n"),
            &[],
            2,
            "graph.yaml:4:49: components[0].parameters.speedup_ration: dynamo mocker has no flag --speedup-ration; did you mean speedup_ratio",
        ),
        (
            of("- {name: w, cmd: [dynamo, frontend], parameters: {http_port: high}}\n"),
            &[],
            2,
            "components[0].parameters.http_port: \"high\" is not an integer from 0 to 65535",
        ),
        (
            of("- {name: w, replica: 2}\n"),
            &[],
            2,
            "did you mean replicas",
        ),
    ];
    for (graph, more, code, said) in cases {
        let file = place.write("graph.yaml", &graph);
        let words = [&["deploy", "--target", "local", "-f", &file], more].concat();
        let ended = run(&place, &words);
        assert_eq!(ended.code, Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains(said), "{}", ended.stderr);
        assert_eq!(state(&place), None);
    }
}

#[test]
fn a_command_line_that_is_wrong_is_not_tried_again() {
    let place = Place::new();
    let graph =
        "version: 1\nname: small\ncomponents:\n- {name: w, cmd: [dynamo, no-such-command]}\n";
    let file = place.write("graph.yaml", graph);
    let ended = run(&place, &["deploy", "--target", "local", "-f", &file]);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("w-0 * ended with exit code 2"),
        "{}",
        ended.stderr
    );
}

#[test]
fn gpus_are_shown_and_given_one_by_one() {
    let place = Place::new();
    let graph = "version: 1\nname: small\ncomponents:\n- {name: w, cmd: [dynamo, mocker], replicas: 2, resources: {gpu: 2}}\n";
    let file = place.write("graph.yaml", graph);
    let words = [
        "deploy", "--target", "local", "-f", &file, "--gpus", "4", "--check",
    ];
    let ended = run(&place, &words);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(
        lines[0].starts_with("w-0: ") && lines[0].contains(" CUDA_VISIBLE_DEVICES=0,1 "),
        "{lines:?}"
    );
    assert!(
        lines[1].starts_with("w-1: ") && lines[1].contains(" CUDA_VISIBLE_DEVICES=2,3 "),
        "{lines:?}"
    );
}

#[test]
fn what_is_written_is_listed_and_what_is_wrong_exits_with_2() {
    let place = Place::new();
    let file = place.write("graph.yaml", SMALL);
    let folder = place.path("out");
    let folder = folder.to_str().unwrap();
    let written = run(&place, &["deploy", "-f", &file, "--out_dir", folder]);
    assert_eq!(written.code, Some(0), "{}", written.stderr);
    let paths: Vec<&str> = written.stdout.lines().collect();
    let expected =
        ["front.yaml", "mock-worker.yaml", "README.md"].map(|name| format!("{folder}/{name}"));
    assert_eq!(paths, expected);
    assert!(
        written
            .stderr
            .contains("note: front names no image: dynamo:latest is written"),
        "{}",
        written.stderr
    );

    let schema = run(&place, &["deploy", "--schema"]).stdout;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(
        schema["$schema"],
        "https://json-schema.org/draft/2020-12/schema"
    );
    let checked = run(&place, &["deploy", "-f", &file, "--check"]).stdout;
    assert_eq!(
        checked,
        "front: 1 x dynamo frontend --http-port 0\nmock_worker: 2 x dynamo mocker\n"
    );

    place.write("mine.txt", "mine");
    let here = place.path("");
    let cases: &[(&[&str], &str)] = &[
        (&["deploy"], "write dynamo deploy -f graph.yaml"),
        (&["deploy", "g.yaml"], "write dynamo deploy -f g.yaml"),
        (
            &["deploy", "-f", &file, "--out-dir", here.to_str().unwrap()],
            "did not write",
        ),
        (
            &["deploy", "-f", &file, "--target", "nomad"],
            "k8s, local, slurm",
        ),
    ];
    for (words, said) in cases {
        let ended = run(&place, words);
        assert_eq!(ended.code, Some(2), "{words:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(said), "{words:?}: {}", ended.stderr);
    }
    let missing = run(&place, &["deploy", "-f", "nowhere.yaml"]);
    assert!(
        missing.stderr.contains("cannot read nowhere.yaml"),
        "{}",
        missing.stderr
    );
}

#[test]
fn verbosity_of_a_graph_is_a_flag_of_the_program() {
    let place = Place::new();
    let ended = place.run(&["frontend", "-vv", "--print-config"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}
