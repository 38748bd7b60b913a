//! What all requests of a run come to. Memory is bounded however long the run is: distributions
//! are counted in buckets, and beyond `MAX_RECORDS` single requests are no longer kept.

use super::goodput::Targets;
use super::histogram::{FINE, Histogram};
use super::record::{End, Failure, Record, RequestFigures, shortened};
use super::timeline::Timeline;
use std::collections::BTreeMap;
use std::time::Duration;

/// Requests of which the single figures are kept for the result file.
pub(crate) const MAX_RECORDS: usize = 100_000;

/// Kinds of errors that are counted apart; servers could invent a code for each request.
const MAX_ERROR_CODES: usize = 64;

/// Where errors beyond `MAX_ERROR_CODES` are counted.
const OTHER_ERRORS: &str = "other";

/// Figures of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Statistics {
    targets: Option<Targets>,
    /// Requests that ended well.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Those among them that had no end within the request timeout.
    pub hung: u64,
    /// Requests that were under way when the run was interrupted.
    pub interrupted: u64,
    /// Requests that met every target.
    pub good: u64,
    /// Times to the first token.
    pub ttft: Histogram,
    /// Times between neighbouring pieces of text.
    pub itl: Histogram,
    /// Per request, the mean time of the tokens after the first.
    pub tpot: Histogram,
    /// Times to the end.
    pub latency: Histogram,
    /// How much later than planned requests were sent.
    pub lag: Histogram,
    /// Token counts of completed requests.
    pub tokens: Tokens,
    /// Errors by code.
    pub errors: BTreeMap<String, ErrorCount>,
    /// How it went over time.
    pub timeline: Timeline,
    /// When the last request ended.
    pub end: Duration,
    /// Single requests, the first `MAX_RECORDS` of them.
    pub records: Vec<RequestFigures>,
}

/// Token counts of completed requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tokens {
    /// Prompt tokens that the plan asked for, in requests whose prompts the server counted.
    /// Earlier turns of a conversation and the chat template are not among them.
    pub prompt_planned: u64,
    /// Prompt tokens that servers counted.
    pub prompt_reported: u64,
    /// Of these, tokens that came from a cache.
    pub cached_reported: u64,
    /// Answer tokens that the plan asked for.
    pub output_planned: u64,
    /// Answer tokens, by the server's count where there is one.
    pub output: u64,
    /// Pieces of text.
    pub pieces: u64,
    /// Requests with a count of the server.
    pub with_usage: u64,
    /// Requests with a count of cached tokens.
    pub with_cached: u64,
    /// Requests whose answer had no text.
    pub without_text: u64,
}

/// Errors of one code.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ErrorCount {
    /// How many.
    pub count: u64,
    /// What the first of them said.
    pub example: String,
}

impl Statistics {
    /// No requests yet.
    pub fn new(targets: Option<Targets>) -> Self {
        Self {
            targets,
            completed: 0,
            failed: 0,
            hung: 0,
            interrupted: 0,
            good: 0,
            ttft: Histogram::new(FINE),
            itl: Histogram::new(FINE),
            tpot: Histogram::new(FINE),
            latency: Histogram::new(FINE),
            lag: Histogram::new(FINE),
            tokens: Tokens::default(),
            errors: BTreeMap::new(),
            timeline: Timeline::default(),
            end: Duration::ZERO,
            records: Vec::new(),
        }
    }

    /// Adds a request. Figures of time and tokens are those of requests that ended well.
    pub fn add(&mut self, record: &Record) {
        self.timeline.add(record);
        self.end = self.end.max(record.ended);
        if let Some(lag) = record.lag {
            self.lag.add(lag);
        }
        match &record.end {
            End::Complete => {
                self.completed += 1;
                self.good += u64::from(self.targets.is_some_and(|it| it.met_by(record)));
                self.add_times(record);
                self.tokens.add(record);
            }
            End::Failed(failure) => {
                self.failed += 1;
                self.hung += u64::from(*failure == Failure::Timeout);
                self.add_error(&failure.code(), &failure.to_string());
            }
            End::Interrupted => self.interrupted += 1,
        }
        if self.records.len() < MAX_RECORDS {
            self.records.push(RequestFigures::of(record));
        }
    }

