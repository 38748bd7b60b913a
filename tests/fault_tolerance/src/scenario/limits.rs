//! What does not survive, and how a client hears of it: never by silence, and by nothing but these
//! errors.

use super::planes::planes;
use super::{Engine, FRONTEND, await_workers, router};
use crate::config::FaultOptions;
use crate::fleet::{Fleet, Member};
use crate::load::{End, once};
use crate::report::Report;
use crate::traffic::Question;
use dynamo_testkit::etcd_server::EtcdServer;
use dynamo_testkit::nats_server::NatsServer;
use serde_json::json;
use std::cell::RefCell;

/// A frontend that does not wait for workers for long.
const IMPATIENT: &[&str] = &["--queue-timeout", "3s"];

/// One that lets answers end where they began.
const FIXED: &[&str] = &["--migration-limit", "0"];

pub(super) fn run(options: &FaultOptions) -> Report {
    let mut report = Report::new("what does not survive");
    let mut told = Told(&mut report);
    last_worker(options, &mut told);
    fixed(options, &mut told);
    frontend(options, &mut told);
    nats_for_long(options, &mut told);
    report
}

struct Told<'a>(&'a mut Report);

impl Told<'_> {
    /// Notes how a request ended, which is a problem if it ended otherwise than it should.
    fn ended(&mut self, what: &str, end: &End, is_right: impl FnOnce(&End) -> bool) {
        self.0.requests += 1;
        self.0.notes.push(format!("{what}: {end:?}"));
        if !is_right(end) {
            self.0.problem(format!("{what}: {end:?}"));
        }
    }
}

/// A stream that lasts for a minute if nothing happens.
fn long() -> Question {
    question(&json!({}))
}

fn question(more: &serde_json::Value) -> Question {
    let mut body = json!({"model": "mock", "prompt": "for long", "max_tokens": 4_000,
        "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}, "seed": 1});
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    Question {
        path: "/v1/completions",
        body: body.to_string(),
    }
}

fn start(options: &FaultOptions, workers: u32, words: &[&str]) -> (Fleet, Vec<Member>, Member) {
    let fleet = Fleet::new();
    let workers = fleet.workers(workers, &Engine::Mock.words(options));
    let frontend = fleet.frontend("frontend", &[FRONTEND, words].concat());
    await_workers(&frontend, workers.len());
    (fleet, workers, frontend)
}

fn failed(code: &'static str) -> impl FnOnce(&End) -> bool {
    move |end| *end == End::Failed(code.to_owned())
}

/// Nobody takes the place of the only worker.
fn last_worker(options: &FaultOptions, told: &mut Told<'_>) {
    let (_fleet, mut workers, frontend) = start(options, 1, IMPATIENT);
    let address = &frontend.address;
    let end = once(address, &long(), "last", || workers[0].kill());
    let what = "a stream whose worker was the last, after --queue-timeout";
    told.ended(what, &end, failed("worker_lost"));
    let end = once(address, &long(), "late", || {});
    let what = "a request that finds no worker for --queue-timeout";
    told.ended(what, &end, |end| {
        *end == End::Refused(503, "model_not_ready".to_owned())
    });
}

/// Answers that must not move.
fn fixed(options: &FaultOptions, told: &mut Told<'_>) {
    let (fleet, workers, frontend) = start(options, 2, FIXED);
    let workers = RefCell::new(workers);
    let kill_all = || workers.borrow_mut().iter_mut().for_each(Member::kill);
    let end = once(&frontend.address, &long(), "fixed", kill_all);
    let what = "a stream with --migration-limit 0 whose worker is killed";
    told.ended(what, &end, failed("worker_lost"));
    drop((fleet, frontend));
    let (_fleet, workers, frontend) = start(options, 2, IMPATIENT);
    let worker = &router(&frontend).unwrap()["workers"][0]["instance"];
    let pinned = question(&json!({"nvext": {"backend_instance_id": worker}}));
    let workers = RefCell::new(workers);
    let kill_all = || workers.borrow_mut().iter_mut().for_each(Member::kill);
    let end = once(&frontend.address, &pinned, "pinned", kill_all);
    let what = "a stream that names its worker, which is killed";
    told.ended(what, &end, failed("worker_lost"));
}

/// Whoever asked a frontend that is killed.
fn frontend(options: &FaultOptions, told: &mut Told<'_>) {
    let (_fleet, _workers, frontend) = start(options, 1, &[]);
    let address = frontend.address.clone();
    let frontend = RefCell::new(frontend);
    let end = once(&address, &long(), "killed", || frontend.borrow_mut().kill());
    let what = "a stream of a frontend that is killed";
    told.ended(what, &end, |end| matches!(end, End::Cut(_)));
}

/// The server that carries all requests is away for longer than streams wait.
fn nats_for_long(options: &FaultOptions, told: &mut Told<'_>) {
    let (etcd, nats) = (EtcdServer::start(), NatsServer::start());
    let fleet = Fleet::over(&planes(&etcd, &nats));
    let _worker = fleet.workers(1, &Engine::Mock.words(options));
    let frontend = fleet.frontend("frontend", &[FRONTEND, IMPATIENT].concat());
    await_workers(&frontend, 1);
    let nats = RefCell::new(nats);
    let end = once(&frontend.address, &long(), "nats", || {
        nats.borrow_mut().kill()
    });
    let what = "a stream over NATS, the server away for 30 s and --queue-timeout";
    told.ended(what, &end, failed("worker_lost"));
    let end = once(&frontend.address, &long(), "no-nats", || {});
    let what = "a request over NATS, the server away for --queue-timeout";
    told.ended(what, &end, |end| matches!(end, End::Refused(503, _)));
    nats.borrow_mut().restart();
    let short = question(&json!({"max_tokens": 5}));
    let end = once(&frontend.address, &short, "nats-back", || {});
    told.ended("a request over NATS, the server back", &end, |end| {
        *end == End::Whole
    });
}
