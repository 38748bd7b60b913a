//! The result of a run: the figures that follow from its statistics, what should be known when
//! they are read, and all of it as JSON.

use crate::config::BenchServeOptions;
use crate::figures::{Bin, Statistics, milliseconds};
use crate::memory::Memory;
use crate::verdict::{Breach, breaches};
use dynamo_config::Scalar;
use serde_json::{Value, json};
use std::time::Duration;

/// Requests that are this late show the client's limits and not the server's.
const LATE: Duration = Duration::from_millis(10);

/// A thread this busy has no time left for what comes next.
const BUSY: f64 = 0.85;

/// How far counted tokens may be from those asked for before it is said.
const TOLERANCE: f64 = 0.2;

/// What a run came to.
#[derive(Debug, Clone)]
pub struct ServeResult {
    /// What was asked for.
    pub options: BenchServeOptions,
    /// The model.
    pub model: String,
    /// The figures.
    pub statistics: Statistics,
    /// The memory of the process that was watched.
    pub memory: Option<Memory>,
    /// How long it took.
    pub elapsed: Duration,
    /// When it started, since the Unix epoch.
    pub started_unix: Duration,
    /// Whether it was ended before its time.
    pub is_interrupted: bool,
    /// Whether requests had times to be sent at.
    pub is_open: bool,
    /// What the client took.
    pub cost: ClientCost,
}

/// What the client itself took.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ClientCost {
    /// CPU time of all its threads while it measured.
    pub cpu: Duration,
    /// How long it measured.
    pub elapsed: Duration,
    /// Its threads.
    pub threads: usize,
    /// Conversations that waited because too many were under way.
    pub held_back: u64,
}

/// Figures per second.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Throughput {
    /// Requests that ended well.
    pub requests_per_s: f64,
    /// Their answer tokens.
    pub output_tokens_per_s: f64,
    /// Their prompt tokens, if the server counted them.
    pub input_tokens_per_s: Option<f64>,
}

impl ServeResult {
    /// Figures per second, up to the end of the last request.
    pub fn throughput(&self) -> Throughput {
        let seconds = self.statistics.end.as_secs_f64().max(1e-9);
        let tokens = &self.statistics.tokens;
        Throughput {
            requests_per_s: self.statistics.completed as f64 / seconds,
            output_tokens_per_s: tokens.output as f64 / seconds,
            input_tokens_per_s: (tokens.with_usage > 0)
                .then(|| tokens.prompt_reported as f64 / seconds),
        }
    }

