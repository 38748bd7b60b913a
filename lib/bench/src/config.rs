//! Options of `dynamo bench serve`, and what they come to.

mod recipe;

use crate::error::BenchError;
use crate::figures::Targets;
use crate::load::{Arrivals, Length, Plan, Shape, Source, Spacing, read_trace};
use crate::prompt::{Api, Asking};
use dynamo_config::{Options, RawValue, Secret, choices, options};
pub use recipe::Recipe;
use serde_json::{Map, Value};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Most requests under way at once: what the file descriptors of a process allow.
pub const MAX_CONCURRENCY: usize = 16_384;

/// Requests of a run that has no other end.
const DEFAULT_REQUESTS: u64 = 100;

choices! {
    /// How arrivals are spread in an open loop.
    pub enum Arrival {
        /// Independent of each other, with exponential gaps.
        Poisson = "poisson",
        /// At even distances.
        Constant = "constant",
        /// `--burst-size` at once, then a pause.
        Burst = "burst",
    }
}

choices! {
    /// How the result is printed.
    pub enum Format {
        /// A table for people.
        Table = "table",
        /// One line of JSON.
        Json = "json",
    }
}

options! {
    /// Load on an OpenAI-compatible server.
    pub struct BenchServeOptions("bench_serve") {
        /// The server, with or without `/v1`.
        url: String = "http://127.0.0.1:8000".to_owned(), env = "DYN_BENCH_URL";
        /// The model's name. Unset, the one that the server lists.
        model: Option<String> = None, env = "DYN_BENCH_MODEL", short = 'm';
        /// A load with a name. What is given as an option wins over what the recipe sets.
        recipe: Option<Recipe> = None, env = "DYN_BENCH_RECIPE";
        /// Which interface is asked.
        api: Api = Api::Chat, env = "DYN_BENCH_API";
        /// Ask for answers token by token. Without it only whole latencies can be measured.
        stream: bool = true, env = "DYN_BENCH_STREAM";
        /// Closed loop: so many conversations at once, each request sent when the one before has
        /// been answered. With `--request-rate` or `--trace`: most requests under way at once;
        /// later ones wait. Unset, 1 in a closed loop and 16384 otherwise.
        concurrency: Option<usize> = None, env = "DYN_BENCH_CONCURRENCY", min = 1, max = MAX_CONCURRENCY, short = 'c';
        /// Open loop: conversations that start per second, whatever has been answered.
        request_rate: Option<f64> = None, env = "DYN_BENCH_REQUEST_RATE", min = 1e-6, max = 1e6, short = 'r';
        /// How the arrivals of `--request-rate` are spread.
        arrival: Arrival = Arrival::Poisson, env = "DYN_BENCH_ARRIVAL";
        /// Conversations that start at once with `--arrival burst`. The mean rate stays.
        burst_size: u64 = 10, env = "DYN_BENCH_BURST_SIZE", min = 1, max = 1_000_000;
        /// Most requests to send. Unset, the whole trace, as many as `--duration` has time for, or
        /// 100.
        requests: Option<u64> = None, env = "DYN_BENCH_REQUESTS", min = 1, short = 'n';
        /// How long requests are sent. Those under way then are still answered.
        duration: Option<Duration> = None, env = "DYN_BENCH_DURATION", min = Duration::from_millis(1);
        /// Requests that are sent before, one after the other, and not measured.
        warmup: u32 = 0, env = "DYN_BENCH_WARMUP", max = 100_000;
        /// Seed of arrivals, lengths and prompts: the same seed sends the same.
        bench_seed: u64 = 0, flag = "--seed", env = "DYN_BENCH_SEED";
        /// Prompt tokens of a conversation's first turn, beside the shared prefix. Unset, 400.
        input_tokens: Option<Length> = None, env = "DYN_BENCH_INPUT_TOKENS", alias = "--isl";
        /// Answer tokens. Unset, 64.
        output_tokens: Option<Length> = None, env = "DYN_BENCH_OUTPUT_TOKENS", alias = "--osl";
        /// Turns of a conversation. Each turn sends all that was said before.
        turns: u32 = 1, env = "DYN_BENCH_TURNS", min = 1, max = 10_000;
        /// Prompt tokens that each later turn adds. Unset, as `--input-tokens`.
        turn_input_tokens: Option<Length> = None, env = "DYN_BENCH_TURN_INPUT_TOKENS";
        /// Pause between an answer and the next turn.
        turn_delay: Duration = Duration::ZERO, env = "DYN_BENCH_TURN_DELAY", max = Duration::from_secs(86_400);
        /// Tokens of a prefix that conversations share: the system message of chats.
        prefix_tokens: u32 = 0, env = "DYN_BENCH_PREFIX_TOKENS", max = 4_000_000;
        /// How many such prefixes there are; each conversation draws one.
        num_prefixes: u32 = 1, env = "DYN_BENCH_NUM_PREFIXES", min = 1;
        /// Words sent for each prompt token asked for. One suits most tokenizers; the result says
        /// how many tokens the server counted.
        words_per_token: f64 = 1.0, env = "DYN_BENCH_WORDS_PER_TOKEN", min = 0.01, max = 100.0;
        /// Replay a trace in Mooncake's format, with its times, lengths and shared prefixes.
        trace: Option<PathBuf> = None, env = "DYN_BENCH_TRACE";
        /// How many times faster than recorded; 0 takes no notice of its times and sends as
        /// `--concurrency` allows.
        trace_speedup: f64 = 1.0, env = "DYN_BENCH_TRACE_SPEEDUP", min = 0.0, max = 1e9;
        /// Count requests that meet these targets: any of `ttft:500ms,itl:50ms,e2e:30s`. The
        /// target on ITL is for the mean of each request.
        goodput: Option<Targets> = None, env = "DYN_BENCH_GOODPUT";
        /// Key that is sent to the server.
        bench_api_key: Option<Secret> = None, flag = "--api-key", env = "DYN_BENCH_API_KEY", env = "OPENAI_API_KEY", secret;
        /// Further headers, as `NAME: VALUE`.
        header: Vec<String> = Vec::new(), env = "DYN_BENCH_HEADER", short = 'H';
        /// Have answers go on to their token limit. OpenAI's own service does not know the field:
        /// turn it off there.
        ignore_eos: bool = true, env = "DYN_BENCH_IGNORE_EOS";
        /// Ask for as many tokens at least as at most (`min_tokens`).
        min_tokens: bool = false, env = "DYN_BENCH_MIN_TOKENS";
        /// Sampling temperature. Unset, the server's own.
        bench_temperature: Option<f64> = None, flag = "--temperature", env = "DYN_BENCH_TEMPERATURE", min = 0.0, max = 2.0;
        /// Further fields of the request, as a JSON object; they win over those above.
        extra_body: Option<String> = None, env = "DYN_BENCH_EXTRA_BODY";
        /// Longest time for a request; then it has failed, and counts as hung. Unset, 10m.
        request_timeout: Option<Duration> = None, env = "DYN_BENCH_REQUEST_TIMEOUT", min = Duration::from_millis(1);
        /// The run has failed (exit code 1) if more requests did. Unset, it has passed if any
        /// request was answered.
        max_failures: Option<u64> = None, env = "DYN_BENCH_MAX_FAILURES";
        /// Read the resident memory of this process once a second (Linux): the server's, on the
        /// same machine. The run has failed if the process ends before it.
        watch_pid: Option<u32> = None, env = "DYN_BENCH_WATCH_PID", min = 1;
        /// The run has failed if the memory of `--watch-pid` is at its end more than so many times
        /// what it was at 20 percent of it.
        max_rss_growth: Option<f64> = None, env = "DYN_BENCH_MAX_RSS_GROWTH", min = 0.01, max = 1e6;
        /// Write the whole result to this file, as JSON.
        output: Option<PathBuf> = None, env = "DYN_BENCH_OUTPUT", short = 'o';
        /// Write a report with plots to this file, as HTML.
        report: Option<PathBuf> = None, env = "DYN_BENCH_REPORT";
        /// How the result is printed.
        format: Format = Format::Table, env = "DYN_BENCH_FORMAT";
        /// Threads of the client. One is enough for about 100,000 tokens a second.
        client_threads: usize = 1, env = "DYN_BENCH_CLIENT_THREADS", min = 1, max = 256;
    }
}

