//! The processes of a run: started, killed, frozen, ended in order, started again, each under its
//! name and on the port that it had.

use crate::faults::{Fault, Kind, Plan};
use crate::load::{Moment, Progress, now};
use dynamo_testkit::etcd_server::free_port;
use dynamo_testkit::http::ask;
use dynamo_testkit::process::{Dynamo, Place, until};
use dynamo_testkit::site::Site;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How often a run looks whether something is due.
const TICK: Duration = Duration::from_millis(20);

/// Longest time from a process's start until it serves: a model's loading on a busy machine, many
/// times over.
const START: Duration = Duration::from_secs(90);

/// What begins the line of an answer that moves, in a frontend's log.
const MOVES: &str = "an answer moves to another worker";

/// The processes of a run, and the folder that they share.
#[derive(Debug)]
pub struct Fleet {
    place: Place,
    /// What all processes are told, such as where etcd is.
    planes: Vec<String>,
}

/// A process and those that take its place.
#[derive(Debug)]
pub struct Member {
    name: String,
    words: Vec<String>,
    site: Site,
    /// Where it is asked, if it can be.
    pub address: String,
    process: Option<Dynamo>,
    /// What former ones logged.
    logged: Vec<String>,
    /// When it was not there, or stood still: from, to.
    pub absences: Vec<(Moment, Moment)>,
}

/// Makes the faults of a plan and mends them.
#[derive(Debug)]
pub struct Injector {
    plan: Plan,
    began: Instant,
    next: u32,
    /// What is to be mended, and when.
    open: Vec<(Instant, usize, Kind)>,
    /// What was started again and does not serve yet.
    starting: Vec<usize>,
    /// Faults so far by kind.
    pub made: BTreeMap<&'static str, usize>,
}

// === impl Fleet ===

impl Fleet {
    /// Processes that find each other through a folder.
    pub fn new() -> Self {
        Self::over(&[])
    }

    /// Processes that are told these words as well.
    pub fn over(planes: &[String]) -> Self {
        Self {
            place: Place::new(),
            planes: planes.to_vec(),
        }
    }

    /// Starts a process that serves HTTP.
    pub fn frontend(&self, name: &str, words: &[&str]) -> Member {
        self.frontend_at(name, words, &Site::local())
    }

    /// The same somewhere else.
    pub fn frontend_at(&self, name: &str, words: &[&str], site: &Site) -> Member {
        let port = free_port().to_string();
        let address = format!("http://{}:{port}", site.host());
        let words = [words, &["--http-port", &port, "--http-host", site.host()]].concat();
        let mut member = self.member(name, &words, site.clone());
        member.address = address;
        member.start(self);
        member
    }

    /// Starts a process somewhere.
    pub fn worker_at(&self, name: &str, words: &[&str], site: Site) -> Member {
        let mut member = self.member(name, words, site);
        member.start(self);
        member
    }

    /// Starts a process that others find by discovery.
    pub fn worker(&self, name: &str, words: &[&str]) -> Member {
        self.worker_at(name, words, Site::local())
    }

    /// Starts processes of these words.
    pub fn workers(&self, count: u32, words: &[&str]) -> Vec<Member> {
        (0..count)
            .map(|nth| self.worker(&format!("worker-{nth}"), words))
            .collect()
    }

