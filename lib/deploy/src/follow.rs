//! `status`, `logs` and `stop`: a graph that runs, from another terminal.

use crate::DeployError;
use crate::log_file::LogFile;
use crate::run_folder::{GraphFolder, RunFolder};
use crate::screen::Output;
use crate::state::State;
use crate::table;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep};

/// How often something that may change is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long processes without a supervisor may take to end when they are asked to.
const ORPHANS_GRACE: Duration = Duration::from_secs(35);

/// Time of day in seconds since 1970.
pub(crate) fn wall_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Shows one graph, or all that run.
pub fn status(
    runs: &RunFolder,
    name: Option<&str>,
    output: &dyn Output,
) -> Result<(), DeployError> {
    let names = match name {
        Some(name) => vec![label(name)],
        None => running(runs),
    };
    if names.is_empty() {
        output.say("no graph runs here\n");
    }
    for name in names {
        let folder = runs.graph(&name);
        let is_run = folder.is_run();
        let state = State::read(&folder).ok_or_else(|| unknown(runs, &name))?;
        let (file, pid) = (state.file.display(), state.supervisor.pid);
        let head = match is_run {
            true => format!("{}: {file} (process {pid})", state.name),
            false => format!(
                "{}: {file}; process {pid}, which ran it, is dead, and dynamo deploy stop {name} cleans up",
                state.name
            ),
        };
        output.data(&head);
        let state = match is_run {
            true => state,
            false => state.without_supervisor(),
        };
        for line in table::lines(&state, wall_seconds()) {
            output.data(&line);
        }
    }
    Ok(())
}

/// Shows what processes logged: of one graph, or of one component or process of it.
pub async fn logs(
    runs: &RunFolder,
    (name, only): (&str, Option<&str>),
    (follow, tail): (bool, usize),
    output: &dyn Output,
) -> Result<(), DeployError> {
    let name = label(name);
    let folder = runs.graph(&name);
    let mut logs = log_files(&folder, tail);
    if logs.is_empty() {
        return Err(unknown(runs, &name));
    }
    if let Some(only) = only.map(label) {
        let known: Vec<String> = logs.iter().map(|(name, _)| name.clone()).collect();
        logs.retain(|(name, _)| *name == only || is_replica(name, &only));
        if logs.is_empty() {
            let message = format!("{name} has no process {only}; it has {}", known.join(", "));
            return Err(DeployError::Missing(vec![message]));
        }
    }
    let width = logs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    loop {
        let goes_on = follow && folder.is_run();
        for (name, log) in &mut logs {
            for line in log.read() {
                output.data(&format!("{name:width$} | {line}"));
            }
        }
        if !goes_on {
            return Ok(());
        }
        sleep(LOOK_AGAIN).await;
    }
}

/// Stops a graph: its supervisor in order, or what a dead one left.
pub async fn stop(runs: &RunFolder, name: &str, output: &dyn Output) -> Result<(), DeployError> {
    let name = label(name);
    let folder = runs.graph(&name);
    let state = State::read(&folder).ok_or_else(|| unknown(runs, &name))?;
    if !folder.is_run() {
        let stopped = clean_up(&folder).await;
        output.say(&format!(
            "{name}: its supervisor was dead; {stopped} of its processes were stopped\n"
        ));
        return Ok(());
    }
    state.supervisor.terminate();
    output.say(&format!(
        "{name}: stopping; frontends finish first, then workers\n"
    ));
    let deadline = Instant::now() + Duration::from_secs(state.patience);
    while folder.is_run() {
        if Instant::now() > deadline {
            let pid = state.supervisor.pid;
            return Err(DeployError::StillThere { name, pid });
        }
        sleep(LOOK_AGAIN).await;
    }
    // It may have died on the way.
    clean_up(&folder).await;
    output.say(&format!("{name}: stopped\n"));
    Ok(())
}

/// Ends what a dead supervisor left; gives back how many processes that were.
pub(crate) async fn clean_up(folder: &GraphFolder) -> usize {
    let Some(state) = State::read(folder) else {
        return 0;
    };
    let living = state.living();
    // They were asked by the kernel when their supervisor died, and a second signal would cut off
    // what they finish. Where the kernel did not, this is the first.
    if cfg!(not(target_os = "linux")) {
        living.iter().for_each(|id| id.terminate());
    }
    let deadline = Instant::now() + ORPHANS_GRACE;
    while Instant::now() < deadline && living.iter().any(|id| id.lives()) {
        sleep(LOOK_AGAIN).await;
    }
    for id in living.iter().filter(|id| id.lives()) {
        id.kill_group();
    }
    while living.iter().any(|id| id.lives()) {
        sleep(LOOK_AGAIN).await;
    }
    State::remove(folder);
    living.len()
}

/// Graphs that run, or that a dead supervisor left.
fn running(runs: &RunFolder) -> Vec<String> {
    let names = runs.names().into_iter();
    names
        .filter(|name| State::read(&runs.graph(name)).is_some())
        .collect()
}

fn unknown(runs: &RunFolder, name: &str) -> DeployError {
    DeployError::Unknown {
        name: name.to_owned(),
        known: running(runs),
    }
}

/// Logs of all processes, sorted by name.
fn log_files(folder: &GraphFolder, tail: usize) -> Vec<(String, LogFile)> {
    let place = folder.log("any");
    let entries = place.parent().and_then(|logs| std::fs::read_dir(logs).ok());
    let mut logs: Vec<(String, LogFile)> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = name.strip_suffix(".log")?.to_owned();
            Some((name, LogFile::last_lines(entry.path(), tail)))
        })
        .collect();
    logs.sort_by(|(a, _), (b, _)| a.cmp(b));
    logs
}

/// Whether a process is one of a component: its name, and numbers after it.
fn is_replica(process: &str, component: &str) -> bool {
    let rest = process
        .strip_prefix(component)
        .and_then(|rest| rest.strip_prefix('-'));
    rest.is_some_and(|rest| {
        rest.chars()
            .all(|char| char.is_ascii_digit() || char == '-')
    })
}

/// Names are taken as the graph has them, too.
fn label(name: &str) -> String {
    name.to_ascii_lowercase().replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_names_its_processes_and_no_others() {
        assert!(is_replica("vllm-worker-0", "vllm-worker"));
        assert!(is_replica("vllm-worker-0-1", "vllm-worker"));
        assert!(!is_replica("vllm-worker-0", "vllm"));
        assert!(!is_replica("vllm-worker", "vllm-worker"));
    }
}