/// When requests are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many at once, each when one has ended.
    Closed(usize),
    /// At their times, with so many under way at most.
    Open(usize),
}

/// Load that is sound.
#[derive(Debug)]
pub struct Load {
    /// Where prompts come from.
    pub source: Source,
    /// What is sent in which order.
    pub plan: Plan,
    /// When.
    pub pace: Pace,
    /// How many requests it will be, if that is known.
    pub total: Option<u64>,
}

impl BenchServeOptions {
    /// What is sent. Reads the trace, if there is one.
    pub fn load(&self) -> Result<Load, BenchError> {
        self.check_watch()?;
        let requests = self.requests.unwrap_or(match (&self.trace, self.duration) {
            (None, None) => DEFAULT_REQUESTS,
            _ => u64::MAX,
        });
        let closed = Pace::Closed(self.concurrency.unwrap_or(1));
        let open = Pace::Open(self.concurrency.unwrap_or(MAX_CONCURRENCY));
        let Some(path) = &self.trace else {
            let source = Source::Synthetic(self.shape());
            let arrivals = self.arrivals();
            let pace = match arrivals {
                Some(_) => open,
                None => closed,
            };
            let total = (requests < u64::MAX).then_some(requests);
            let plan = Plan::new(source.clone(), arrivals, requests);
            return Ok(Load {
                source,
                plan,
                pace,
                total,
            });
        };
        self.check_trace()?;
        let limit = usize::try_from(requests).unwrap_or(usize::MAX);
        let trace: Arc<[_]> = read_trace(path, limit)?.into();
        let total = trace.len() as u64;
        let source = Source::Trace {
            requests: trace,
            speedup: self.trace_speedup,
        };
        Ok(Load {
            plan: Plan::new(source.clone(), None, requests),
            source,
            pace: match self.trace_speedup > 0.0 {
                true => open,
                false => closed,
            },
            total: Some(total),
        })
    }

