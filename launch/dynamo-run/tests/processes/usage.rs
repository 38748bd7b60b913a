//! What a user types, right and wrong: exit codes, messages, files.

use crate::harness::Place;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::io::Write;
use std::process::Stdio;

#[test]
fn a_port_in_use_fails_the_start_and_names_the_option() {
    let place = Place::new();
    let first = place.start("first", &["run", "in=http", "out=echo", "--http-port", "0"]);
    let port = first.address.rsplit(':').next().unwrap();
    let (status, _, stderr) = place.run(&["run", "in=http", "out=echo", "--http-port", port]);
    assert_eq!(status.code(), Some(1));
    assert!(
        stderr.contains(port) && stderr.contains("--http-port"),
        "{stderr}"
    );
}

#[test]
fn mistakes_on_the_command_line_exit_with_2_and_say_what_would_work() {
    let place = Place::new();
    for (words, hint) in [
        (vec!["run", "in=htpp"], "in=text, stdin, http"),
        (
            vec!["run", "in=http", "out=vllm"],
            "not part of this version",
        ),
        (vec!["frontend", "--http-prot", "1"], "--http-port"),
        (vec!["frontend", "--http-port", "99999"], "65535"),
        (vec!["frontend", "--config", "nowhere.yaml"], "nowhere.yaml"),
    ] {
        let (status, _, stderr) = place.run(&words);
        assert_eq!(status.code(), Some(2), "{words:?}: {stderr}");
        assert!(stderr.contains(hint), "{words:?}: {stderr}");
    }
}

#[test]
fn an_unknown_key_in_a_file_is_refused_with_the_nearest_one() {
    let place = Place::new();
    let file = place.path().join("serve.yaml");
    std::fs::write(&file, "frontend:\n  http_prot: 1\n").unwrap();
    let (status, _, stderr) = place.run(&["frontend", "--config", file.to_str().unwrap()]);
    assert_eq!(status.code(), Some(2));
    assert!(
        stderr.contains("http_prot") && stderr.contains("http_port"),
        "{stderr}"
    );
}

#[test]
fn print_config_says_where_each_value_comes_from() {
    let place = Place::new();
    let file = place.path().join("serve.toml");
    std::fs::write(
        &file,
        "http_host = \"127.0.0.2\"\nhttp_port = 1\nmax_prompt_tokens = 5\n",
    )
    .unwrap();
    let output = place
        .command(&[
            "frontend",
            "--config",
            file.to_str().unwrap(),
            "--http-port",
            "3",
            "--print-config",
        ])
        .env("DYN_HTTP_PORT", "2")
        .env("DYN_HTTP_HOST", "127.0.0.3")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in [
        "http_port = 3  # flag --http-port",
        "http_host = \"127.0.0.3\"  # env DYN_HTTP_HOST",
        "max_prompt_tokens = 5  # file",
        "http_max_requests = 4096  # default",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn standard_input_is_answered_on_standard_output() {
    let place = Place::new();
    let mut child = place
        .command(&["run", "in=stdin", "out=echo"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(b"say this again\n")
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "say this again\n");
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_batch_killed_half_way_goes_on_and_has_each_line_once() {
    let place = Place::new();
    let input = place.path().join("prompts.jsonl");
    let lines: String = (0..60)
        .map(|n| format!("{{\"text\": \"number {n}\"}}\n"))
        .collect();
    std::fs::write(&input, lines).unwrap();
    let form = format!("in=batch:{}", input.display());
    let words = [
        "run",
        &form,
        "out=echo",
        "--token-echo-delay",
        "5ms",
        "--batch-concurrency",
        "4",
    ];
    let output = place.path().join("output.jsonl");
    let results = || std::fs::read_to_string(&output).unwrap_or_default();

    let mut child = place.command(&words).stderr(Stdio::null()).spawn().unwrap();
    crate::harness::until("some lines have results", || results().lines().count() >= 8);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::KILL).unwrap();
    child.wait().unwrap();
    assert!(results().lines().count() < 60, "the kill came too late");

    let (status, _, stderr) = place.run(&words);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.contains("60 of 60 requests done"), "{stderr}");
    let mut seen = BTreeSet::new();
    for line in results().lines() {
        let result: serde_json::Value = serde_json::from_str(line).unwrap();
        let number = result["line"].as_u64().unwrap();
        assert!(seen.insert(number), "line {number} has two results");
        let expected = format!("number {}", number - 1);
        assert_eq!(result["response"], expected.as_str());
    }
    assert_eq!(seen.len(), 60);
}
