//! Processes of a graph as lines of a table.

use crate::state::State;

/// Most rows of a table on a screen.
pub const MAX_ROWS: usize = 30;

const TITLES: [&str; 7] = [
    "PROCESS", "STATE", "PID", "FOR", "RESTARTS", "GPUS", "SERVES",
];

/// The lines of the table. `now` is in seconds since 1970.
pub fn lines(state: &State, now: u64) -> Vec<String> {
    let mut rows: Vec<[String; 7]> = vec![TITLES.map(str::to_owned)];
    for process in state.processes.iter().take(MAX_ROWS) {
        let standing = match process.remark.as_str() {
            "" => process.standing.clone(),
            remark => format!("{} ({remark})", process.standing),
        };
        let is_there = process.id.is_some();
        rows.push([
            process.name.clone(),
            standing,
            process.id.map_or_else(dash, |id| id.pid.to_string()),
            process
                .since
                .filter(|_| is_there)
                .map_or_else(dash, |since| age(now.saturating_sub(since))),
            process.restarts.to_string(),
            if process.gpus.is_empty() {
                dash()
            } else {
                process.gpus.join(",")
            },
            process
                .address
                .clone()
                .filter(|_| is_there)
                .unwrap_or_else(dash),
        ]);
    }
    let widths: Vec<usize> = (0..TITLES.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut lines: Vec<String> = rows.iter().map(|row| line(row, &widths)).collect();
    let left_out = state.processes.len().saturating_sub(MAX_ROWS);
    if left_out > 0 {
        lines.push(format!("... and {left_out} more"));
    }
    lines
}

fn line(row: &[String; 7], widths: &[usize]) -> String {
    let cells = row
        .iter()
        .zip(widths)
        .map(|(cell, width)| format!("{cell:width$}"));
    cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
}

fn dash() -> String {
    "-".to_owned()
}

/// A number of seconds in at most two units.
fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ProcessId, ProcessState};
    use std::path::PathBuf;

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let process = |name: &str, pid: Option<u32>| ProcessState {
            name: name.to_owned(),
            component: name.to_owned(),
            standing: if pid.is_some() { "running" } else { "waiting" }.to_owned(),
            remark: if pid.is_some() { "" } else { "signal 9" }.to_owned(),
            id: pid.map(|pid| ProcessId { pid, ticks: 1 }),
            since: Some(1_000),
            restarts: 2,
            gpus: vec!["0".to_owned(), "1".to_owned()],
            address: Some("http://127.0.0.1:8000".to_owned()),
        };
        let state = State {
            name: "g".to_owned(),
            file: PathBuf::from("g.yaml"),
            supervisor: ProcessId { pid: 1, ticks: 1 },
            began: 1_000,
            patience: 60,
            processes: vec![
                process("front-0", Some(4711)),
                process("vllm-worker-0", None),
            ],
        };
        insta::assert_snapshot!(lines(&state, 4_700).join("\n"), @r"
        PROCESS        STATE               PID   FOR   RESTARTS  GPUS  SERVES
        front-0        running             4711  1h1m  2         0,1   http://127.0.0.1:8000
        vllm-worker-0  waiting (signal 9)  -     -     2         0,1   -
        ");
    }

    #[test]
    fn ages_are_short() {
        assert_eq!(
            [age(5), age(65), age(3_700), age(90_000)],
            ["5s", "1m5s", "1h1m", "1d1h"]
        );
    }
}
