//! Every process is restarted in turn, under load: no client sees an error. Clients do what a load
//! balancer does: where a frontend refuses the connection they go to the other one.

use super::{Engine, addresses, fleet, nobody, repeated, settle, undisturbed};
use crate::config::FaultOptions;
use crate::fleet::{Fleet, Member};
use crate::load::{Progress, Traffic, drive};
use crate::report::Report;
use dynamo_testkit::process::until;

pub(super) fn run(options: &FaultOptions) -> Report {
    let mut report = Report::new("rolling restart of workers and frontends");
    let (fleet, mut workers, mut frontends) = fleet(options, Engine::Mock, 2);
    let questions = repeated(options, Engine::Mock);
    let addresses = addresses(&frontends);
    let traffic = Traffic {
        questions: &questions,
        frontends: &addresses,
        concurrency: options.concurrency,
        balances: true,
        count: None,
    };
    let undisturbed = undisturbed(traffic);
    let mut codes = Vec::new();
    let outcomes = drive(traffic, "rolling", |progress| {
        for member in workers.iter_mut().chain(&mut frontends) {
            restart(&fleet, member, &mut codes);
            await_more(progress, options);
        }
    });
    report.judge(&outcomes, &undisturbed, nobody);
    report.faults.insert("restarts", codes.len());
    for code in codes.iter().filter(|code| **code != Some(0)) {
        report.problem(format!("a process ended with {code:?}"));
    }
    settle(&mut report, &frontends, workers.len());
    report
}

fn restart(fleet: &Fleet, member: &mut Member, codes: &mut Vec<Option<i32>>) {
    codes.push(member.terminate());
    member.start(fleet);
}

/// Waits until each client has had at least one more answer.
pub(super) fn await_more(progress: &Progress, options: &FaultOptions) {
    let before = progress.ended();
    until("answers go on", || {
        progress.ended() >= before + 2 * options.concurrency as usize
    });
}
