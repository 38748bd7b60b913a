//! The runs: who is there, what fails, what must hold.

mod limits;
mod network;
mod planes;
mod replicas;
mod rolling;
mod workers;

use crate::answer::Answer;
use crate::config::{FaultOptions, Scenario};
use crate::faults::{Kind, Plan};
use crate::fleet::{Fleet, Member};
use crate::load::{End, Outcome, Traffic, drive};
use crate::report::Report;
use crate::traffic::{Mixture, Question};
use dynamo_testkit::http::ask;
use dynamo_testkit::process::until;
use serde_json::Value;
use std::time::Instant;

/// A frontend that tells of its answers' moves in lines for machines.
const FRONTEND: &[&str] = &["frontend", "--log-format", "jsonl"];

/// Questions that runs of no fixed length put again and again.
const REPEATED: u32 = 200;

/// What computes the answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Mock,
    Real,
}

/// Makes a run.
pub fn run(scenario: Scenario, options: &FaultOptions) -> Report {
    let began = Instant::now();
    let mut report = match scenario {
        Scenario::Workers => workers::run(options, Engine::Mock),
        Scenario::Model => workers::run(options, Engine::Real),
        Scenario::Frontends => replicas::frontends(options),
        Scenario::Routers => replicas::routers(options),
        Scenario::Planes => planes::run(options),
        Scenario::Rolling => rolling::run(options),
        Scenario::Network => network::run(options, network::Plane::Tcp),
        Scenario::NetworkNats => network::run(options, network::Plane::Nats),
        Scenario::Limits => limits::run(options),
    };
    report.took = began.elapsed();
    report
}

// === impl Engine ===

impl Engine {
    fn words(self, options: &FaultOptions) -> Vec<&str> {
        match self {
            Self::Mock => vec![
                "mocker",
                "--model-path",
                options.tokenizer.to_str().unwrap(),
                "--model-name",
                "mock",
                "--block-size",
                "16",
                // About 13 ms from token to token: answers last for some seconds.
                "--speedup-ratio",
                "0.5",
            ],
            Self::Real => vec![
                "run",
                "in=dyn://dynamo.backend.generate",
                "out=llamacpp",
                options.model.to_str().unwrap(),
                "--model-name",
                "real",
                "--deterministic",
                "--threads",
                "1",
                "--context-length",
                "512",
                "--kv-cache-tokens",
                "4096",
                "--max-num-seqs",
                "8",
            ],
        }
    }

    fn mixture(self) -> Mixture {
        match self {
            Self::Mock => Mixture {
                model: "mock".to_owned(),
                opening: 60,
                words: (10, 80),
                tokens: (20, 300),
                chats: true,
            },
            Self::Real => Mixture {
                model: "real".to_owned(),
                opening: 10,
                words: (3, 12),
                tokens: (8, 24),
                chats: true,
            },
        }
    }
}

/// Faults of these kinds, at the options' pace.
fn plan(options: &FaultOptions, victims: &[Member], kinds: &'static [Kind]) -> Plan {
    Plan {
        seed: options.seed,
        every: options.every,
        victims: victims.len(),
        kinds,
    }
}

/// What a frontend says of its router.
fn router(frontend: &Member) -> Option<Value> {
    let asked = ask(&frontend.address, ("GET", "/v1/router/status"), &[], "");
    let router = asked.ok()?.json()["routers"].get(0)?.clone();
    Some(router)
}

/// Waits until a frontend knows so many workers, and each has told of itself. Routers in the place
/// of workers tell nothing.
fn await_workers(frontend: &Member, count: usize) {
    until(&format!("{count} workers are known"), || {
        router(frontend).is_some_and(|router| match router["mode"] == "kv" {
            true => router["telling"] == count,
            false => router["workers"].as_array().map(Vec::len) == Some(count),
        })
    });
}

/// Waits until a frontend has nothing booked with any worker.
fn await_quiet(frontend: &Member) {
    until("nothing is booked any more", || {
        let router = router(frontend).unwrap();
        let mut workers = router["workers"].as_array().unwrap().iter();
        workers.all(|it| it["requests"] == 0 && it["active_blocks"] == 0)
    });
}

/// The answers of an undisturbed run.
fn undisturbed(traffic: Traffic<'_>) -> Vec<Answer> {
    let once = Traffic {
        count: Some(traffic.questions.len()),
        ..traffic
    };
    let mut outcomes = drive(once, "peace", |_| {});
    outcomes.sort_by_key(|outcome| outcome.question);
    let answers: Vec<Answer> = outcomes.into_iter().map(whole).collect();
    assert_eq!(answers.len(), traffic.questions.len());
    answers
}

fn whole(outcome: Outcome) -> Answer {
    let Outcome {
        end,
        answer,
        request_id,
        ..
    } = outcome;
    assert_eq!(end, End::Whole, "{request_id} failed in peace: {answer:?}");
    answer
}

/// Addresses of frontends.
fn addresses(frontends: &[Member]) -> Vec<String> {
    frontends.iter().map(|it| it.address.clone()).collect()
}

/// Questions of a run of no fixed length.
fn repeated(options: &FaultOptions, engine: Engine) -> Vec<Question> {
    engine
        .mixture()
        .questions(options.seed, REPEATED.min(options.requests))
}

/// Waits until a frontend has nothing left to do: no request is forgotten, and no booking.
fn settle(report: &mut Report, frontends: &[Member], workers: usize) {
    for frontend in frontends {
        await_workers(frontend, workers);
        await_quiet(frontend);
        let metrics = ask(&frontend.address, ("GET", "/metrics"), &[], "")
            .unwrap()
            .text();
        let busy = metrics.lines().find(|line| {
            line.starts_with("dynamo_frontend_inflight_requests{") && !line.ends_with(" 0")
        });
        if let Some(line) = busy {
            report.problem(format!("requests are left over: {line}"));
        }
        let log = frontend.log();
        if log.contains("panicked") {
            report.problem("a frontend panicked");
        }
    }
}

/// What is left unsaid where nothing was excused.
fn nobody(_: &Outcome) -> bool {
    false
}

/// The fleet of a run, with its frontends.
fn fleet(
    options: &FaultOptions,
    engine: Engine,
    frontends: usize,
) -> (Fleet, Vec<Member>, Vec<Member>) {
    fleet_over(options, engine, frontends, &[])
}

fn fleet_over(
    options: &FaultOptions,
    engine: Engine,
    frontends: usize,
    planes: &[String],
) -> (Fleet, Vec<Member>, Vec<Member>) {
    let fleet = Fleet::over(planes);
    let workers = fleet.workers(options.workers, &engine.words(options));
    let frontends: Vec<Member> = (0..frontends)
        .map(|nth| fleet.frontend(&format!("frontend-{nth}"), FRONTEND))
        .collect();
    for frontend in &frontends {
        await_workers(frontend, workers.len());
    }
    (fleet, workers, frontends)
}
