//! Workers are killed and frozen at random: every answer is that of the undisturbed run.

use super::{Engine, addresses, fleet, nobody, plan, settle, undisturbed};
use crate::config::FaultOptions;
use crate::faults::Kind;
use crate::fleet::Injector;
use crate::load::{Traffic, drive};
use crate::report::Report;

/// Different questions to a real model.
const DIFFERENT: u32 = 250;

pub(super) fn run(options: &FaultOptions, engine: Engine) -> Report {
    let mut report = Report::new(match engine {
        Engine::Mock => "simulated workers killed and frozen",
        Engine::Real => "workers with a real model killed and frozen",
    });
    let (fleet, mut workers, frontends) = fleet(options, engine, 1);
    // A real model takes its time: answers are compared with the same undisturbed ones several
    // times, and fewer are wanted at once, or their first tokens come later than the next fault.
    let (different, concurrency) = match engine {
        Engine::Mock => (options.requests, options.concurrency),
        Engine::Real => (
            options.requests.min(DIFFERENT),
            options.concurrency.min(2 * options.workers),
        ),
    };
    let questions = engine.mixture().questions(options.seed, different);
    let traffic = Traffic {
        questions: &questions,
        frontends: &addresses(&frontends),
        concurrency,
        balances: false,
        count: Some(options.requests as usize),
    };
    let undisturbed = undisturbed(traffic);
    let plan = plan(options, &workers, &[Kind::Kill, Kind::Freeze]);
    let mut injector = Injector::new(plan);
    let outcomes = drive(traffic, "faults", |progress| {
        injector.run(&fleet, &mut workers, progress);
    });
    report.judge(&outcomes, &undisturbed, nobody);
    report.faults = injector.made;
    settle(&mut report, &frontends, workers.len());
    report.moves(&outcomes, &frontends[0].moves());
    report
}
