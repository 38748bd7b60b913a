//! The graph as processes of this machine: the shell around `dynamo_graph`'s supervisor. It starts
//! and signals what it is told, follows logs, and keeps the state for other terminals.
//!
//! Every process has a process group of its own, so that Ctrl-C reaches the supervisor alone, and
//! whatever a process started ends with it.

mod machine;
mod run;

pub use machine::{gpus_of_this_machine, missing_programs};
pub use run::{LocalRun, run};

use dynamo_graph::local::plan::PlannedProcess;

/// The plan as lines: for each process what is added to its environment, and its command.
pub fn plan_lines(processes: &[PlannedProcess]) -> Vec<String> {
    processes.iter().map(plan_line).collect()
}

fn plan_line(process: &PlannedProcess) -> String {
    let variables = process.environment.iter();
    let variables = variables.map(|(name, value)| format!("{name}={}", word(&value.shown())));
    let secrets = process
        .secrets
        .iter()
        .map(|name| format!("[Secret {name}]"));
    let words: Vec<String> = secrets
        .chain(variables)
        .chain(process.argv.iter().map(|text| word(text)))
        .collect();
    format!("{}: {}", process.name, words.join(" "))
}

/// A text as a shell would have it.
fn word(text: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "-_./:=,@%+".contains(char);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
