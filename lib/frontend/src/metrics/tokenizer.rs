//! Measures the time that one request spends in its model's tokenizer.
//!
//! The tokenizer stands between the pipeline and the model's own: the pipeline needs no clock,
//! and requests that nobody measures pay nothing. The counters are the request's own: nothing is
//! shared between requests, nothing is looked up. Looking up a token takes no longer than reading
//! the clock twice, so that only one look-up in [`TIMED_ONE_IN`] is timed, and stands for the rest.

use dynamo_llm::model::ServedModel;
use dynamo_protocols::engine::TokenId;
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How many tokens are looked up for each that is timed; the first of a request always is. A
/// look-up takes some 60 ns and the clock twice 25: spread over 16 they cannot be measured.
const TIMED_ONE_IN: u64 = 16;

/// What one request has spent in the tokenizer.
///
/// Each counter is complete by itself and is read when the request is over: nothing is ordered
/// by them.
#[derive(Debug, Default)]
pub(super) struct TokenizerTimes {
    encoded: Timed,
    /// Tokens one by one, of which some are timed.
    looked_up: AtomicU64,
    timed: Timed,
    /// Tokens of sequences that were decoded as a whole.
    decoded: Timed,
}

/// A count, and the time that all of it took.
#[derive(Debug, Default)]
struct Timed {
    count: AtomicU64,
    nanoseconds: AtomicU64,
}

/// A model's tokenizer whose time is counted.
#[derive(Debug)]
struct MeasuredTokenizer {
    inner: Arc<dyn Tokenizer>,
    times: Arc<TokenizerTimes>,
}

/// The model as one request sees it.
pub(super) fn measured(model: &ServedModel, times: &Arc<TokenizerTimes>) -> Arc<ServedModel> {
    Arc::new(ServedModel {
        tokenizer: Arc::new(MeasuredTokenizer {
            inner: Arc::clone(&model.tokenizer),
            times: Arc::clone(times),
        }),
        ..model.clone()
    })
}

// === impl TokenizerTimes ===

impl TokenizerTimes {
    /// Time in which text became tokens, if any did.
    pub(super) fn encoding(&self) -> Option<Duration> {
        let (count, time) = self.encoded.total();
        (count > 0).then_some(time)
    }

    /// Time in which tokens became text, and how many did.
    pub(super) fn decoding(&self) -> (Duration, u64) {
        let (decoded, decoding) = self.decoded.total();
        let (timed, looking) = self.timed.total();
        let looked_up = self.looked_up.load(Ordering::Relaxed);
        // The first is always timed.
        let share = looked_up as f64 / timed.max(1) as f64;
        (decoding + looking.mul_f64(share), decoded + looked_up)
    }
}

// === impl Timed ===

impl Timed {
    fn add(&self, count: u64, since: Instant) {
        // 64 bits hold 584 years.
        let elapsed = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(count, Ordering::Relaxed);
        self.nanoseconds.fetch_add(elapsed, Ordering::Relaxed);
    }

    fn total(&self) -> (u64, Duration) {
        let nanoseconds = self.nanoseconds.load(Ordering::Relaxed);
        let count = self.count.load(Ordering::Relaxed);
        (count, Duration::from_nanos(nanoseconds))
    }
}

// === impl MeasuredTokenizer ===

impl Tokenizer for MeasuredTokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError> {
        let began = Instant::now();
        let tokens = self.inner.encode(text, add_special_tokens);
        self.times.encoded.add(1, began);
        tokens
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        let before = self.times.looked_up.fetch_add(1, Ordering::Relaxed);
        if !before.is_multiple_of(TIMED_ONE_IN) {
            return self.inner.token_bytes(id);
        }
        let began = Instant::now();
        let bytes = self.inner.token_bytes(id);
        self.times.timed.add(1, began);
        bytes
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        let began = Instant::now();
        let text = self.inner.decode(ids, skip_special);
        self.times.decoded.add(ids.len() as u64, began);
        text
    }

    fn token_to_id(&self, token: &str) -> Option<TokenId> {
        self.inner.token_to_id(token)
    }

    fn is_special(&self, id: TokenId) -> bool {
        self.inner.is_special(id)
    }

    fn vocab_size(&self) -> usize {
        self.inner.vocab_size()
    }

    fn cuts_text(&self, id: TokenId) -> bool {
        self.inner.cuts_text(id)
    }

    fn quick_bytes(&self) -> usize {
        self.inner.quick_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_llm::byte_tokenizer::ByteTokenizer;

    fn measured() -> (MeasuredTokenizer, Arc<TokenizerTimes>) {
        let times = Arc::new(TokenizerTimes::default());
        let tokenizer = MeasuredTokenizer {
            inner: Arc::new(ByteTokenizer),
            times: Arc::clone(&times),
        };
        (tokenizer, times)
    }

    #[test]
    fn what_goes_through_is_counted_and_unchanged() {
        let (measured, times) = measured();
        assert_eq!(times.encoding(), None);
        assert_eq!(times.decoding(), (Duration::ZERO, 0));
        let ids = measured.encode("abc", false).unwrap();
        assert_eq!(ids, ByteTokenizer.encode("abc", false).unwrap());
        assert!(times.encoding().is_some());
        assert_eq!(measured.token_bytes(ids[0]), Some(b"a".to_vec()));
        assert_eq!(measured.decode(&ids, true).unwrap(), "abc");
        assert_eq!(times.decoding().1, 4);
        assert_eq!(measured.vocab_size(), ByteTokenizer.vocab_size());
        assert!(measured.is_special(ByteTokenizer::EOS));
    }

    #[test]
    fn the_tokens_that_are_timed_stand_for_all() {
        let (measured, times) = measured();
        for _ in 0..3 * TIMED_ONE_IN {
            measured.token_bytes(97);
        }
        let (timed, looking) = times.timed.total();
        assert_eq!(timed, 3);
        let (decoding, tokens) = times.decoding();
        assert_eq!(tokens, 3 * TIMED_ONE_IN);
        assert_eq!(decoding, looking * TIMED_ONE_IN as u32);
    }
}
