//! `dynamo bench router`: replays a trace in virtual time under several routing modes and loads.
//! `dynamo bench index`: measures the router's index on one.

use crate::output::{complain, print, print_line};
use crate::process::Process;
use anyhow::{Context, bail};
use dynamo_bench::BenchIndexOptions;
use dynamo_bench::index_trace::measure;
use dynamo_kv_router::config::RouterOptions;
use dynamo_mocker::MockerOptions;
use dynamo_replay::config::ReplayOptions;
use dynamo_replay::{Outcome, Trace, replay};
use dynamo_runtime::shutdown::ExitStatus;
use std::path::Path;
use std::time::Instant;

/// Runs every plan and prints a line for each.
pub(crate) async fn router(process: &Process) -> anyhow::Result<ExitStatus> {
    let options: &ReplayOptions = process.options.get();
    if let Some(wrong) = options
        .load
        .iter()
        .find(|load| !(**load > 0.0 && load.is_finite()))
    {
        bail!("--load {wrong}: requests come a number of times as fast, greater than 0");
    }
    let trace = Trace::parse(&read_trace(options.trace.as_deref())?)
        .context("--trace cannot be replayed")?;
    let router: &RouterOptions = process.options.get();
    let engine: &MockerOptions = process.options.get();
    let plans = options.plans(&trace, router, engine);
    complain(&format!(
        "{} requests over {:.0} s, {} workers of {} blocks of {} tokens",
        trace.requests.len(),
        trace.duration().as_secs_f64(),
        options.replay_workers,
        engine.num_gpu_blocks_override,
        engine.block_size
    ));
    print(HEAD);
    let mut figures = Vec::new();
    for (load, trace, plan) in plans {
        let began = Instant::now();
        // Seconds of arithmetic: not on a thread that others wait for.
        let outcome = process
            .environment
            .compute(move || replay(&trace, &plan))
            .await??;
        print_line(&line(load, &outcome));
        figures.push(serde_json::json!({
            "load": load,
            "took_seconds": began.elapsed().as_secs_f64(),
            "outcome": outcome,
        }));
    }
    if let Some(path) = &options.replay_output {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(ExitStatus::Success)
}

/// Measures the index, and prints one line of JSON.
pub(crate) async fn index(process: &Process) -> anyhow::Result<ExitStatus> {
    let options: &BenchIndexOptions = process.options.get();
    let text = read_trace(options.trace.as_deref())?;
    let measured = process.environment.compute(move || measure(&text));
    print_line(&measured.await??.to_string());
    Ok(ExitStatus::Success)
}

fn read_trace(path: Option<&Path>) -> anyhow::Result<String> {
    let Some(path) = path else {
        bail!("--trace FILE.jsonl names the trace");
    };
    std::fs::read_to_string(path).with_context(|| format!("cannot read --trace {}", path.display()))
}

const HEAD: &str = "\
 load  mode             hit rate   union  infinite   TTFT p50      p99   ITL p50     p99  goodput   busy  refused
                         (share of prompt tokens)         ms       ms        ms      ms      1/s
";

fn line(load: f64, outcome: &Outcome) -> String {
    format!(
        "{load:5}  {:15}  {:8.3}{:8.3}{:10.3}{:11.0}{:9.0}{:10.1}{:8.1}{:9.2}{:7.2}{:9}",
        outcome.mode.as_str(),
        outcome.hit_rate,
        outcome.union_rate,
        outcome.rates.infinite.unwrap_or(0.0),
        outcome.ttft_ms.p50,
        outcome.ttft_ms.p99,
        outcome.itl_ms.p50,
        outcome.itl_ms.p99,
        outcome.goodput,
        outcome.busy,
        outcome.refused
    )
}
