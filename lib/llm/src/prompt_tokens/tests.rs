//! Remembering with the byte tokenizer, made to vouch for cuts before one of its tokens.

use super::*;
use crate::byte_tokenizer::ByteTokenizer;
use crate::template::SpecialTokens;
use std::sync::atomic::AtomicUsize;

/// Bytes as tokens; `\n` cuts. Counts what it is asked to encode.
#[derive(Debug, Default)]
struct Counting {
    bytes: AtomicUsize,
}

impl Tokenizer for Counting {
    fn encode(&self, text: &str, special: bool) -> Result<Vec<TokenId>, TokenizerError> {
        self.bytes.fetch_add(text.len(), Ordering::Relaxed);
        ByteTokenizer.encode(text, special)
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        ByteTokenizer.token_bytes(id)
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        ByteTokenizer.decode(ids, skip_special)
    }

    fn token_to_id(&self, token: &str) -> Option<TokenId> {
        ByteTokenizer.token_to_id(token)
    }

    fn is_special(&self, id: TokenId) -> bool {
        ByteTokenizer.is_special(id)
    }

    fn vocab_size(&self) -> usize {
        ByteTokenizer.vocab_size()
    }

    fn cuts_text(&self, id: TokenId) -> bool {
        id == TokenId::from(b'\n')
    }
}

fn template() -> ChatTemplate {
    let source = "{% for m in messages %}{{ '\n' + m.content }}{% endfor %}";
    ChatTemplate::new(source, SpecialTokens::new()).unwrap()
}

struct Remembering {
    counting: Arc<Counting>,
    tokenizer: Arc<dyn Tokenizer>,
    counters: Arc<PromptTokenCounters>,
}

fn remembering(cache: &PromptTokenCache) -> Remembering {
    let counting = Arc::new(Counting::default());
    let inner: Arc<dyn Tokenizer> = Arc::<Counting>::clone(&counting);
    let (tokenizer, counters) = cache.remembering(&inner, Some(&template())).unwrap();
    counting.bytes.store(0, Ordering::Relaxed);
    Remembering {
        counting,
        tokenizer,
        counters,
    }
}

impl Remembering {
    /// Bytes that had to be encoded for a text.
    fn encode(&self, text: &str, special: bool) -> usize {
        self.counting.bytes.store(0, Ordering::Relaxed);
        let ids = self.tokenizer.encode(text, special).unwrap();
        assert_eq!(ids, ByteTokenizer.encode(text, special).unwrap());
        self.counting.bytes.load(Ordering::Relaxed)
    }
}

fn turn(letter: &str, bytes: usize) -> String {
    format!("\n{}", letter.repeat(bytes - 1))
}

#[test]
fn a_conversation_that_goes_on_is_encoded_from_its_last_cut_on() {
    let cache = PromptTokenCache::new(1 << 20);
    let model = remembering(&cache);
    let first = turn("a", 1_000) + &turn("b", 700) + &turn("c", 300);
    assert_eq!(model.encode(&first, false), first.len());
    assert_eq!(model.encode(&first, false), 300);
    let longer = first + &turn("d", 400) + &turn("e", 10);
    assert_eq!(model.encode(&longer, false), 710);
    assert_eq!(model.encode(&longer, false), 10);
    let other = turn("a", 1_000) + &turn("x", 600) + "\n";
    assert_eq!(model.encode(&other, false), 601);
    assert_eq!(
        model.counters.counts(),
        PromptTokenCounts {
            hits: 4,
            misses: 1,
            cached_tokens: 1_700 + 1_700 + 2_400 + 1_000,
            uncached_tokens: 2_000 + 300 + 710 + 10 + 601,
        }
    );
}

#[test]
fn short_texts_and_those_with_a_prefix_of_the_models_are_not_kept() {
    let cache = PromptTokenCache::new(1 << 20);
    let model = remembering(&cache);
    let long = turn("a", 1_000) + &turn("b", 1_000);
    for (text, special) in [("\na\nb", false), ("", false), (&long, true)] {
        assert_eq!(model.encode(text, special), text.len());
        assert_eq!(model.encode(text, special), text.len());
    }
    assert_eq!(cache.bytes(), 0);
    assert_eq!(model.counters.counts().misses, 0);
}

#[test]
fn models_share_the_bound_and_nothing_else() {
    let cache = PromptTokenCache::new(32 << 10);
    let (one, two) = (remembering(&cache), remembering(&cache));
    let text = turn("a", 1_000) + "\n";
    assert_eq!(one.encode(&text, false), text.len());
    assert_eq!(two.encode(&text, false), text.len());
    assert_eq!(one.encode(&text, false), 1);
    let both = cache.bytes();
    assert!((10_000..11_000).contains(&both), "{both}");
    for letter in ["b", "c", "d", "e", "f", "g"] {
        one.encode(&(turn(letter, 1_000) + "\n"), false);
        assert!(cache.bytes() <= 32 << 10);
    }
    // Driven out by the other model's.
    assert_eq!(two.encode(&text, false), text.len());
}

#[test]
fn without_room_or_cuts_the_tokenizer_stays_as_it_is() {
    let bytes: Arc<dyn Tokenizer> = Arc::new(ByteTokenizer);
    let counting: Arc<dyn Tokenizer> = Arc::new(Counting::default());
    let (cache, off) = (PromptTokenCache::new(1_000), PromptTokenCache::new(0));
    assert!(cache.remembering(&bytes, Some(&template())).is_none());
    assert!(cache.remembering(&counting, None).is_none());
    assert!(off.remembering(&counting, Some(&template())).is_none());
    assert_eq!(off.bytes(), 0);
}