    fn member(&self, name: &str, words: &[&str], site: Site) -> Member {
        let words = words.iter().map(|&word| word.to_owned());
        Member {
            name: name.to_owned(),
            words: words.chain(self.planes.iter().cloned()).collect(),
            site,
            address: String::new(),
            process: None,
            logged: Vec::new(),
            absences: Vec::new(),
        }
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Member ===

impl Member {
    /// Starts it, or another one in its place.
    pub fn start(&mut self, fleet: &Fleet) {
        self.launch(fleet);
        self.until_it_serves();
    }

    /// Starts it and does not wait until it serves.
    fn launch(&mut self, fleet: &Fleet) {
        let name = format!("{}.{}", self.name, self.logged.len());
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        let command = fleet.place.command_at(&self.site, &words);
        self.process = Some(fleet.place.spawn(&name, command));
    }

    /// Waits until it serves.
    fn until_it_serves(&mut self) {
        let deadline = Instant::now() + START;
        while !self.serves() {
            let (name, log) = (&self.name, self.log());
            assert!(Instant::now() < deadline, "{name} does not serve: {log}");
            sleep(TICK);
        }
        self.is_back();
    }

    /// Whether it serves. A frontend does when it has models: balancers ask for its health.
    fn serves(&mut self) -> bool {
        let process = self.process.as_mut().unwrap();
        assert!(!process.has_ended(), "{}: {}", self.name, process.log());
        !process.printed().is_empty()
            && (self.address.is_empty()
                || ask(&self.address, ("GET", "/health"), &[], "").is_ok_and(|it| it.status == 200))
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// SIGTERM; its exit code, once it has ended.
    pub fn terminate(&mut self) -> Option<i32> {
        self.end(Signal::TERM)
    }

    fn end(&mut self, signal: Signal) -> Option<i32> {
        let mut process = self.process.take()?;
        self.absences.push((now(), Moment::MAX));
        process.signal(signal);
        let ended = process.wait();
        self.logged.push(ended.stderr);
        ended.code
    }

    /// SIGSTOP.
    pub fn freeze(&mut self) {
        self.absences.push((now(), Moment::MAX));
        self.process.as_ref().unwrap().signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn thaw(&mut self) {
        self.process.as_ref().unwrap().signal(Signal::CONT);
        self.is_back();
    }

    /// Marks the end of its absence.
    pub fn is_back(&mut self) {
        if let Some((_, to)) = self.absences.last_mut() {
            *to = now();
        }
    }

    /// Whether it was away at some time from `from` to `to`.
    pub fn was_away(&self, from: Moment, to: Moment) -> bool {
        let mut absences = self.absences.iter();
        absences.any(|&(began, ended)| began <= to && from <= ended)
    }

    /// All that it and those before it logged.
    pub fn log(&self) -> String {
        let own = self.process.as_ref().map(Dynamo::log);
        let all: Vec<String> = self.logged.iter().cloned().chain(own).collect();
        all.concat()
    }

    /// When answers moved, by the id of their request.
    pub fn moves(&self) -> Vec<(String, Moment)> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(MOVES));
        lines
            .filter_map(|line| {
                let line: serde_json::Value = serde_json::from_str(line).ok()?;
                let time: jiff::Timestamp = line["time"].as_str()?.parse().ok()?;
                Some((
                    line["request_id"].as_str()?.to_owned(),
                    time.as_microsecond(),
                ))
            })
            .collect()
    }
}

// === impl Injector ===

impl Injector {
    /// Faults from now on.
    pub fn new(plan: Plan) -> Self {
        Self {
            plan,
            began: Instant::now(),
            next: 1,
            open: Vec::new(),
            starting: Vec::new(),
            made: BTreeMap::new(),
        }
    }

    /// Makes faults until all questions have ended, and mends all.
    pub fn run(&mut self, fleet: &Fleet, victims: &mut [Member], progress: &Progress) {
        while !progress.is_over() {
            self.mend(fleet, victims, Instant::now());
            self.make(victims);
            sleep(TICK);
        }
        until("all are back", || {
            self.mend(fleet, victims, Instant::now() + HEALED);
            self.open.is_empty() && self.starting.is_empty()
        });
    }

    /// Makes the next fault if it is due. One whose victim suffers already is left out, and one
    /// that would leave fewer than half: on a busy machine, where a start takes longer than the
    /// time between two faults, nobody would be left.
    fn make(&mut self, victims: &mut [Member]) {
        let Fault {
            at,
            victim,
            kind,
            lasting,
        } = self.plan.nth(self.next);
        if self.began.elapsed() < at {
            return;
        }
        self.next += 1;
        let opened = self.open.iter().map(|&(_, suffers, _)| suffers);
        let suffering: Vec<usize> = opened.chain(self.starting.iter().copied()).collect();
        if suffering.contains(&victim) || suffering.len() >= victims.len() / 2 {
            return;
        }
        match kind {
            Kind::Kill => victims[victim].kill(),
            Kind::Freeze => victims[victim].freeze(),
        }
        *self.made.entry(kind.name()).or_default() += 1;
        self.open.push((Instant::now() + lasting, victim, kind));
    }

    /// Mends what is due at `now`.
    fn mend(&mut self, fleet: &Fleet, victims: &mut [Member], now: Instant) {
        for (_, victim, kind) in self.open.extract_if(.., |(due, ..)| *due <= now) {
            match kind {
                Kind::Kill => {
                    victims[victim].launch(fleet);
                    self.starting.push(victim);
                }
                Kind::Freeze => victims[victim].thaw(),
            }
        }
        self.starting.retain(|&victim| {
            let serves = victims[victim].serves();
            if serves {
                victims[victim].is_back();
            }
            !serves
        });
    }
}

/// Above the longest time until a fault is mended.
const HEALED: Duration = Duration::from_secs(3_600);
