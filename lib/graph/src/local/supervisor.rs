//! The processes of a graph as one state machine: what to start, when to start it again, in which
//! order to stop. It starts nothing itself and knows no clock; `now` is the time since it began.
//!
//! A process that ends is started again after a wait that doubles; one that was well for a while
//! begins anew with the shortest. One that fails too often in a row, or says that its command
//! line is wrong, has failed for good; the others go on.
//!
//! Processes of one group, such as the nodes of one engine, are one in this: where one ends the
//! others cannot work, and a new one cannot join them. So they are asked to end, too, and all start
//! again together; the group's failures are counted once, whoever of it ended.
//!
//! Stopping goes by stages, the lowest first: a stage is told to end when all before it have
//! ended. Who does not end in time is killed. A second request kills all that is left.

use std::time::Duration;

/// Exit code of programs whose command line is wrong: asking again changes nothing.
const USAGE: i32 = 2;

/// How patient the supervisor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The wait after a first failure.
    pub first_wait: Duration,
    /// The longest wait.
    pub longest_wait: Duration,
    /// How long a process has to run to count as well.
    pub well_after: Duration,
    /// Failures in a row that are borne.
    pub most_failures: u32,
    /// How long a process may take to end.
    pub grace: Duration,
    /// How long a process may take to end when one of its group has ended.
    pub group_grace: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_secs(1),
            // A machine that is out of memory is not helped by starting engines more often.
            longest_wait: Duration::from_secs(30),
            // Longer than an engine takes to fail on a model that does not fit.
            well_after: Duration::from_secs(60),
            // With these waits about four minutes: time to mend what is missing.
            most_failures: 10,
            // The programs' own drain timeout of 30 s, and time to let go.
            grace: Duration::from_secs(35),
            // What it has in flight cannot be finished: time to leave discovery, no more.
            group_grace: Duration::from_secs(5),
        }
    }
}

/// What is known of a process beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// When it stops.
    pub stage: u8,
    /// Whether it ends by itself when its work is done.
    pub ends: bool,
    /// The group that it belongs to, from 0 on; all of a group are of one stage.
    pub group: usize,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Time went by.
    Tick,
    /// A process was started.
    Started(usize),
    /// A process could not be started.
    NotStarted(usize, String),
    /// A process ended.
    Ended(usize, Exit),
    /// Somebody asks for the end.
    Stop,
}

/// Something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Start(usize),
    /// Ask a process to end.
    Terminate(usize),
    /// End a process.
    Kill(usize),
}

/// Where a process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// To be started at a time.
    Waiting(Duration),
    /// Asked to be started.
    Starting,
    /// Running since a time.
    Running(Duration),
    /// Asked to end; to be killed at a time.
    Stopping(Duration),
    /// Killed, and not yet gone.
    Killed,
    /// Its work is done.
    Done,
    /// It was stopped.
    Stopped,
    /// It failed for good.
    Failed(String),
}

/// A process as the supervisor sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessView {
    /// Where it stands.
    pub standing: Standing,
    /// How often it was started again.
    pub restarts: u32,
    /// How it ended last.
    pub last_exit: Option<Exit>,
    /// The one of its group that ended by itself, where that is why this one does not run.
    pub because_of: Option<usize>,
    rules: Rules,
}

/// Processes that start and end together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Group {
    failures: u32,
    /// What becomes of its processes as they end; nothing while all is well.
    fate: Option<Fate>,
}

/// What becomes of the processes of a group when one of them has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// They start again, when all have ended and not before this time.
    Again(Duration),
    /// Their work is done.
    Done,
    /// They have failed for good.
    Failed(String),
}

/// All processes of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supervisor {
    policy: Policy,
    processes: Vec<ProcessView>,
    groups: Vec<Group>,
    stopping: bool,
    killed: bool,
}

// === impl Supervisor ===

impl Supervisor {
    /// Processes that have not been started.
    pub fn new(rules: &[Rules], policy: Policy) -> Self {
        let process = |rules: &Rules| ProcessView {
            standing: Standing::Waiting(Duration::ZERO),
            restarts: 0,
            last_exit: None,
            because_of: None,
            rules: *rules,
        };
        let groups = rules.iter().map(|it| it.group + 1).max().unwrap_or(0);
        Self {
            policy,
            processes: rules.iter().map(process).collect(),
            groups: vec![Group::default(); groups],
            stopping: false,
            killed: false,
        }
    }

