//! `dynamo bench`: progress while it measures, then the result as a table, JSON and a page.

use crate::cli::{CommandKind, Invocation};
use crate::output::{complain, print, print_line};
use crate::process::Process;
use anyhow::Context;
use dynamo_bench::config::Format;
use dynamo_bench::report::{html, table};
use dynamo_bench::{BenchServeOptions, Progress, ServeResult};
use dynamo_runtime::shutdown::{ExitStatus, Signals};
use indicatif::{ProgressBar, ProgressStyle};
use std::fs::OpenOptions;
use std::path::Path;
use std::time::Duration;

/// How often a log, unlike a terminal, gets a line.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Threads that a command asks for.
pub(crate) fn threads(invocation: &Invocation) -> Option<usize> {
    match invocation.command {
        CommandKind::BenchServe => {
            let options: &BenchServeOptions = invocation.options.get();
            Some(options.client_threads)
        }
        _ => None,
    }
}

/// `dynamo bench serve`. It succeeds if the run has passed.
pub(crate) async fn serve(process: Process) -> anyhow::Result<ExitStatus> {
    let options: &BenchServeOptions = process.options.get();
    check_writable(options)?;
    let signals = Signals::system().context("cannot listen for signals")?;
    let interrupt = process.shutdown.draining().clone();
    let mut shown = Shown::new(process.surroundings.stderr_is_terminal);
    let mut outcome = None;
    let work = async {
        let running = dynamo_bench::serve(
            options,
            &process.environment,
            &process.tasks,
            &interrupt,
            |progress| shown.show(&progress),
        );
        outcome = Some(Box::pin(running).await);
        Ok::<(), std::convert::Infallible>(())
    };
    let status = process.work(signals, Box::pin(work)).await;
    shown.clear();
    let Some(outcome) = outcome else {
        // Ended by force, or by a defect that has been logged.
        return Ok(status);
    };
    let result = outcome?;
    publish(options, &result)?;
    Ok(match result.breaches().is_empty() {
        true => status,
        false => ExitStatus::Failure,
    })
}

/// Finds out before an hour of measuring, and not after it.
fn check_writable(options: &BenchServeOptions) -> anyhow::Result<()> {
    for path in [&options.output, &options.report].into_iter().flatten() {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        opened.with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn publish(options: &BenchServeOptions, result: &ServeResult) -> anyhow::Result<()> {
    if let Some(path) = &options.output {
        write(path, &format!("{:#}\n", result.whole_json()))?;
    }
    if let Some(path) = &options.report {
        write(path, &html(result))?;
    }
    match options.format {
        Format::Table => print(&table(result)),
        Format::Json => print_line(&result.summary_json().to_string()),
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Where the progress is shown.
enum Shown {
    Terminal(ProgressBar),
    Log { last: Duration },
}

impl Shown {
    fn new(is_terminal: bool) -> Self {
        if !is_terminal {
            return Self::Log {
                last: Duration::ZERO,
            };
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {msg}") {
            bar.set_style(style);
        }
        Self::Terminal(bar)
    }

    fn show(&mut self, progress: &Progress) {
        match self {
            Self::Terminal(bar) => {
                let (done, all) = share(progress);
                bar.set_length(all);
                bar.set_position(done.min(all));
                bar.set_message(line(progress));
            }
            Self::Log { last } => {
                if progress.elapsed >= *last + LOG_INTERVAL {
                    *last = progress.elapsed;
                    complain(&line(progress));
                }
            }
        }
    }

    fn clear(&self) {
        if let Self::Terminal(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// How much is done of how much: of the requests or of the time, whichever is further.
fn share(progress: &Progress) -> (u64, u64) {
    const PARTS: u64 = 1_000;
    let requests = progress
        .total
        .map(|total| (progress.completed + progress.failed) as f64 / total.max(1) as f64);
    let time = progress
        .duration
        .map(|duration| progress.elapsed.as_secs_f64() / duration.as_secs_f64().max(1e-9));
    let share = requests.unwrap_or(0.0).max(time.unwrap_or(0.0));
    ((share * PARTS as f64) as u64, PARTS)
}

fn line(progress: &Progress) -> String {
    let seconds = progress.elapsed.as_secs_f64();
    let of = progress
        .total
        .map_or(String::new(), |total| format!("/{total}"));
    let ttft = progress.ttft.map_or(String::new(), |ttft| {
        format!(", TTFT p50 {:.1} ms", ttft.as_secs_f64() * 1e3)
    });
    format!(
        "{seconds:.0} s: {}{of} done, {} failed, {} under way, {:.0} tokens/s{ttft}",
        progress.completed + progress.failed,
        progress.failed,
        progress.in_flight,
        progress.tokens as f64 / seconds.max(1e-9),
    )
}
