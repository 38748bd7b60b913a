//! Runs seeds of the cluster without building the whole of dynamo:
//! `cluster FIRST COUNT [THREADS [BROKEN]]`; of one seed, its story.
//!
//! ```text
//! cargo run --release -p dynamo-sim --example cluster -- 0 1000 2
//! ```
//!
//! `BROKEN` names a variant that is broken on purpose, whose first seed that is noticed ends it.
#![expect(clippy::print_stdout, reason = "what came of the seeds goes to stdout")]

use dynamo_sim::cluster::sweep::sweep;
use dynamo_sim::cluster::{Broken, run, run_broken};
use std::error::Error;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| {
        let given = arguments.get(at);
        given.map_or(Ok(default), |it| it.parse())
    };
    let (first, count, threads) = (number(0, 0)?, number(1, 20)?, number(2, 1)?);
    if let Some(name) = arguments.get(3) {
        return Ok(bite(name, first, count));
    }
    if count == 1 {
        return Ok(match run(first) {
            Ok(report) => {
                println!("{report}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                println!("{failure}");
                ExitCode::FAILURE
            }
        });
    }
    let began = Instant::now();
    let total = sweep(first, count, threads as usize, |run| {
        if let Err(failure) = run {
            println!("seed {} fails:", failure.report.seed);
            for violation in &failure.violations {
                println!("  {violation}");
            }
        }
    });
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} of {count} seeds from {first} kept every invariant, {:.2} seeds/s",
        total.kept,
        count as f64 / took
    );
    print!("{total}");
    Ok(match total.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The first seed that notices a broken variant.
fn bite(name: &str, first: u64, count: u64) -> ExitCode {
    let named = |it: &&Broken| format!("{it:?}").eq_ignore_ascii_case(name);
    let Some(broken) = Broken::ALL.iter().find(named) else {
        println!("there are {:?}", Broken::ALL);
        return ExitCode::FAILURE;
    };
    for seed in first..first.saturating_add(count) {
        if let Err(failure) = run_broken(seed, *broken) {
            println!("{broken:?} is noticed by seed {seed}:");
            for violation in &failure.violations {
                println!("  {violation}");
            }
            return ExitCode::SUCCESS;
        }
    }
    println!("{broken:?} is not noticed");
    ExitCode::FAILURE
}