    /// What to do now that something happened.
    pub fn step(&mut self, event: Event, now: Duration) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Tick => {}
            Event::Started(index) => self.started(index, now),
            Event::NotStarted(index, reason) => self.not_started(index, &reason, now),
            Event::Ended(index, exit) => self.ended(index, exit, now),
            Event::Stop if self.stopping => self.kill_all(&mut actions),
            Event::Stop => self.begin_to_stop(),
        }
        self.advance(now, &mut actions);
        actions
    }

    /// When time alone changes something.
    pub fn next_wake(&self) -> Option<Duration> {
        let times = self.processes.iter().filter_map(|it| match it.standing {
            // The end of another one is what these wait for.
            Standing::Waiting(_) if self.is_breaking_up(it.rules.group) => None,
            Standing::Waiting(time) | Standing::Stopping(time) => Some(time),
            _ => None,
        });
        times.min()
    }

    /// Whether nothing runs, and nothing will.
    pub fn is_over(&self) -> bool {
        self.processes.iter().all(|it| it.standing.is_final())
    }

    /// Whether the end was asked for.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether some process had to be killed at the end.
    pub fn had_to_kill(&self) -> bool {
        self.killed
    }

    /// Whether some process failed for good.
    pub fn has_failed(&self) -> bool {
        self.processes
            .iter()
            .any(|it| matches!(it.standing, Standing::Failed(_)))
    }

    /// Every process.
    pub fn processes(&self) -> &[ProcessView] {
        &self.processes
    }

    fn started(&mut self, index: usize, now: Duration) {
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        if process.standing == Standing::Starting {
            process.standing = Standing::Running(now);
        }
    }

    fn not_started(&mut self, index: usize, reason: &str, now: Duration) {
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        if process.standing == Standing::Starting {
            self.failed(index, reason, now);
        }
    }

    fn ended(&mut self, index: usize, exit: Exit, now: Duration) {
        let Some(process) = self.processes.get_mut(index) else {
            return;
        };
        process.last_exit = Some(exit);
        let group = &mut self.groups[process.rules.group];
        match process.standing {
            Standing::Stopping(_) | Standing::Killed => self.settle(index),
            Standing::Running(_) if process.rules.ends && exit == Exit::Code(0) => {
                group.fate.get_or_insert(Fate::Done);
                self.settle(index);
            }
            Standing::Running(since) => {
                if now.saturating_sub(since) >= self.policy.well_after {
                    group.failures = 0;
                }
                if exit == Exit::Code(USAGE) {
                    let reason = "its command line is wrong".to_owned();
                    group.fate = Some(Fate::Failed(reason));
                    self.settle(index);
                } else {
                    self.failed(index, &exit.to_string(), now);
                }
            }
            _ => {}
        }
    }

    /// A process failed: its group starts again after a while, or has failed for good.
    fn failed(&mut self, index: usize, reason: &str, now: Duration) {
        let group = &mut self.groups[self.processes[index].rules.group];
        if group.fate.is_none() {
            group.fate = Some(group.failed(&self.policy, now, reason));
        }
        self.settle(index);
    }

    /// A process has ended: it stands where its group's fate puts it.
    fn settle(&mut self, index: usize) {
        let process = &mut self.processes[index];
        let fate = &self.groups[process.rules.group].fate;
        process.standing = match fate {
            Some(Fate::Failed(reason)) => match process.because_of {
                None => Standing::Failed(reason.clone()),
                Some(_) => Standing::Failed(format!("one of its group failed: {reason}")),
            },
            Some(Fate::Done) => Standing::Done,
            Some(Fate::Again(time)) if !self.stopping => {
                process.restarts += 1;
                Standing::Waiting(*time)
            }
            Some(Fate::Again(_)) | None => Standing::Stopped,
        };
        if self.stopping && process.because_of.is_some() {
            process.standing = Standing::Stopped;
        }
    }

    /// Whether processes of a group have to end before it can start again.
    fn is_breaking_up(&self, group: usize) -> bool {
        let mut members = self.processes.iter().filter(|it| it.rules.group == group);
        self.groups[group].fate.is_some() && members.any(|it| it.standing.is_alive())
    }

    fn begin_to_stop(&mut self) {
        self.stopping = true;
        for process in &mut self.processes {
            if matches!(process.standing, Standing::Waiting(_)) {
                process.standing = Standing::Stopped;
            }
        }
    }

    fn kill_all(&mut self, actions: &mut Vec<Action>) {
        for (index, process) in self.processes.iter_mut().enumerate() {
            if process.standing.is_alive() && process.standing != Standing::Killed {
                process.standing = Standing::Killed;
                self.killed = true;
                actions.push(Action::Kill(index));
            }
        }
    }

    /// What is due: groups that break up, the stage that stops, starts.
    fn advance(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let alive = self.processes.iter().filter(|it| it.standing.is_alive());
        let stage = alive.map(|it| it.rules.stage).min();
        for index in 0..self.processes.len() {
            let broken = self.breaker(index);
            let process = &mut self.processes[index];
            match process.standing {
                Standing::Running(_) if broken.is_some() => {
                    process.because_of = broken;
                    process.standing = Standing::Stopping(now + self.policy.group_grace);
                    actions.push(Action::Terminate(index));
                }
                Standing::Running(_) if self.stopping && Some(process.rules.stage) == stage => {
                    process.standing = Standing::Stopping(now + self.policy.grace);
                    actions.push(Action::Terminate(index));
                }
                Standing::Stopping(time) if time <= now => {
                    process.standing = Standing::Killed;
                    self.killed |= self.stopping;
                    actions.push(Action::Kill(index));
                }
                _ => {}
            }
        }
        for group in 0..self.groups.len() {
            self.start(group, now, actions);
        }
    }

    /// The process whose end breaks up the group of a running one.
    fn breaker(&self, index: usize) -> Option<usize> {
        let group = self.processes[index].rules.group;
        self.groups[group].fate.as_ref()?;
        let mut members = self.processes.iter().enumerate();
        let first = members.find(|(_, it)| {
            it.rules.group == group && it.because_of.is_none() && !it.standing.is_alive()
        });
        first.map(|(index, _)| index)
    }

    /// Starts those of a group that wait, all at once.
    fn start(&mut self, group: usize, now: Duration, actions: &mut Vec<Action>) {
        if self.is_breaking_up(group) {
            return;
        }
        for (index, process) in self.processes.iter_mut().enumerate() {
            let is_due = matches!(process.standing, Standing::Waiting(time) if time <= now);
            if process.rules.group == group && is_due {
                self.groups[group].fate = None;
                process.because_of = None;
                process.standing = Standing::Starting;
                actions.push(Action::Start(index));
            }
        }
    }
}

