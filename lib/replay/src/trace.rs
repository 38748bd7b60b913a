//! A trace: what was asked when, and what prompts had in common.
//!
//! The form is that of the Mooncake traces: a JSON object on each line with `timestamp` in
//! milliseconds, `input_length` and `output_length` in tokens, and `hash_ids`, which name the
//! prompt's blocks of 512 tokens: equal ids at equal places are equal prefixes. Source: the FAST'25
//! release of <https://github.com/kvcache-ai/Mooncake>.

use serde::Deserialize;
use std::time::Duration;

/// Tokens that one of a trace's hash ids stands for.
pub const TRACE_BLOCK: usize = 512;

/// Longest prompt or answer that a trace may ask for: beyond what any model takes.
const MAX_TOKENS: u64 = 16 * 1024 * 1024;

/// Token ids of made-up prompts are below this: within every vocabulary.
const VOCABULARY: u64 = 30_000;

/// Requests in the order of their times.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// The requests.
    pub requests: Vec<TraceRequest>,
}

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRequest {
    /// When it comes, since the trace's beginning.
    pub at: Duration,
    /// Tokens of its prompt.
    pub input_tokens: usize,
    /// Tokens of its answer.
    pub output_tokens: u32,
    /// Names of its prompt's blocks.
    pub hash_ids: Vec<u64>,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A line is not of the form.
    #[error("line {line} of the trace is malformed: {source}")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A line asks for more than any model takes.
    #[error("line {line} of the trace asks for more than {MAX_TOKENS} tokens")]
    TooLong {
        /// The line, from 1.
        line: usize,
    },
    /// There is nothing in it.
    #[error("the trace has no requests")]
    Empty,
}

#[derive(Deserialize)]
struct Line {
    timestamp: u64,
    input_length: u64,
    output_length: u64,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

impl Trace {
    /// Reads a trace. Its times begin at zero.
    pub fn parse(text: &str) -> Result<Self, TraceError> {
        let mut requests = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let number = at + 1;
            let line: Line =
                serde_json::from_str(line).map_err(|source| TraceError::Malformed {
                    line: number,
                    source,
                })?;
            let (input, output) = (line.input_length, line.output_length);
            if input > MAX_TOKENS || output > MAX_TOKENS {
                return Err(TraceError::TooLong { line: number });
            }
            requests.push(TraceRequest {
                at: Duration::from_millis(line.timestamp),
                input_tokens: usize::try_from(input.max(1)).unwrap_or(usize::MAX),
                output_tokens: u32::try_from(output.max(1)).unwrap_or(u32::MAX),
                hash_ids: line.hash_ids,
            });
        }
        requests.sort_by_key(|request| request.at);
        let Some(begin) = requests.first().map(|request| request.at) else {
            return Err(TraceError::Empty);
        };
        for request in &mut requests {
            request.at -= begin;
        }
        Ok(Self { requests })
    }

    /// The first `count` requests.
    #[must_use]
    pub fn head(mut self, count: usize) -> Self {
        self.requests.truncate(count);
        self
    }

    /// The same requests, coming `factor` times as fast.
    #[must_use]
    pub fn faster(mut self, factor: f64) -> Self {
        for request in &mut self.requests {
            request.at = request.at.div_f64(factor.max(f64::MIN_POSITIVE));
        }
        self
    }

    /// From the first request to the last one.
    pub fn duration(&self) -> Duration {
        self.requests.last().map_or(Duration::ZERO, |last| last.at)
    }
}

impl TraceRequest {
    /// Made-up tokens of the prompt. Prompts of one trace have as much in common as their hash ids
    /// say; `number`, that of the request, makes the rest its own.
    pub fn prompt(&self, number: u64) -> Vec<u32> {
        let own = |at: usize| (1 << 63) | (number << 24) | (at as u64);
        let block = |at: usize| self.hash_ids.get(at).copied().unwrap_or_else(|| own(at));
        let tokens = (0..self.input_tokens).map(|position| {
            let seed = block(position / TRACE_BLOCK);
            let bits = mix(seed.wrapping_mul(TRACE_BLOCK as u64) + (position % TRACE_BLOCK) as u64);
            u32::try_from(bits % VOCABULARY).unwrap_or(0)
        });
        tokens.collect()
    }
}

/// SplitMix64's last step: equal numbers give equal bits, others do not.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO: &str = "{\"timestamp\": 3000, \"input_length\": 1500, \"output_length\": 5, \"hash_ids\": [7, 8, 10]}\n\
        {\"timestamp\": 1000, \"input_length\": 1024, \"output_length\": 0, \"hash_ids\": [7, 9]}\n";

    #[test]
    fn times_begin_at_zero_and_are_in_order() {
        let trace = Trace::parse(TWO).unwrap();
        let times: Vec<u64> = trace
            .requests
            .iter()
            .map(|it| it.at.as_millis() as u64)
            .collect();
        assert_eq!(times, [0, 2_000]);
        assert_eq!(trace.requests[0].output_tokens, 1);
        assert_eq!(
            trace.clone().faster(4.0).duration(),
            Duration::from_millis(500)
        );
        assert_eq!(trace.head(1).requests.len(), 1);
    }

    #[test]
    fn prompts_have_in_common_what_their_ids_say() {
        let trace = Trace::parse(TWO).unwrap();
        let one = trace.requests[0].prompt(0);
        let two = trace.requests[1].prompt(1);
        assert_eq!((one.len(), two.len()), (1_024, 1_500));
        assert_eq!(one[..512], two[..512]);
        assert_ne!(one[512..600], two[512..600]);
        let nameless = TraceRequest {
            hash_ids: Vec::new(),
            ..trace.requests[0].clone()
        };
        assert_ne!(nameless.prompt(0)[..100], nameless.prompt(1)[..100]);
    }

    #[test]
    fn what_is_no_trace_says_where() {
        let error = Trace::parse(&format!("{TWO}nonsense")).unwrap_err();
        assert!(error.to_string().starts_with("line 3"), "{error}");
        assert!(matches!(Trace::parse("\n"), Err(TraceError::Empty)));
        let huge = "{\"timestamp\": 0, \"input_length\": 99999999999, \"output_length\": 1}";
        assert!(matches!(
            Trace::parse(huge),
            Err(TraceError::TooLong { line: 1 })
        ));
    }
}
