//! Runs a graph until it is stopped.

use crate::DeployError;
use crate::child::COMMAND;
use crate::follow::{clean_up, wall_seconds};
use crate::log_file::LogFile;
use crate::run_folder::{GraphFolder, GraphLock};
use crate::screen::{Output, Screen};
use crate::secrets::Secrets;
use crate::state::{ProcessId, ProcessState, State};
use crate::table;
use dynamo_graph::local::plan::PlannedProcess;
use dynamo_graph::local::supervisor::{
    Action, Event, Exit, Policy, ProcessView, Rules, Standing, Supervisor,
};
use dynamo_runtime::Tasks;
use dynamo_runtime::shutdown::{ExitStatus, Signals};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus as ProcessExit, Stdio};
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

/// How often logs are looked at: as fast as people read.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Looks at a lock that others may hold for a moment.
const LOCK_TRIES: usize = 10;

/// Stages that stop one after the other, at most.
const STAGES: u32 = 4;

/// What a graph is run with.
#[derive(Debug)]
pub struct LocalRun<'a> {
    /// The graph's name.
    pub name: String,
    /// The graph file.
    pub file: PathBuf,
    /// The folder that processes run in.
    pub folder: PathBuf,
    /// Its processes.
    pub processes: Vec<PlannedProcess>,
    /// Its secrets.
    pub secrets: Secrets,
    /// Where state and logs are.
    pub place: GraphFolder,
    /// The program that processes begin as.
    pub dynamo: PathBuf,
    /// How patient the supervisor is.
    pub policy: Policy,
    /// Whether the lines that processes log are shown.
    pub shows_logs: bool,
    /// Where tasks belong.
    pub tasks: &'a Tasks,
}

/// A process as the shell knows it.
#[derive(Debug)]
struct Known {
    log: LogFile,
    id: Option<ProcessId>,
    since: Option<u64>,
    address: Option<String>,
}

/// Everything of a run.
struct Runner<'a> {
    run: &'a LocalRun<'a>,
    supervisor: Supervisor,
    known: Vec<Known>,
    ended: mpsc::Sender<(usize, Exit)>,
    /// Lines for people that have come up since the last look.
    news: Vec<String>,
    screen: Screen<'a>,
    written: Option<State>,
    began: u64,
    width: usize,
}

/// Runs the graph until it is stopped or over. The caller's thread must be the one that its
/// program began with: see [`crate::child`].
pub async fn run(
    run: &LocalRun<'_>,
    mut signals: Signals,
    output: &dyn Output,
    is_terminal: bool,
) -> Result<ExitStatus, DeployError> {
    let _lock = lock(run).await?;
    let left = clean_up(&run.place).await;
    if left > 0 {
        output.say(&format!(
            "{}: {left} processes of a run whose supervisor died were stopped\n",
            run.name
        ));
    }
    run.place.begin()?;
    let (sender, mut ended) = mpsc::channel(run.processes.len().max(1));
    let mut runner = Runner::new(run, sender, Screen::new(output, is_terminal));
    let start = Instant::now();
    let mut event = Event::Tick;
    loop {
        runner.handle(event, start.elapsed());
        runner.look()?;
        if runner.supervisor.is_over() {
            break;
        }
        event = tokio::select! {
            biased;
            _ = signals.next() => runner.asked_to_stop(),
            Some((index, exit)) = ended.recv() => runner.ended(index, exit),
            () = sleep(LOOK_AGAIN) => Event::Tick,
        };
    }
    State::remove(&run.place);
    Ok(runner.status())
}

/// Takes the right to run the graph. Who only looks whether it runs holds it for a moment.
async fn lock(run: &LocalRun<'_>) -> Result<GraphLock, DeployError> {
    for _ in 0..LOCK_TRIES {
        if let Some(lock) = run.place.lock()? {
            return Ok(lock);
        }
        sleep(LOOK_AGAIN).await;
    }
    let pid = State::read(&run.place).map_or(0, |state| state.supervisor.pid);
    let name = run.name.clone();
    Err(DeployError::Runs { name, pid })
}

// === impl Runner ===

impl<'a> Runner<'a> {
    fn new(run: &'a LocalRun<'a>, ended: mpsc::Sender<(usize, Exit)>, screen: Screen<'a>) -> Self {
        let rules = run.processes.iter().map(|it| Rules {
            stage: it.role.stop_stage(),
            ends: it.ends,
            group: it.group,
        });
        let known = run.processes.iter().map(|it| Known {
            log: LogFile::new(run.place.log(&it.name)),
            id: None,
            since: None,
            address: None,
        });
        Self {
            run,
            supervisor: Supervisor::new(&rules.collect::<Vec<_>>(), run.policy.clone()),
            known: known.collect(),
            ended,
            news: Vec::new(),
            screen,
            written: None,
            began: wall_seconds(),
            width: run
                .processes
                .iter()
                .map(|it| it.name.len())
                .max()
                .unwrap_or(0),
        }
    }

