//! What is known of one request after its end.

use super::histogram::milliseconds;
use std::time::Duration;

/// Longest message of an error that is kept.
pub(crate) const MAX_MESSAGE_BYTES: usize = 240;

/// A request, from the moment that the plan had it sent to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its conversation's number.
    pub conversation: u64,
    /// Its turn.
    pub turn: u32,
    /// Prompt tokens that its new turn adds, by the plan.
    pub asked_input: u32,
    /// Most answer tokens, by the plan.
    pub asked_output: u32,
    /// How much later than planned it was sent, if it had a time.
    pub lag: Option<Duration>,
    /// When it was sent, from the start of the run on.
    pub sent: Duration,
    /// When it ended, from the start of the run on.
    pub ended: Duration,
    /// When each piece of text came, in microseconds after it was sent.
    pub tokens: Vec<u32>,
    /// What the server counted, if it did.
    pub usage: Option<Usage>,
    /// How it ended.
    pub end: End,
}

/// What a server counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: u64,
    /// Tokens of the answer.
    pub completion: u64,
    /// Prompt tokens that came from a cache, if the server says.
    pub cached: Option<u64>,
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Complete,
    /// With an error.
    Failed(Failure),
    /// The run was interrupted.
    Interrupted,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// Nobody answers at the address.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// It took longer than allowed.
    #[error("no end within the request timeout")]
    Timeout,
    /// The server refused it.
    #[error("HTTP {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The error's code, if the body has one.
        code: Option<String>,
        /// What the body says.
        message: String,
    },
    /// The stream ended with an error event.
    #[error("error in the stream: {message}")]
    Stream {
        /// The error's code, if it has one.
        code: Option<String>,
        /// What it says.
        message: String,
    },
    /// The connection ended before the answer did.
    #[error("the answer was cut off: {0}")]
    CutOff(String),
    /// The answer is none that OpenAI's interface knows.
    #[error("no OpenAI answer: {0}")]
    Malformed(String),
}

impl Failure {
    /// A short name for the table of errors: the same for errors of one kind.
    pub fn code(&self) -> String {
        let named = |what: String, code: &Option<String>| match code {
            Some(code) => format!("{what} {code}"),
            None => what,
        };
        match self {
            Self::Connect(_) => "connect".to_owned(),
            Self::Timeout => "timeout".to_owned(),
            Self::Status { status, code, .. } => named(format!("http {status}"), code),
            Self::Stream { code, .. } => named("stream".to_owned(), code),
            Self::CutOff(_) => "cut off".to_owned(),
            Self::Malformed(_) => "malformed".to_owned(),
        }
    }
}

impl Record {
    /// Time to the first piece of text.
    pub fn ttft(&self) -> Option<Duration> {
        self.tokens.first().map(|at| micros(*at))
    }

    /// Time to the end.
    pub fn latency(&self) -> Duration {
        self.ended.saturating_sub(self.sent)
    }

    /// Times between neighbouring pieces of text.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.tokens
            .windows(2)
            .map(|pair| micros(pair[1].saturating_sub(pair[0])))
    }

    /// Answer tokens: what the server counted, else pieces of text.
    pub fn output_tokens(&self) -> u64 {
        self.usage
            .map_or(self.tokens.len() as u64, |usage| usage.completion)
    }

    /// Mean time of an answer token after the first.
    pub fn time_per_token(&self) -> Option<Duration> {
        let (first, last) = (self.tokens.first()?, self.tokens.last()?);
        let tokens = self.output_tokens().max(self.tokens.len() as u64);
        let gaps = u32::try_from(tokens.checked_sub(1)?).ok()?;
        micros(last.saturating_sub(*first)).checked_div(gaps)
    }
}