    /// The targets that requests are judged by.
    pub fn targets(&self) -> Option<Targets> {
        self.targets
    }

    /// Requests that were sent.
    pub fn sent(&self) -> u64 {
        self.completed + self.failed + self.interrupted
    }

    fn add_times(&mut self, record: &Record) {
        if let Some(ttft) = record.ttft() {
            self.ttft.add(ttft);
        }
        for gap in record.gaps() {
            self.itl.add(gap);
        }
        if let Some(time) = record.time_per_token() {
            self.tpot.add(time);
        }
        self.latency.add(record.latency());
    }

    fn add_error(&mut self, code: &str, message: &str) {
        let is_known = self.errors.contains_key(code);
        let code = match is_known || self.errors.len() < MAX_ERROR_CODES {
            true => shortened(code),
            false => OTHER_ERRORS.to_owned(),
        };
        let entry = self.errors.entry(code).or_insert_with(|| ErrorCount {
            count: 0,
            example: shortened(message),
        });
        entry.count += 1;
    }
}

impl Tokens {
    fn add(&mut self, record: &Record) {
        self.output_planned += u64::from(record.asked_output);
        self.output += record.output_tokens();
        self.pieces += record.tokens.len() as u64;
        self.without_text += u64::from(record.tokens.is_empty());
        if let Some(usage) = record.usage {
            self.with_usage += 1;
            self.prompt_planned += u64::from(record.asked_input);
            self.prompt_reported += usage.prompt;
            self.with_cached += u64::from(usage.cached.is_some());
            self.cached_reported += usage.cached.unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::record::tests::answered;
    use crate::figures::record::{Failure, Usage};
    use dynamo_config::Scalar;

    #[test]
    fn figures_are_those_of_requests_that_ended_well() {
        let mut statistics = Statistics::new(Targets::parse("ttft:5ms").ok());
        let mut good = answered(0, &[4_000, 6_000]);
        good.usage = Some(Usage {
            prompt: 90,
            completion: 2,
            cached: Some(64),
        });
        statistics.add(&good);
        statistics.add(&answered(10, &[8_000, 9_000, 10_000]));
        let failed = |failure| Record {
            end: End::Failed(failure),
            ..answered(20, &[1, 2, 3])
        };
        statistics.add(&failed(Failure::Timeout));
        statistics.add(&failed(Failure::Timeout));
        statistics.add(&Record {
            end: End::Interrupted,
            ..answered(30, &[1])
        });
        assert_eq!(statistics.sent(), 5);
        assert_eq!((statistics.completed, statistics.failed), (2, 2));
        assert_eq!(statistics.good, 1);
        assert_eq!(statistics.itl.count(), 3);
        assert_eq!(statistics.ttft.max(), Some(Duration::from_millis(8)));
        assert_eq!(statistics.tokens.output, 5);
        assert_eq!(statistics.tokens.prompt_planned, 100);
        assert_eq!(statistics.tokens.prompt_reported, 90);
        assert_eq!(statistics.tokens.cached_reported, 64);
        assert_eq!(statistics.errors["timeout"].count, 2);
        assert_eq!(statistics.end, Duration::from_micros(30_001));
        assert_eq!(statistics.records[1].output_tokens, 3);
        assert_eq!(statistics.records[1].itl_ms, Some(1.0));
    }

    #[test]
    fn codes_that_a_server_invents_do_not_fill_the_memory() {
        let mut statistics = Statistics::new(None);
        for number in 0..1_000 {
            statistics.add(&Record {
                end: End::Failed(Failure::Stream {
                    code: Some(number.to_string()),
                    message: String::new(),
                }),
                ..answered(0, &[])
            });
        }
        assert_eq!(statistics.errors.len(), MAX_ERROR_CODES + 1);
        assert_eq!(
            statistics.errors[OTHER_ERRORS].count,
            1_000 - MAX_ERROR_CODES as u64
        );
    }
}
