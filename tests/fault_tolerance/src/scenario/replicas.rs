//! Frontends and routers of which there are several: who loses one is not noticed by others.

use super::{Engine, FRONTEND, addresses, await_workers, fleet, nobody, plan, settle, undisturbed};
use crate::config::FaultOptions;
use crate::faults::Kind;
use crate::fleet::{Fleet, Injector, Member};
use crate::load::{Traffic, drive};
use crate::report::Report;

const ROUTER: &[&str] = &[
    "router",
    "--http-port",
    "0",
    "--endpoint",
    "dyn://dynamo.backend.generate",
    "--serve-endpoint",
    "dyn://routed.router.generate",
    "--log-format",
    "jsonl",
];

/// One of two frontends is killed: those who asked it see a broken connection, others nothing.
pub(super) fn frontends(options: &FaultOptions) -> Report {
    let mut report = Report::new("one of two frontends killed");
    let (fleet, workers, mut frontends) = fleet(options, Engine::Mock, 2);
    let questions = Engine::Mock
        .mixture()
        .questions(options.seed, options.requests);
    let addresses = addresses(&frontends);
    let traffic = Traffic {
        questions: &questions,
        frontends: &addresses,
        concurrency: options.concurrency,
        balances: false,
        count: Some(questions.len()),
    };
    let undisturbed = undisturbed(traffic);
    let mut injector = Injector::new(plan(options, &frontends, &[Kind::Kill]));
    let outcomes = drive(traffic, "faults", |progress| {
        injector.run(&fleet, &mut frontends, progress);
    });
    report.judge(&outcomes, &undisturbed, |outcome| {
        frontends[outcome.frontend].was_away(outcome.asked, outcome.ended)
    });
    report.faults = injector.made;
    settle(&mut report, &frontends, workers.len());
    report
}

/// Routers between frontend and workers are killed and frozen.
pub(super) fn routers(options: &FaultOptions) -> Report {
    let mut report = Report::new("routers between frontend and workers killed and frozen");
    let fleet = Fleet::new();
    let _workers = fleet.workers(options.workers, &Engine::Mock.words(options));
    let mut routers: Vec<Member> = (0..2)
        .map(|nth| fleet.worker(&format!("router-{nth}"), ROUTER))
        .collect();
    let words = [FRONTEND, &["--namespace", "routed"]].concat();
    let frontends = [fleet.frontend("frontend", &words)];
    await_workers(&frontends[0], routers.len());
    let questions = Engine::Mock
        .mixture()
        .questions(options.seed, options.requests);
    let traffic = Traffic {
        questions: &questions,
        frontends: &addresses(&frontends),
        concurrency: options.concurrency,
        balances: false,
        count: Some(questions.len()),
    };
    let undisturbed = undisturbed(traffic);
    let mut injector = Injector::new(plan(options, &routers, &[Kind::Kill, Kind::Freeze]));
    let outcomes = drive(traffic, "faults", |progress| {
        injector.run(&fleet, &mut routers, progress);
    });
    report.judge(&outcomes, &undisturbed, nobody);
    report.faults = injector.made;
    settle(&mut report, &frontends, routers.len());
    report.moves(&outcomes, &frontends[0].moves());
    report
}
