//! What a running graph leaves for other terminals: its processes, and who runs it. No secret and
//! no environment is in it.

use crate::DeployError;
use crate::run_folder::GraphFolder;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

/// A graph that runs, or that ran when its supervisor died.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The graph's name, as written.
    pub name: String,
    /// The graph file.
    pub file: PathBuf,
    /// Who runs it.
    pub supervisor: ProcessId,
    /// When it began, in seconds since 1970.
    pub began: u64,
    /// Seconds that stopping it may take.
    pub patience: u64,
    /// Its processes.
    pub processes: Vec<ProcessState>,
}

/// A process of a graph.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessState {
    /// Its name.
    pub name: String,
    /// Its component.
    pub component: String,
    /// Where it stands, in a word.
    pub standing: String,
    /// What there is to say about that, such as why it failed.
    pub remark: String,
    /// Its id, if it is there.
    pub id: Option<ProcessId>,
    /// When it was started last, in seconds since 1970.
    pub since: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// Its GPUs.
    pub gpus: Vec<String>,
    /// What it serves, once it says so.
    pub address: Option<String>,
}

/// A process of this machine, by its id and by when it began: ids are used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its id.
    pub pid: u32,
    /// When it began, in the kernel's ticks.
    pub ticks: u64,
}

// === impl State ===

impl State {
    /// Reads the state of a graph; nothing if there is none.
    pub fn read(folder: &GraphFolder) -> Option<Self> {
        let text = fs::read(folder.state()).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Replaces the state of a graph as a whole.
    pub fn write(&self, folder: &GraphFolder) -> Result<(), DeployError> {
        let path = folder.state();
        let beside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).map_err(std::io::Error::from);
        text.and_then(|text| fs::write(&beside, text))
            .and_then(|()| fs::rename(&beside, &path))
            .map_err(DeployError::io("write", &path))
    }

    /// Forgets the state of a graph that has ended.
    pub fn remove(folder: &GraphFolder) {
        // What is not there is gone.
        fs::remove_file(folder.state()).ok();
    }

    /// The same, of a graph whose supervisor is dead: nobody wrote down what came after.
    pub fn without_supervisor(mut self) -> Self {
        for process in &mut self.processes {
            let lives = process.id.is_some_and(|id| id.lives());
            process.id = process.id.filter(|_| lives);
            process.standing = if lives { "orphaned" } else { "ended" }.to_owned();
            process.remark = String::new();
        }
        self
    }

    /// Processes that are there still.
    pub fn living(&self) -> Vec<ProcessId> {
        let ids = self.processes.iter().filter_map(|it| it.id);
        ids.filter(ProcessId::lives).collect()
    }
}

// === impl ProcessId ===

impl ProcessId {
    /// The process with this id, now.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self {
            pid,
            ticks: start_ticks(pid)?,
        })
    }

    /// Whether that very process lives. One that ended and was not waited for does not.
    pub fn lives(&self) -> bool {
        start_ticks(self.pid) == Some(self.ticks)
    }

    /// Asks it to end, if it lives.
    pub fn terminate(&self) {
        if let Some(pid) = self.pid().filter(|_| self.lives()) {
            // It may end in this very moment.
            kill_process(pid, Signal::TERM).ok();
        }
    }

    /// Kills it and whatever it started.
    pub fn kill_group(&self) {
        if let Some(pid) = self.pid() {
            kill_process_group(pid, Signal::KILL).ok();
        }
    }

    fn pid(&self) -> Option<Pid> {
        i32::try_from(self.pid).ok().and_then(Pid::from_raw)
    }
}

/// When a process began. Nothing if it has ended, waited for or not.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows are plain fields from the third on.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let has_ended = matches!(fields.first(), Some(&"Z" | &"X"));
    fields.get(19)?.parse().ok().filter(|_| !has_ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_when_it_began() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.lives());
        let other = ProcessId {
            ticks: own.ticks + 1,
            ..own
        };
        assert!(!other.lives());
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        id.terminate();
        child.wait().unwrap();
        assert!(!id.lives());
    }
}
