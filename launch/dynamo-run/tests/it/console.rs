//! A prompt on standard input.

use crate::process::{Dynamo, Place};
use rustix::process::Signal;
use std::fs::File;
use std::process::Stdio;

fn say(place: &Place, words: &[&str], prompt: &str) -> Dynamo {
    let file = place.write("prompt", prompt);
    let mut command = place.command(words);
    command.stdin(File::open(file).unwrap());
    place.spawn("stdin", command)
}

#[test]
fn standard_input_is_answered_on_standard_output_and_nothing_else_is_there() {
    let place = Place::new();
    let ended = say(&place, &["run", "in=stdin", "out=echo"], "say this again\n").wait();
    assert_eq!((&*ended.stdout, ended.code), ("say this again\n", Some(0)));
    assert_eq!(ended.stderr, "");
}

#[test]
fn input_and_output_have_defaults() {
    let place = Place::new();
    let _worker = place.start("worker", crate::workers::WORKER);
    // Standard input where there is no terminal, and whatever workers announce.
    let ended = say(&place, &["run"], "through a worker").wait();
    assert_eq!(
        (&*ended.stdout, ended.code),
        ("through a worker\n", Some(0)),
        "{}",
        ended.stderr
    );
}

#[test]
fn an_empty_prompt_is_a_failure_that_says_so() {
    let place = Place::new();
    let ended = say(&place, &["run", "in=stdin", "out=echo"], "").wait();
    assert_eq!((&*ended.stdout, ended.code), ("", Some(1)));
    assert!(ended.stderr.contains("standard input is empty"));
}

#[test]
fn a_process_that_waits_for_its_prompt_can_be_ended() {
    let place = Place::new();
    let words = ["run", "in=stdin", "out=echo", "--log-level", "info"];
    let mut command = place.command(&words);
    command.stdin(Stdio::piped());
    let mut process = place.spawn("stdin", command);
    // It says nothing when it begins to wait; a signal before that ends it otherwise.
    crate::process::until("the signal is listened for", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/status", process.pid()));
        let caught = stat.unwrap_or_default();
        let caught = caught.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let bits = caught.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        bits.is_some_and(|bits| bits >> (15 - 1) & 1 == 1)
    });
    process.signal(Signal::TERM);
    let ended = process.wait();
    // Nothing was answered: a script must not take it for an empty answer.
    assert_eq!((&*ended.stdout, ended.code), ("", Some(1)));
    assert!(ended.stderr.contains("before the whole prompt was read"));
}
