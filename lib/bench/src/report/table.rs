//! The result as a table for a terminal.

use crate::figures::{Summary, milliseconds};
use crate::memory::Memory;
use crate::result::ServeResult;
use dynamo_config::Scalar;
use std::fmt::Write;

/// The result as lines of text.
pub fn table(result: &ServeResult) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    write_all(&mut text, result).ok();
    text
}

/// The distributions that are shown, by name.
pub(super) fn distributions(result: &ServeResult) -> Vec<(&'static str, Summary)> {
    let statistics = &result.statistics;
    let all = [
        ("TTFT", &statistics.ttft),
        ("ITL", &statistics.itl),
        ("time per output token", &statistics.tpot),
        ("latency", &statistics.latency),
        ("schedule lag", &statistics.lag),
    ];
    let all = all.into_iter();
    all.filter_map(|(name, it)| Some((name, it.summary()?)))
        .collect()
}

/// The single figures that are shown, by name.
pub(super) fn facts(result: &ServeResult) -> Vec<(&'static str, String)> {
    let statistics = &result.statistics;
    let (tokens, throughput) = (&statistics.tokens, result.throughput());
    let mut facts = vec![
        ("model", result.model.clone()),
        (
            "requests",
            format!(
                "{} sent, {} completed, {} failed ({} hung), {} interrupted",
                statistics.sent(),
                statistics.completed,
                statistics.failed,
                statistics.hung,
                statistics.interrupted
            ),
        ),
        ("time", format!("{:.2} s", statistics.end.as_secs_f64())),
        (
            "throughput",
            format!(
                "{:.2} requests/s, {:.1} output tokens/s{}",
                throughput.requests_per_s,
                throughput.output_tokens_per_s,
                throughput
                    .input_tokens_per_s
                    .map_or(String::new(), |rate| format!(", {rate:.1} input tokens/s")),
            ),
        ),
        (
            "output tokens",
            format!(
                "{} of {} asked for (counted by {})",
                tokens.output,
                tokens.output_planned,
                result.output_tokens_from()
            ),
        ),
    ];
    if tokens.with_usage > 0 {
        let cached = match tokens.with_cached {
            0 => "cached tokens not reported".to_owned(),
            _ => format!(
                "{} cached ({:.1} percent)",
                tokens.cached_reported,
                100.0 * tokens.cached_reported as f64 / tokens.prompt_reported.max(1) as f64
            ),
        };
        facts.push((
            "prompt tokens",
            format!(
                "{} counted by the server, {} new ones asked for, {cached}",
                tokens.prompt_reported, tokens.prompt_planned
            ),
        ));
    }
    if let Some(targets) = statistics.targets() {
        facts.push((
            "goodput",
            format!(
                "{} of {} requests ({:.1} percent, {:.2}/s) within {}",
                statistics.good,
                statistics.sent(),
                100.0 * statistics.good as f64 / statistics.sent().max(1) as f64,
                statistics.good as f64 / statistics.end.as_secs_f64().max(1e-9),
                targets.print()
            ),
        ));
    }
    let per_token = result.cpu_us_per_token();
    facts.push((
        "client",
        format!(
            "{:.0} ms of CPU{}, {:.0} percent of its threads",
            milliseconds(result.cost.cpu),
            per_token.map_or(String::new(), |cost| format!(", {cost:.1} us per token")),
            100.0 * result.cpu_share()
        ),
    ));
    facts.extend(result.memory.as_ref().map(memory_fact));
    facts.push(("verdict", verdict(result)));
    facts
}

fn memory_fact(memory: &Memory) -> (&'static str, String) {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let fact = match memory.series.growth() {
        None => format!("process {}: read too seldom to say", memory.pid),
        Some(growth) => format!(
            "process {}: {:.1} MiB at 20 percent of the run, {:.1} MiB at the end ({:.3} times), \
             {:.1} MiB at most",
            memory.pid,
            mebibytes(growth.settled.bytes),
            mebibytes(growth.end.bytes),
            growth.ratio,
            mebibytes(growth.most)
        ),
    };
    ("memory", fact)
}

fn verdict(result: &ServeResult) -> String {
    let breaches = result.breaches();
    if breaches.is_empty() {
        return "passed".to_owned();
    }
    let said: Vec<String> = breaches.iter().map(ToString::to_string).collect();
    format!("failed: {}", said.join("; "))
}

fn write_all(text: &mut String, result: &ServeResult) -> std::fmt::Result {
    for (name, fact) in facts(result) {
        writeln!(text, "{name:<14} {fact}")?;
    }
    let distributions = distributions(result);
    if !distributions.is_empty() {
        writeln!(
            text,
            "\n{:<22} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "milliseconds", "mean", "p50", "p90", "p95", "p99", "max"
        )?;
    }
    for (name, it) in distributions {
        write!(text, "{name:<22}")?;
        for value in [it.mean, it.p50, it.p90, it.p95, it.p99, it.max] {
            write!(text, " {value:>10.3}")?;
        }
        writeln!(text)?;
    }
    if !result.statistics.errors.is_empty() {
        writeln!(text, "\n{:>8}  error", "count")?;
    }
    for (code, error) in &result.statistics.errors {
        let example = one_line(&error.example);
        writeln!(text, "{:>8}  {}: {example}", error.count, one_line(code))?;
    }
    for note in result.notes() {
        writeln!(text, "\nnote: {note}")?;
    }
    Ok(())
}

/// A server's words without what could move the cursor.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|char| if char.is_control() { ' ' } else { char })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::tests::answered;
    use crate::figures::{End, Failure, Record};
    use crate::result::tests::sample;

    #[test]
    fn the_table_has_every_figure() {
        let mut result = sample();
        result.statistics.add(&Record {
            end: End::Failed(Failure::Stream {
                code: None,
                message: "bad\x1b[2J\nword".to_owned(),
            }),
            ..answered(0, &[])
        });
        let text = table(&result);
        for part in [
            "21 sent, 20 completed, 1 failed (0 hung)",
            "verdict        passed",
            "200 of 200 asked for (counted by usage)",
            "within ttft:5ms",
            "50.0 us per token",
            "schedule lag",
            "1  stream: error in the stream: bad [2J word",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| !line.ends_with(' ')));
    }
}
