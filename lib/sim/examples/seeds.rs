//! Runs any number of seeds and prints the hash of each: `seeds FIRST COUNT`.
//!
//! ```text
//! cargo run --release -p dynamo-sim --example seeds -- 0 1000
//! ```
//!
//! A seed that breaks an invariant is shown with the end of its trace; the exit status is then 1.
#![expect(clippy::print_stdout, reason = "the hashes go to stdout")]

use std::error::Error;
use std::process::ExitCode;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let first: u64 = arguments.next().map_or(Ok(0), |it| it.parse())?;
    let count: u64 = arguments.next().map_or(Ok(20), |it| it.parse())?;
    let mut exit = ExitCode::SUCCESS;
    for seed in first..first.saturating_add(count) {
        match dynamo_sim::run(seed) {
            Ok(report) => println!(
                "seed {seed}: {:016x} {} events, {} requests, {:?}",
                report.hash,
                report.events,
                report.outcomes.len(),
                report.elapsed
            ),
            Err(failure) => {
                println!("{failure}");
                exit = ExitCode::FAILURE;
            }
        }
    }
    Ok(exit)
}