/// The figures of one request, for the result file.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct RequestFigures {
    /// Its conversation's number.
    pub conversation: u64,
    /// Its turn.
    pub turn: u32,
    /// When it was sent, from the start of the run on.
    pub sent_s: f64,
    /// How much later than planned, if it had a time.
    pub lag_ms: Option<f64>,
    /// Time to the first piece of text.
    pub ttft_ms: Option<f64>,
    /// Mean time of an answer token after the first.
    pub itl_ms: Option<f64>,
    /// Time to the end.
    pub latency_ms: f64,
    /// Prompt tokens that the server counted.
    pub prompt_tokens: Option<u64>,
    /// Prompt tokens that came from a cache, as the server says.
    pub cached_tokens: Option<u64>,
    /// Answer tokens.
    pub output_tokens: u64,
    /// `ok`, `interrupted`, or the error's code.
    pub end: String,
}

impl RequestFigures {
    /// The figures of a request.
    pub fn of(record: &Record) -> Self {
        Self {
            conversation: record.conversation,
            turn: record.turn,
            sent_s: record.sent.as_secs_f64(),
            lag_ms: record.lag.map(milliseconds),
            ttft_ms: record.ttft().map(milliseconds),
            itl_ms: record.time_per_token().map(milliseconds),
            latency_ms: milliseconds(record.latency()),
            prompt_tokens: record.usage.map(|usage| usage.prompt),
            cached_tokens: record.usage.and_then(|usage| usage.cached),
            output_tokens: record.output_tokens(),
            end: match &record.end {
                End::Complete => "ok".to_owned(),
                End::Failed(failure) => shortened(&failure.code()),
                End::Interrupted => "interrupted".to_owned(),
            },
        }
    }
}

/// Cuts a message to a length that a table takes.
pub(crate) fn shortened(message: &str) -> String {
    let mut ends = (0..=MAX_MESSAGE_BYTES.min(message.len())).rev();
    let end = ends.find(|end| message.is_char_boundary(*end));
    message[..end.unwrap_or_default()].to_owned()
}

fn micros(count: u32) -> Duration {
    Duration::from_micros(u64::from(count))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request that was answered with pieces of text at these microseconds.
    pub(crate) fn answered(sent_ms: u64, tokens: &[u32]) -> Record {
        let last = tokens.last().copied().unwrap_or_default();
        let sent = Duration::from_millis(sent_ms);
        Record {
            conversation: 0,
            turn: 0,
            asked_input: 100,
            asked_output: 10,
            lag: None,
            sent,
            ended: sent + micros(last),
            tokens: tokens.to_vec(),
            usage: None,
            end: End::Complete,
        }
    }

    #[test]
    fn times_are_those_of_the_pieces() {
        let mut record = answered(5, &[1_000, 3_000, 3_500]);
        assert_eq!(record.ttft(), Some(Duration::from_millis(1)));
        assert_eq!(record.latency(), Duration::from_micros(3_500));
        let gaps: Vec<u128> = record.gaps().map(|gap| gap.as_micros()).collect();
        assert_eq!(gaps, [2_000, 500]);
        assert_eq!(record.time_per_token(), Some(Duration::from_micros(1_250)));
        // Several tokens in a piece: the server's count decides.
        record.usage = Some(Usage {
            completion: 6,
            ..Usage::default()
        });
        assert_eq!(record.time_per_token(), Some(Duration::from_micros(500)));
        assert_eq!(answered(0, &[]).time_per_token(), None);
        assert_eq!(answered(0, &[7]).time_per_token(), None);
    }

    #[test]
    fn errors_of_a_kind_have_one_code() {
        let status = |code: Option<&str>| Failure::Status {
            status: 404,
            code: code.map(str::to_owned),
            message: "no".to_owned(),
        };
        assert_eq!(
            status(Some("model_not_found")).code(),
            "http 404 model_not_found"
        );
        assert_eq!(status(None).code(), "http 404");
        assert_eq!(shortened(&"é".repeat(500)).len(), MAX_MESSAGE_BYTES);
    }
}
