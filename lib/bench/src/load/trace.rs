//! Traces of real traffic in Mooncake's format: one JSON object a line with `timestamp` (ms),
//! `input_length` and `output_length` (tokens) and `hash_ids`, one for each block of 512 prompt
//! tokens. Two requests share a prefix as far as their `hash_ids` agree.

use super::length::MAX_TOKENS;
use serde::Deserialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Tokens of a trace's block.
pub(crate) const BLOCK_TOKENS: u32 = 512;

/// Longest line: a prompt of [`MAX_TOKENS`] has 8,000 blocks of at most 20 digits.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Most requests of a trace, which is held in memory: hours of a busy service.
const MAX_REQUESTS: usize = 2_000_000;

/// A request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceRequest {
    /// When it came, from the first request on.
    pub at: Duration,
    /// Tokens of its prompt.
    pub input_tokens: u32,
    /// Tokens of its answer.
    pub output_tokens: u32,
    /// Its prompt's blocks; the last may be cut short by `input_tokens`.
    pub blocks: Box<[u64]>,
}

/// Why a trace cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read the trace {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line is no request.
    #[error("line {line} of {path} is no request of a Mooncake trace: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing to send.
    #[error("the trace {path} has no requests")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// There is too much to hold.
    #[error("the trace {path} has more than {MAX_REQUESTS} requests: cut it")]
    TooLong {
        /// The file.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Box<[u64]>,
}

/// Reads a trace, in the order of its timestamps, at most `limit` requests of it.
pub fn read_trace(path: &Path, limit: usize) -> Result<Vec<TraceRequest>, TraceError> {
    let read = |source| TraceError::Read {
        path: path.to_owned(),
        source,
    };
    let mut reader = BufReader::new(File::open(path).map_err(read)?);
    let mut requests = Vec::new();
    let mut text = String::new();
    let mut number = 0;
    while requests.len() < limit {
        text.clear();
        let mut bounded = (&mut reader).take(MAX_LINE_BYTES);
        if bounded.read_line(&mut text).map_err(read)? == 0 {
            break;
        }
        number += 1;
        if text.trim().is_empty() {
            continue;
        }
        if requests.len() == MAX_REQUESTS {
            return Err(TraceError::TooLong {
                path: path.to_owned(),
            });
        }
        let request = parse_line(&text).map_err(|reason| TraceError::Line {
            path: path.to_owned(),
            line: number,
            reason,
        })?;
        requests.push(request);
    }
    requests.sort_by_key(|request: &TraceRequest| request.at);
    let Some(start) = requests.first().map(|first| first.at) else {
        return Err(TraceError::Empty {
            path: path.to_owned(),
        });
    };
    for request in &mut requests {
        request.at -= start;
    }
    Ok(requests)
}

fn parse_line(text: &str) -> Result<TraceRequest, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let at = Duration::try_from_secs_f64(line.timestamp / 1_000.0)
        .map_err(|_| "timestamp is no time in milliseconds".to_owned())?;
    let tokens = |name: &str, tokens: u32| match tokens <= MAX_TOKENS {
        // An answer without tokens is in real traces and cannot be asked for.
        true => Ok(tokens.max(1)),
        false => Err(format!("{name} is beyond {MAX_TOKENS}")),
    };
    let input_tokens = tokens("input_length", line.input_length)?;
    let blocks = input_tokens.div_ceil(BLOCK_TOKENS) as usize;
    if line.hash_ids.len() > blocks {
        return Err(format!(
            "{} hash_ids for {blocks} blocks of {BLOCK_TOKENS} tokens",
            line.hash_ids.len()
        ));
    }
    Ok(TraceRequest {
        at,
        input_tokens,
        output_tokens: tokens("output_length", line.output_length)?,
        blocks: line.hash_ids,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<TraceRequest>, TraceError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.jsonl");
        std::fs::write(&path, text).unwrap();
        read_trace(&path, usize::MAX)
    }

    #[test]
    fn requests_come_in_the_order_of_their_times_from_the_first_on() {
        let requests = read(
            "{\"timestamp\": 3000, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [0, 7]}\n\n\
             {\"timestamp\": 1000, \"input_length\": 3, \"output_length\": 0, \"hash_ids\": [9]}",
        )
        .unwrap();
        assert_eq!(requests[0].at, Duration::ZERO);
        assert_eq!(
            (requests[0].input_tokens, requests[0].output_tokens),
            (3, 1)
        );
        assert_eq!(requests[1].at, Duration::from_secs(2));
        assert_eq!(*requests[1].blocks, [0, 7]);
    }

    #[test]
    fn a_broken_line_is_named() {
        for (line, said) in [
            ("{", "EOF"),
            ("{\"timestamp\": 1}", "input_length"),
            (
                "{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}",
                "timestamp",
            ),
            (
                "{\"timestamp\": 0, \"input_length\": 512, \"output_length\": 1, \"hash_ids\": [1, 2]}",
                "2 hash_ids for 1 blocks",
            ),
        ] {
            let good = "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1}";
            let error = read(&format!("{good}\n{line}\n")).unwrap_err().to_string();
            assert!(error.contains("line 2 of"), "{error}");
            assert!(error.contains(said), "{error}");
        }
        assert!(matches!(read("\n"), Err(TraceError::Empty { .. })));
    }
}