    /// What requests to `model` have in common.
    pub fn asking(&self, model: String) -> Result<Asking, BenchError> {
        let extra = self.extra_body.as_deref().unwrap_or("{}");
        let extra: Map<String, Value> = serde_json::from_str(extra).map_err(|error| {
            BenchError::Options(format!("--extra-body is no JSON object: {error}"))
        })?;
        for key in ["model", "messages", "prompt", "stream"] {
            if extra.contains_key(key) {
                let message = format!("--extra-body must not set {key}: an option does");
                return Err(BenchError::Options(message));
            }
        }
        Ok(Asking {
            api: self.api,
            model,
            stream: self.stream,
            ignore_eos: self.ignore_eos,
            min_tokens: self.min_tokens,
            temperature: self.bench_temperature,
            extra,
        })
    }

    /// Every option with its value, secrets masked, for the result.
    pub fn as_json(&self) -> Map<String, Value> {
        let mut copy = self.clone();
        let bindings = copy.bindings();
        let values = bindings.iter().map(|binding| {
            let value = match binding.slot.get() {
                RawValue::Unset => Value::Null,
                RawValue::One(text) => Value::String(text),
                RawValue::Many(texts) => texts.into(),
            };
            let flag = binding.spec.flag.trim_start_matches('-');
            // A header may carry a key as well.
            let value = match flag {
                "header" if self.header.iter().any(|it| !it.is_empty()) => "***".into(),
                _ => value,
            };
            (flag.to_owned(), value)
        });
        values.collect()
    }

    fn shape(&self) -> Shape {
        Shape {
            seed: self.bench_seed,
            input: self.input_length(),
            turn_input: self.turn_input_tokens.unwrap_or(self.input_length()),
            output: self.output_length(),
            turns: self.turns,
            prefix_tokens: self.prefix_tokens,
            num_prefixes: self.num_prefixes,
        }
    }

