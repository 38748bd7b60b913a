//! `faults`: runs the suite at full length and prints what it came to.

#![expect(clippy::print_stdout, reason = "a program prints its results")]

use dynamo_config::{Schema, Sources};
use dynamo_fault_tolerance::config::FaultOptions;
use dynamo_fault_tolerance::scenario;
use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    let schema = Schema::new().with::<FaultOptions>();
    let command = clap::Command::new("faults")
        .about("Kill, freeze, restart and cut off real processes under load, and compare answers");
    let matches = schema.clap_args(command).get_matches();
    let resolved = schema.resolve(&Sources::new().args(matches))?;
    let options: &FaultOptions = resolved.get();
    let mut is_clean = true;
    for &scenario in options.scenarios() {
        let report = scenario::run(scenario, options);
        println!("{report}");
        is_clean &= report.is_clean();
    }
    Ok(match is_clean {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
