//! The tokens of prompts' beginnings, remembered: a conversation that goes on is tokenised from
//! where it went on.
//!
//! A prompt is cut into pieces directly before tokens of its template (`<|im_start|>`), where the
//! tokenizer vouches that cutting changes nothing ([`Tokenizer::cuts_text`]). Where the cuts are
//! depends on the text before them alone, so that a longer conversation is cut in the same places;
//! pieces are kept in chains, so that it adds only what is new. A piece found is compared with the
//! text, byte by byte: the result is always that of the tokenizer.
//!
//! One bound holds for all models of a process. What a tokenizer does not vouch for, and text with
//! a model's own prefix and suffix, goes to the tokenizer as it is.

mod cuts;
mod shelf;

use crate::template::{ChatTemplate, RenderInput};
use cuts::Cuts;
use dynamo_protocols::engine::TokenId;
use dynamo_protocols::tokenizer::{Tokenizer, TokenizerError};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use shelf::{Hashed, Piece, Shelf};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_64;

/// What all models' prompts share. Cheap to clone; clones are the same cache.
#[derive(Clone, Default)]
pub struct PromptTokenCache {
    /// None if nothing is to be kept.
    shelf: Option<Arc<Mutex<Shelf>>>,
}

/// What came of a model's prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PromptTokenCounts {
    /// Prompts of which a beginning was remembered.
    pub hits: u64,
    /// Prompts that have a piece to remember, of which none was.
    pub misses: u64,
    /// Tokens that were remembered.
    pub cached_tokens: u64,
    /// Tokens that were not, of prompts of any kind.
    pub uncached_tokens: u64,
}

/// Counts of one model, complete one by one: nothing is ordered by them.
#[derive(Debug, Default)]
pub(crate) struct PromptTokenCounters {
    hits: AtomicU64,
    misses: AtomicU64,
    cached_tokens: AtomicU64,
    uncached_tokens: AtomicU64,
}

/// A tokenizer that remembers.
pub(crate) struct CachedTokenizer {
    inner: Arc<dyn Tokenizer>,
    cuts: Cuts,
    /// The tokenizer's number on the shelf.
    root: u64,
    shelf: Arc<Mutex<Shelf>>,
    counters: Arc<PromptTokenCounters>,
}

/// A part of a text, and what it hashes to.
struct Part {
    range: Range<usize>,
    hash: u64,
}

// === impl PromptTokenCache ===

impl PromptTokenCache {
    /// A cache of at most `bytes`; of none if 0.
    pub fn new(bytes: usize) -> Self {
        Self {
            shelf: (bytes > 0).then(|| Arc::new(Mutex::new(Shelf::new(bytes)))),
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        let shelf = self.shelf.as_ref();
        shelf.map_or(0, |shelf| shelf.lock().bytes())
    }

    /// The tokenizer, remembering; none if there is nothing that this could be good for: the cache
    /// is off, or the template writes no token before which the tokenizer lets texts be cut.
    pub(crate) fn remembering(
        &self,
        tokenizer: &Arc<dyn Tokenizer>,
        template: Option<&ChatTemplate>,
    ) -> Option<(Arc<dyn Tokenizer>, Arc<PromptTokenCounters>)> {
        let shelf = Arc::clone(self.shelf.as_ref()?);
        let cuts = Cuts::new(cutting_tokens(&**tokenizer, template?))?;
        let root = shelf.lock().root();
        let counters = Arc::new(PromptTokenCounters::default());
        let cached = CachedTokenizer {
            inner: Arc::clone(tokenizer),
            cuts,
            root,
            shelf,
            counters: Arc::clone(&counters),
        };
        Some((Arc::new(cached), counters))
    }
}

impl fmt::Debug for PromptTokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PromptTokenCache")
            .field("bytes", &self.bytes())
            .finish_non_exhaustive()
    }
}

/// The tokens that the template writes around messages, and before which text may be cut.
fn cutting_tokens(tokenizer: &dyn Tokenizer, template: &ChatTemplate) -> BTreeSet<String> {
    let says = |role: &str| json!({"role": role, "content": "a"});
    let conversations = [
        json!([says("user"), says("assistant"), says("user")]),
        json!([says("user")]),
    ];
    let render = |messages: &Value| {
        let input = RenderInput {
            messages,
            tools: None,
            add_generation_prompt: true,
            continue_final_message: false,
            kwargs: &Map::new(),
            now: Duration::ZERO,
        };
        template.render(&input).ok()
    };
    let rendered = conversations.iter().find_map(render).unwrap_or_default();
    let ids = tokenizer.encode(&rendered, false).unwrap_or_default();
    ids.into_iter()
        .filter(|&id| tokenizer.cuts_text(id))
        .filter_map(|id| String::from_utf8(tokenizer.token_bytes(id)?).ok())
        .collect()
}