    fn arrivals(&self) -> Option<Arrivals> {
        let spacing = match self.arrival {
            Arrival::Poisson => Spacing::Poisson,
            Arrival::Constant => Spacing::Constant,
            Arrival::Burst => Spacing::Burst(self.burst_size),
        };
        Some(Arrivals::new(spacing, self.request_rate?, self.bench_seed))
    }

    fn check_watch(&self) -> Result<(), BenchError> {
        if self.max_rss_growth.is_some() && self.watch_pid.is_none() {
            let message = "--max-rss-growth (and --recipe soak, which sets it) is for the process \
                           that --watch-pid names";
            return Err(BenchError::Options(message.to_owned()));
        }
        Ok(())
    }

    fn check_trace(&self) -> Result<(), BenchError> {
        let message = if self.request_rate.is_some() {
            "--trace has arrival times of its own: leave out --request-rate, or use --trace-speedup"
        } else if self.turns > 1 || self.prefix_tokens > 0 {
            "--trace has prompts of its own: leave out --turns and --prefix-tokens"
        } else {
            return Ok(());
        };
        Err(BenchError::Options(message.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(change: impl FnOnce(&mut BenchServeOptions)) -> Result<Load, BenchError> {
        let mut options = BenchServeOptions::default();
        change(&mut options);
        options.load()
    }

    #[test]
    fn a_rate_makes_an_open_loop_and_nothing_a_closed_one() {
        let closed = load(|_| ()).unwrap();
        assert_eq!((closed.pace, closed.total), (Pace::Closed(1), Some(100)));
        let open = load(|it| it.request_rate = Some(5.0)).unwrap();
        assert_eq!(open.pace, Pace::Open(MAX_CONCURRENCY));
        let timed = load(|it| it.duration = Some(Duration::from_secs(1))).unwrap();
        assert_eq!(timed.total, None);
    }

    #[test]
    fn a_trace_is_cut_to_the_requests_asked_for_and_ignores_its_times_at_speed_0() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.jsonl");
        let line = "{\"timestamp\": 5, \"input_length\": 9, \"output_length\": 1}\n";
        std::fs::write(&path, line.repeat(5)).unwrap();
        let open = load(|it| it.trace = Some(path.clone())).unwrap();
        assert_eq!((open.total, open.plan.count()), (Some(5), 5));
        let closed = load(|it| {
            it.trace = Some(path.clone());
            it.trace_speedup = 0.0;
            it.requests = Some(3);
        });
        let closed = closed.unwrap();
        assert_eq!((closed.pace, closed.plan.count()), (Pace::Closed(1), 3));
        let refused = load(|it| {
            it.trace = Some(path.clone());
            it.request_rate = Some(1.0);
        });
        assert!(refused.is_err());
    }

    #[test]
    fn a_limit_on_memory_wants_a_process() {
        let refused = load(|it| it.max_rss_growth = Some(1.05)).unwrap_err();
        assert!(refused.to_string().contains("--watch-pid"), "{refused}");
    }

    #[test]
    fn the_key_is_not_in_the_result() {
        let options = BenchServeOptions {
            bench_api_key: Some(Secret::new("sesame")),
            header: vec!["authorization: sesame".to_owned()],
            ..BenchServeOptions::default()
        };
        let shown = Value::Object(options.filled().as_json()).to_string();
        assert!(!shown.contains("sesame"), "{shown}");
        assert!(shown.contains("\"input-tokens\":\"400\""), "{shown}");
    }

    #[test]
    fn further_fields_must_be_an_object_and_leave_the_rest_alone() {
        for text in ["7", "{", "{\"model\": 1}", "{\"stream\": false}"] {
            let options = BenchServeOptions {
                extra_body: Some(text.to_owned()),
                ..BenchServeOptions::default()
            };
            assert!(options.asking("m".to_owned()).is_err(), "{text}");
        }
    }
}
