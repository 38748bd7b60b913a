//! Batch files: every line once, whatever happens in between.

use crate::process::{Ended, Place, until};
use rustix::process::Signal;
use std::collections::BTreeMap;

/// Lines of a batch that lasts long enough to be ended in the middle.
const LINES: u64 = 60;

/// A place with a batch file.
struct Prompts {
    place: Place,
    form: String,
}

impl Prompts {
    fn new(text: &str) -> Self {
        let place = Place::new();
        let form = format!("in=batch:{}", place.write("prompts.jsonl", text));
        Self { place, form }
    }

    fn numbered() -> Self {
        let line = |n| format!("{{\"text\": \"number {n}\"}}\n");
        Self::new(&(1..=LINES).map(line).collect::<String>())
    }

    fn words(&self) -> Vec<&str> {
        let slow = ["--token-echo-delay", "5ms", "--batch-concurrency", "4"];
        [&["run", &*self.form, "out=echo"], &slow[..]].concat()
    }

    fn results(&self) -> String {
        std::fs::read_to_string(self.place.path("output.jsonl")).unwrap_or_default()
    }

    /// Sends a signal when some lines have results and others have not.
    fn run_and_send(&self, signal: Signal) -> Ended {
        let command = self.place.command(&self.words());
        let mut process = self.place.spawn("cut off", command);
        until("some lines have results", || {
            self.results().lines().count() >= 8
        });
        process.signal(signal);
        let ended = process.wait();
        let results = self.results().lines().count() as u64;
        assert!(results < LINES, "the signal came too late");
        ended
    }

    /// The results by line; each line at most once.
    fn by_line(&self) -> BTreeMap<u64, serde_json::Value> {
        let mut by_line = BTreeMap::new();
        for line in self.results().lines() {
            let result: serde_json::Value = serde_json::from_str(line).unwrap();
            let number = result["line"].as_u64().unwrap();
            let before = by_line.insert(number, result);
            assert!(before.is_none(), "line {number} has two results");
        }
        by_line
    }

    fn run_to_the_end(&self) {
        let ended = self.place.run(&self.words());
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let said = format!("{LINES} of {LINES} requests done");
        assert!(ended.stderr.contains(&said), "{}", ended.stderr);
        let by_line = self.by_line();
        assert_eq!(by_line.len() as u64, LINES);
        for (number, result) in by_line {
            assert_eq!(result["response"], format!("number {number}").as_str());
        }
    }
}

#[test]
fn a_batch_killed_half_way_goes_on_and_has_each_line_once() {
    let prompts = Prompts::numbered();
    prompts.run_and_send(Signal::KILL);
    prompts.run_to_the_end();
    // A third run has nothing to do and does nothing.
    let before = prompts.results();
    prompts.run_to_the_end();
    assert_eq!(prompts.results(), before);
}

#[test]
fn a_batch_that_is_asked_to_end_says_how_to_go_on() {
    let prompts = Prompts::numbered();
    let ended = prompts.run_and_send(Signal::TERM);
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("run the same command again"),
        "{}",
        ended.stderr
    );
    assert!(prompts.results().ends_with('\n'), "a torn result");
    prompts.run_to_the_end();
}

#[test]
fn a_line_that_fails_has_its_error_and_stops_nobody() {
    let prompts = Prompts::new(
        "{\"text\": \"one\"}\n\
         this is not json\n\
         \n\
         {\"custom_id\": \"a\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": \
         {\"model\": \"echo\", \"messages\": [{\"role\": \"user\", \"content\": \"four\"}]}}\n\
         {\"custom_id\": \"b\", \"method\": \"POST\", \"url\": \"/v1/completions\", \"body\": \
         {\"model\": \"nobody\", \"prompt\": \"five\"}}\n",
    );
    let ended = prompts.place.run(&prompts.words());
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stderr.contains("4 of 4 requests done"));
    assert!(ended.stderr.contains("2 failed"), "{}", ended.stderr);
    let results = prompts.by_line();
    assert_eq!(results.keys().copied().collect::<Vec<_>>(), [1, 2, 4, 5]);
    assert_eq!(results[&1]["response"], "one");
    assert_eq!(results[&2]["error"]["code"], "invalid_json");
    assert_eq!(results[&4]["custom_id"], "a");
    let answer = &results[&4]["response"]["body"];
    assert_eq!(answer["choices"][0]["message"]["content"], "four");
    assert_eq!(results[&5]["response"]["status_code"], 404);
    assert_eq!(results[&5]["error"]["code"], "model_not_found");
}

#[test]
fn results_of_another_file_are_not_mixed_in() {
    let prompts = Prompts::numbered();
    prompts.run_to_the_end();
    let before = prompts.results();
    prompts
        .place
        .write("prompts.jsonl", "{\"text\": \"other\"}\n");
    let ended = prompts.place.run(&prompts.words());
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("--batch-output"), "{}", ended.stderr);
    assert_eq!(prompts.results(), before);
}

#[test]
fn a_batch_runs_on_workers_too() {
    let prompts = Prompts::new("{\"text\": \"far\"}\n{\"text\": \"away\"}\n");
    let _worker = prompts.place.start("worker", crate::workers::WORKER);
    let ended = prompts.place.run(&["run", &prompts.form, "out=auto"]);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let results = prompts.by_line();
    assert_eq!(results[&1]["response"], "far");
    assert_eq!(results[&2]["response"], "away");
}