// === impl PromptTokenCounters ===

impl PromptTokenCounters {
    pub(crate) fn counts(&self) -> PromptTokenCounts {
        PromptTokenCounts {
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
            cached_tokens: self.cached_tokens.load(Ordering::Relaxed),
            uncached_tokens: self.uncached_tokens.load(Ordering::Relaxed),
        }
    }

    fn count(&self, cached: usize, all: usize, has_pieces: bool) {
        if has_pieces {
            let prompts = if cached > 0 { &self.hits } else { &self.misses };
            prompts.fetch_add(1, Ordering::Relaxed);
        }
        let [cached, uncached] = [cached, all - cached].map(|count| count as u64);
        self.cached_tokens.fetch_add(cached, Ordering::Relaxed);
        self.uncached_tokens.fetch_add(uncached, Ordering::Relaxed);
    }
}

// === impl CachedTokenizer ===

impl CachedTokenizer {
    /// The parts of a text that are worth keeping. What is behind the last of them is not: it has
    /// no cut at its end, and more text may change its tokens.
    fn parts(&self, text: &str) -> Vec<Part> {
        let mut start = 0;
        let mut parts = Vec::new();
        while let Some(end) = self.cuts.next(text, start) {
            parts.push(Part {
                range: start..end,
                hash: xxh3_64(&text.as_bytes()[start..end]),
            });
            start = end;
        }
        parts
    }

    /// What is kept of the text's parts, from the first on.
    fn find(&self, text: &str, parts: &[Part]) -> Vec<Arc<Piece>> {
        let hashes = parts.iter().map(|part| part.hash);
        let mut found = self.shelf.lock().find(self.root, hashes);
        // A hash says where to look, and the text what it is.
        let same = |(piece, part): &(&Arc<Piece>, &Part)| *piece.text == text[part.range.clone()];
        let proven = found.iter().zip(parts).take_while(same).count();
        found.truncate(proven);
        found
    }

    /// Encodes what follows the found pieces, piece by piece, and keeps it.
    fn extend(
        &self,
        text: &str,
        parts: &[Part],
        found: Vec<Arc<Piece>>,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), TokenizerError> {
        let mut chain: Vec<Hashed> = parts.iter().map(|part| part.hash).zip(found).collect();
        for part in &parts[chain.len()..] {
            let text = &text[part.range.clone()];
            let piece = Piece {
                text: text.into(),
                ids: self.inner.encode(text, false)?.into(),
            };
            ids.extend_from_slice(&piece.ids);
            chain.push((part.hash, Arc::new(piece)));
        }
        self.shelf.lock().keep(self.root, &chain);
        Ok(())
    }
}

impl fmt::Debug for CachedTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedTokenizer")
            .field("inner", &self.inner)
            .field("cuts", &self.cuts)
            .finish_non_exhaustive()
    }
}

impl Tokenizer for CachedTokenizer {
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<TokenId>, TokenizerError> {
        let parts = match add_special_tokens {
            true => Vec::new(),
            false => self.parts(text),
        };
        let Some(last) = parts.last() else {
            let ids = self.inner.encode(text, add_special_tokens)?;
            self.counters.count(0, ids.len(), false);
            return Ok(ids);
        };
        let rest = &text[last.range.end..];
        let found = self.find(text, &parts);
        let cached = found.iter().map(|piece| piece.ids.len()).sum();
        let new_bytes = text.len() - found.iter().map(|piece| piece.text.len()).sum::<usize>();
        let mut ids = Vec::with_capacity(cached + new_bytes / BYTES_PER_TOKEN);
        for piece in &found {
            ids.extend_from_slice(&piece.ids);
        }
        if found.len() < parts.len() {
            self.extend(text, &parts, found, &mut ids)?;
        }
        ids.extend(self.inner.encode(rest, false)?);
        self.counters.count(cached, ids.len(), true);
        Ok(ids)
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        self.inner.token_bytes(id)
    }

    fn decode(&self, ids: &[TokenId], skip_special: bool) -> Result<String, TokenizerError> {
        self.inner.decode(ids, skip_special)
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

/// Bytes of text per token, roughly; less than most text has, so that room is made once.
const BYTES_PER_TOKEN: usize = 3;

#[cfg(test)]
mod tests;