// === impl Group ===

impl Group {
    /// Counts a failure: starts again after a wait, or gives up.
    fn failed(&mut self, policy: &Policy, now: Duration, reason: &str) -> Fate {
        self.failures += 1;
        if self.failures > policy.most_failures {
            let times = self.failures;
            return Fate::Failed(format!(
                "failed {times} times in a row, last with: {reason}"
            ));
        }
        let doublings = (self.failures - 1).min(16);
        let wait = policy.first_wait.saturating_mul(1 << doublings);
        Fate::Again(now + wait.min(policy.longest_wait))
    }
}

// === impl Standing ===

impl Standing {
    /// Whether a process may be there.
    pub fn is_alive(&self) -> bool {
        matches!(
            self,
            Self::Starting | Self::Running(_) | Self::Stopping(_) | Self::Killed
        )
    }

    /// Whether nothing comes after it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Done | Self::Stopped | Self::Failed(_))
    }

    /// The word for it in tables.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Waiting(_) => "waiting",
            Self::Starting => "starting",
            Self::Running(_) => "running",
            Self::Stopping(_) => "stopping",
            Self::Killed => "killed",
            Self::Done => "done",
            Self::Stopped => "stopped",
            Self::Failed(_) => "failed",
        }
    }
}

// === impl Exit ===

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

#[cfg(test)]
mod tests;