    /// Tells the supervisor, and does what it says.
    fn handle(&mut self, event: Event, now: Duration) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.supervisor.step(event, now) {
                match action {
                    Action::Start(index) => events.push(self.start(index)),
                    Action::Terminate(index) => {
                        self.tell_why(index);
                        if let Some(id) = self.known[index].id {
                            id.terminate();
                        }
                    }
                    Action::Kill(index) => {
                        if let Some(id) = self.known[index].id {
                            id.kill_group();
                        }
                    }
                }
            }
        }
    }

    fn start(&mut self, index: usize) -> Event {
        let process = &self.run.processes[index];
        let known = &mut self.known[index];
        known.address = None;
        match spawn(self.run, process) {
            Ok(mut child) => {
                known.id = child.id().and_then(ProcessId::of);
                known.since = Some(wall_seconds());
                let sender = self.ended.clone();
                self.run.tasks.spawn("process", async move {
                    let exit = child.wait().await.map_or(Exit::Code(-1), exit);
                    // Nobody listens when the run is over.
                    sender.send((index, exit)).await.ok();
                });
                Event::Started(index)
            }
            Err(error) => {
                self.tell(index, &format!("cannot be started: {error}"));
                Event::NotStarted(index, error.to_string())
            }
        }
    }

    fn ended(&mut self, index: usize, exit: Exit) -> Event {
        let known = &mut self.known[index];
        if let Some(id) = known.id.take() {
            // Whatever it had started, and did not stop.
            id.kill_group();
        }
        let stopping = self.supervisor.is_stopping();
        if !stopping || exit != Exit::Code(0) {
            self.tell(index, &format!("ended with {exit}"));
        }
        Event::Ended(index, exit)
    }

    /// Says why a process is asked to end where that is not because all are.
    fn tell_why(&mut self, index: usize) {
        if let Some(other) = self.supervisor.processes()[index].because_of {
            let other = self.run.processes[other].name.clone();
            self.tell(
                index,
                &format!("is asked to end: {other} has, and they work together"),
            );
        }
    }

    fn asked_to_stop(&mut self) -> Event {
        let text = match self.supervisor.is_stopping() {
            false => {
                "stopping: frontends finish first, then workers; asked again, everything is killed"
            }
            true => "killing what is left",
        };
        self.news.push(text.to_owned());
        Event::Stop
    }

    fn tell(&mut self, index: usize, text: &str) {
        let name = &self.run.processes[index].name;
        self.news
            .push(format!("{name:width$} * {text}", width = self.width));
    }

    /// Reads logs, shows what is new, and keeps the state.
    fn look(&mut self) -> Result<(), DeployError> {
        for index in 0..self.known.len() {
            self.read_log(index);
        }
        let state = self.state();
        let lines = std::mem::take(&mut self.news);
        let has_changed = self.written.as_ref() != Some(&state);
        if has_changed {
            state.write(&self.run.place)?;
        }
        let mut table = table::lines(&state, wall_seconds());
        table.insert(0, String::new());
        self.screen.show(&lines, &table);
        self.written = Some(state);
        Ok(())
    }

    fn read_log(&mut self, index: usize) {
        let name = &self.run.processes[index].name;
        for line in self.known[index].log.read() {
            if self.known[index].address.is_none() && is_address(&line) {
                if self.run.processes[index].role.is_frontend() {
                    self.screen.data(&line);
                }
                self.known[index].address = Some(line.clone());
            }
            if self.run.shows_logs {
                self.news
                    .push(format!("{name:width$} | {line}", width = self.width));
            }
        }
    }

    fn state(&self) -> State {
        let views = self.supervisor.processes().iter();
        let processes = self.run.processes.iter().zip(views).zip(&self.known);
        let processes = processes.map(|((process, view), known)| ProcessState {
            name: process.name.clone(),
            component: process.component.clone(),
            standing: view.standing.as_str().to_owned(),
            remark: self.remark(view),
            id: known.id,
            since: known.since,
            restarts: view.restarts,
            gpus: process.gpus.clone(),
            address: known.address.clone(),
        });
        State {
            name: self.run.name.clone(),
            file: self.run.file.clone(),
            supervisor: ProcessId::of(std::process::id()).unwrap_or(ProcessId {
                pid: std::process::id(),
                ticks: 0,
            }),
            began: self.began,
            patience: (self.run.policy.grace * (STAGES + 1)).as_secs(),
            processes: processes.collect(),
        }
    }

    /// Why a process stands where it stands.
    fn remark(&self, view: &ProcessView) -> String {
        let other = view.because_of.map(|other| &self.run.processes[other].name);
        match (&view.standing, other, view.last_exit) {
            (Standing::Failed(reason), _, _) => reason.clone(),
            (Standing::Waiting(_) | Standing::Stopping(_) | Standing::Killed, Some(other), _) => {
                format!("with {other}")
            }
            (Standing::Waiting(_), None, Some(exit)) => exit.to_string(),
            _ => String::new(),
        }
    }

    fn status(&self) -> ExitStatus {
        match () {
            () if self.supervisor.has_failed() => ExitStatus::Failure,
            () if self.supervisor.had_to_kill() => ExitStatus::DrainTimedOut,
            () => ExitStatus::Success,
        }
    }
}

fn spawn(run: &LocalRun<'_>, process: &PlannedProcess) -> std::io::Result<Child> {
    let log = LogFile::append(&run.place.log(&process.name))?;
    let variables = run.secrets.environment(process);
    Command::new(&run.dynamo)
        .arg(COMMAND)
        .arg(std::process::id().to_string())
        .args(&process.argv)
        .envs(variables.iter().map(|(name, value)| (name, value.expose())))
        .current_dir(if run.folder == Path::new("") {
            Path::new(".")
        } else {
            &run.folder
        })
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
}

fn exit(status: ProcessExit) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Code(-1),
    }
}

/// Whether a line says what a process serves: programs of this project print it alone.
fn is_address(line: &str) -> bool {
    let starts = ["http://", "https://", "dyn://"];
    starts.iter().any(|start| line.starts_with(start)) && !line.contains(char::is_whitespace)
}
