//! `dynamo simulate`: replays seeds of the simulator, and tells what happened.

use crate::output::{complain, print_line};
use crate::process::Process;
use dynamo_runtime::shutdown::ExitStatus;
use dynamo_sim::cluster::sweep::{Sweep, sweep};
use dynamo_sim::cluster::{Failure, Report};
use dynamo_sim::config::SimulateOptions;
use std::time::{Duration, Instant};

/// Runs the seeds; the status is that of a failure if one of them breaks an invariant.
pub(crate) async fn simulate(process: &Process) -> anyhow::Result<ExitStatus> {
    let options: SimulateOptions = process.options.get::<SimulateOptions>().clone();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = options.simulate_threads.map_or(cores, |it| it as usize);
    let began = Instant::now();
    let tells = options.seeds == 1;
    // Seconds of arithmetic on threads of its own: not on one that others wait for.
    let total = process
        .environment
        .compute(move || sweep(options.seed, options.seeds, threads, |run| show(run, tells)));
    let total = total.await?;
    if !tells {
        summarise(&total, began.elapsed(), threads);
    }
    Ok(match total.failures.is_empty() {
        true => ExitStatus::Success,
        false => ExitStatus::Failure,
    })
}

fn show(run: &Result<Report, Box<Failure>>, tells: bool) {
    match run {
        Ok(report) if tells => print_line(&report.to_string()),
        Ok(_) => {}
        Err(failure) if tells => print_line(&failure.to_string()),
        Err(failure) => {
            let seed = failure.report.seed;
            complain(&format!(
                "seed {seed} breaks an invariant; dynamo simulate --seed {seed}"
            ));
            for violation in &failure.violations {
                complain(&format!("  {violation}"));
            }
        }
    }
}

fn summarise(total: &Sweep, took: Duration, threads: usize) {
    let seeds = total.kept + total.failures.len() as u64;
    print_line(&format!(
        "{total}{} of {seeds} seeds kept every invariant, {:.2} seeds per second on {threads} \
         threads",
        total.kept,
        seeds as f64 / took.as_secs_f64()
    ));
}