    /// Where the counts of answer tokens come from.
    pub fn output_tokens_from(&self) -> &'static str {
        match self.statistics.tokens.with_usage {
            0 => "pieces of text",
            some if some == self.statistics.completed => "usage",
            _ => "usage where there is one, else pieces of text",
        }
    }

    /// CPU time of the client for each answer token, in microseconds.
    pub fn cpu_us_per_token(&self) -> Option<f64> {
        let tokens = self.statistics.tokens.output;
        (tokens > 0).then(|| self.cost.cpu.as_secs_f64() * 1e6 / tokens as f64)
    }

    /// How busy the client's threads were, from 0 to 1.
    pub fn cpu_share(&self) -> f64 {
        let available = self.cost.elapsed.as_secs_f64() * self.cost.threads.max(1) as f64;
        self.cost.cpu.as_secs_f64() / available.max(1e-9)
    }

    /// Whether the client, and not the server, set the figures.
    pub fn is_client_bound(&self) -> bool {
        self.cpu_share() > BUSY || (self.is_late() && self.cost.held_back == 0)
    }

    /// Why the run has not passed; nothing if it has.
    pub fn breaches(&self) -> Vec<Breach> {
        breaches(
            &self.options,
            &self.statistics,
            self.memory.as_ref(),
            self.is_interrupted,
        )
    }

    /// What should be known when the figures are read.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.is_interrupted {
            notes.push("interrupted: these are the figures up to then".to_owned());
        }
        self.note_client(&mut notes);
        self.note_tokens(&mut notes);
        let mut examples = self.statistics.errors.values().map(|it| &it.example);
        if self.options.ignore_eos && examples.any(|said| said.contains("ignore_eos")) {
            notes.push(
                "requests were refused: a server that does not know ignore_eos wants --no-ignore-eos"
                    .to_owned(),
            );
        }
        notes
    }

    fn is_late(&self) -> bool {
        let late = self.statistics.lag.quantile(0.99);
        late.is_some_and(|late| late > LATE)
    }

    fn note_client(&self, notes: &mut Vec<String>) {
        let share = self.cpu_share();
        if share > BUSY {
            notes.push(format!(
                "the client was the bottleneck ({:.0} percent of its {} threads): raise \
                 --client-threads, or run it on another machine",
                share * 100.0,
                self.cost.threads
            ));
        }
        let late = self.statistics.lag.quantile(0.99).unwrap_or_default();
        if self.is_late() && self.cost.held_back > 0 {
            notes.push(format!(
                "{} conversations waited for a place, so that requests were sent up to {:.1} ms \
                 late (p99): the load is less than asked for; raise --concurrency",
                self.cost.held_back,
                milliseconds(late)
            ));
        } else if self.is_late() && share <= BUSY {
            notes.push(format!(
                "requests were sent up to {:.1} ms late (p99): the client got no CPU in time; run \
                 it on another machine",
                milliseconds(late)
            ));
        }
    }

    fn note_tokens(&self, notes: &mut Vec<String>) {
        let tokens = &self.statistics.tokens;
        let completed = self.statistics.completed;
        if completed > tokens.with_usage && completed > 0 {
            notes.push(format!(
                "{} of {completed} answers came without usage: their tokens are counted by pieces \
                 of text",
                completed - tokens.with_usage
            ));
        }
        let ratio = tokens.prompt_reported as f64 / tokens.prompt_planned.max(1) as f64;
        if tokens.prompt_planned > 0 && self.options.turns == 1 && (ratio - 1.0).abs() > TOLERANCE {
            notes.push(format!(
                "the server counted {ratio:.2} prompt tokens for each one asked for; \
                 --words-per-token {:.2} comes closer (the chat template has tokens of its own)",
                self.options.words_per_token / ratio.max(1e-9)
            ));
        }
        let ratio = tokens.output as f64 / tokens.output_planned.max(1) as f64;
        if completed > 0 && tokens.with_usage > 0 && (ratio - 1.0).abs() > TOLERANCE {
            notes.push(format!(
                "answers had {ratio:.2} tokens for each one asked for: the server ended them by \
                 itself"
            ));
        }
    }

    /// The figures without single requests: one line of JSON.
    pub fn summary_json(&self) -> Value {
        let statistics = &self.statistics;
        let breaches = self.breaches();
        let goodput = statistics.targets().map(|targets| {
            let seconds = statistics.end.as_secs_f64().max(1e-9);
            json!({
                "targets": targets.print(),
                "requests": statistics.good,
                "share": statistics.good as f64 / statistics.sent().max(1) as f64,
                "requests_per_s": statistics.good as f64 / seconds,
            })
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        json!({
            "benchmark": "serve",
            "version": env!("CARGO_PKG_VERSION"),
            "machine": {"cores": cores, "os": std::env::consts::OS, "arch": std::env::consts::ARCH},
            "started_unix_s": self.started_unix.as_secs_f64(),
            "model": self.model,
            "options": self.options.as_json(),
            "elapsed_s": self.elapsed.as_secs_f64(),
            "interrupted": self.is_interrupted,
            "requests": {
                "sent": statistics.sent(),
                "completed": statistics.completed,
                "failed": statistics.failed,
                "hung": statistics.hung,
                "interrupted": statistics.interrupted,
            },
            "throughput": self.throughput(),
            "goodput": goodput,
            "ttft_ms": statistics.ttft.summary(),
            "itl_ms": statistics.itl.summary(),
            "time_per_output_token_ms": statistics.tpot.summary(),
            "latency_ms": statistics.latency.summary(),
            "tokens": statistics.tokens,
            "output_tokens_from": self.output_tokens_from(),
            "errors": statistics.errors,
            "client": {
                "cpu_s": self.cost.cpu.as_secs_f64(),
                "cpu_share": self.cpu_share(),
                "cpu_us_per_token": self.cpu_us_per_token(),
                "threads": self.cost.threads,
                "schedule_lag_ms": statistics.lag.summary(),
                "held_back": self.cost.held_back,
                "is_bottleneck": self.is_client_bound(),
            },
            "memory": self.memory.as_ref().map(Memory::as_json),
            "verdict": {
                "passed": breaches.is_empty(),
                "breaches": breaches.iter().map(Breach::to_string).collect::<Vec<_>>(),
            },
            "notes": self.notes(),
        })
    }

    /// The whole result, with its course over time and single requests.
    pub fn whole_json(&self) -> Value {
        let mut whole = self.summary_json();
        let timeline = &self.statistics.timeline;
        let width = timeline.width().as_secs_f64();
        let quantile = |bin: &Bin, share| bin.ttft.quantile(share).map(milliseconds);
        let bins = timeline.bins().iter().map(|bin| {
            json!({
                "sent": bin.sent,
                "completed": bin.completed,
                "failed": bin.failed,
                "tokens": bin.tokens,
                "ttft_ms_p50": quantile(bin, 0.5),
                "ttft_ms_p99": quantile(bin, 0.99),
            })
        });
        whole["timeline"] = json!({"bin_s": width, "bins": bins.collect::<Vec<_>>()});
        whole["memory_samples"] = json!(self.memory.as_ref().map(Memory::samples_as_json));
        whole["single_requests"] = json!(self.statistics.records);
        let kept = self.statistics.records.len() as u64;
        whole["single_requests_left_out"] = json!(self.statistics.sent() - kept);
        whole
    }
}

#[cfg(test)]
pub(crate) mod tests;
