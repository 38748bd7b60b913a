//! KV state on its way out of and into the engine.
//!
//! The serialised form is a header (salt and segments) and llama.cpp's own bytes, with a checksum
//! over all of it and over the tokens. Invariant: nothing reaches llama.cpp's reader whose
//! layout, hashes and checksum do not fit.

use super::LlamacppEngine;
use super::inbox::Command;
use crate::config::Settings;
use crate::executor::StateSegment;
use crate::model::ModelFacts;
use dynamo_protocols::RequestError;
use dynamo_protocols::kv::{Block, KvBlockRange, KvLayout, KvTransfer};
use dynamo_tokens::{HashContext, TokenBlocks};
use futures_core::future::BoxFuture;
use std::num::NonZeroUsize;
use std::sync::Arc;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::Xxh3;

/// Version of this header.
const HEADER_VERSION: u32 = 1;

/// Version of llama.cpp's own form, from its header; the binding does not export it. The crate's
/// exact version is pinned, so the two change together.
const LLAMA_STATE_SEQ_VERSION: u32 = 4;

/// Pieces of one range: a context of 4 million tokens in windows of 128.
const MAX_SEGMENTS: u64 = 32_768;

/// Longest salt taken.
const MAX_SALT_BYTES: u64 = 4_096;

/// A prefix as it leaves the engine's thread.
#[derive(Debug, Default)]
pub(super) struct Exported {
    pub(super) blocks: usize,
    pub(super) tokens: Vec<u32>,
    pub(super) salt: Option<Arc<str>>,
    pub(super) segments: Vec<StateSegment>,
}

/// A checked prefix for the engine's thread.
#[derive(Debug)]
pub(super) struct Imported {
    pub(super) tokens: Vec<u32>,
    pub(super) hashes: Vec<u64>,
    pub(super) salt: Option<Arc<str>>,
    pub(super) segments: Vec<StateSegment>,
}

/// The layout of an engine's state. Keys and values are kept in half precision, llama.cpp's
/// default; an option to change that would have to show here.
pub(super) fn layout(facts: &ModelFacts, settings: &Settings) -> KvLayout {
    let block_size = settings.scheduler.block_size.get();
    KvLayout {
        format: format!("llama.cpp/seq-state/{LLAMA_STATE_SEQ_VERSION}/{HEADER_VERSION}"),
        model: format!("{}-{:016x}-f16", facts.architecture, facts.fingerprint),
        block_size: u32::try_from(block_size).unwrap_or(u32::MAX),
    }
}

impl KvTransfer for LlamacppEngine {
    fn layout(&self) -> KvLayout {
        self.layout.clone()
    }

    fn export(&self, blocks: Vec<Block>) -> BoxFuture<'_, Result<KvBlockRange, RequestError>> {
        Box::pin(async move {
            let (reply, answer) = oneshot::channel();
            let mut named = blocks.clone();
            self.shared.send(Command::Export { blocks, reply })?;
            let exported = answer.await.map_err(|_| self.shared.gone())??;
            named.truncate(exported.blocks);
            Ok(KvBlockRange {
                layout: self.layout.clone(),
                blocks: named,
                state: encode(&exported),
                token_ids: exported.tokens,
            })
        })
    }

    fn import(&self, range: KvBlockRange) -> BoxFuture<'_, Result<usize, RequestError>> {
        Box::pin(async move {
            if range.blocks.is_empty() {
                return Ok(0);
            }
            let prefix = check(range, &self.layout, self.context_length())?;
            let (reply, answer) = oneshot::channel();
            self.shared.send(Command::Import { prefix, reply })?;
            answer.await.map_err(|_| self.shared.gone())?
        })
    }
}

fn encode(exported: &Exported) -> Vec<u8> {
    if exported.blocks == 0 {
        return Vec::new();
    }
    let payload: usize = exported.segments.iter().map(|s| s.bytes.len() + 24).sum();
    let mut state = Vec::with_capacity(payload + 64);
    let salt = exported.salt.as_deref().unwrap_or_default();
    push(&mut state, salt.len());
    state.extend(salt.as_bytes());
    push(&mut state, exported.segments.len());
    for segment in &exported.segments {
        push(&mut state, segment.start);
        push(&mut state, segment.end);
        push(&mut state, segment.bytes.len());
        state.extend(&segment.bytes);
    }
    let sum = checksum(&state, &exported.tokens);
    state.extend(sum.to_le_bytes());
    state
}

/// Takes a range apart if it may be trusted.
fn check(
    range: KvBlockRange,
    own: &KvLayout,
    context_length: usize,
) -> Result<Imported, RequestError> {
    if range.layout != *own {
        return Err(RequestError::invalid(
            "layout",
            format!(
                "KV state of {} in {} blocks of {} is not for this engine, which holds {} in {} \
                 blocks of {}",
                range.layout.model,
                range.layout.format,
                range.layout.block_size,
                own.model,
                own.format,
                own.block_size
            ),
        ));
    }
    let block_size = NonZeroUsize::new(own.block_size as usize).unwrap_or(NonZeroUsize::MIN);
    let tokens = range.blocks.len() * block_size.get();
    if range.token_ids.len() != tokens || tokens > context_length {
        return Err(damaged(
            "its tokens do not fill its blocks, or not this context",
        ));
    }
    let (salt, segments) = decode(&range.state, &range.token_ids)?;
    let contiguous = segments
        .iter()
        .try_fold(0, |at, s| (s.start == at && s.end > at).then_some(s.end));
    if contiguous != Some(tokens) {
        return Err(damaged("its pieces do not cover its blocks"));
    }
    let mut named = TokenBlocks::new(block_size, HashContext::of(None, salt.as_deref()));
    named.extend(&range.token_ids);
    if named.blocks() != range.blocks {
        return Err(damaged("its hashes do not name its tokens"));
    }
    Ok(Imported {
        hashes: range.blocks.iter().map(|b| b.sequence_hash).collect(),
        tokens: range.token_ids,
        salt,
        segments,
    })
}

type Decoded = (Option<Arc<str>>, Vec<StateSegment>);

fn decode(state: &[u8], tokens: &[u32]) -> Result<Decoded, RequestError> {
    let short = || damaged("it ends too early");
    let (body, sum) = state.split_last_chunk::<8>().ok_or_else(short)?;
    if u64::from_le_bytes(*sum) != checksum(body, tokens) {
        return Err(damaged("its checksum does not fit"));
    }
    let mut rest = body;
    let salt_len = take(&mut rest).filter(|&len| len <= MAX_SALT_BYTES);
    let salt = salt_len.and_then(|len| take_bytes(&mut rest, len));
    let salt = std::str::from_utf8(salt.ok_or_else(short)?).map_err(|_| short())?;
    let count = take(&mut rest).filter(|&count| count <= MAX_SEGMENTS);
    let mut segments = Vec::new();
    for _ in 0..count.ok_or_else(short)? {
        let segment = take_segment(&mut rest).ok_or_else(short)?;
        segments.push(segment);
    }
    let salt = (!salt.is_empty()).then(|| salt.into());
    Ok((salt, segments))
}

fn take_segment(rest: &mut &[u8]) -> Option<StateSegment> {
    let start = usize::try_from(take(rest)?).ok()?;
    let end = usize::try_from(take(rest)?).ok()?;
    let len = take(rest)?;
    let bytes = take_bytes(rest, len)?.to_vec();
    Some(StateSegment { start, end, bytes })
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let (number, after) = rest.split_first_chunk::<8>()?;
    *rest = after;
    Some(u64::from_le_bytes(*number))
}

fn take_bytes<'a>(rest: &mut &'a [u8], len: u64) -> Option<&'a [u8]> {
    let (bytes, after) = rest.split_at_checked(usize::try_from(len).ok()?)?;
    *rest = after;
    Some(bytes)
}

fn push(state: &mut Vec<u8>, number: usize) {
    state.extend((number as u64).to_le_bytes());
}

fn checksum(state: &[u8], tokens: &[u32]) -> u64 {
    let mut hasher = Xxh3::new();
    hasher.update(state);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    hasher.digest()
}

fn damaged(detail: &str) -> RequestError {
    RequestError::invalid("state", format!("the KV state is damaged: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn own() -> KvLayout {
        KvLayout {
            format: "f".into(),
            model: "m".into(),
            block_size: 2,
        }
    }

    fn range() -> KvBlockRange {
        let tokens = vec![1, 2, 3, 4];
        let salt: Option<Arc<str>> = Some("tenant".into());
        let context = HashContext::of(None, salt.as_deref());
        let mut named = TokenBlocks::new(NonZeroUsize::new(2).unwrap(), context);
        named.extend(&tokens);
        let segments = vec![
            StateSegment {
                start: 0,
                end: 3,
                bytes: vec![7; 5],
            },
            StateSegment {
                start: 3,
                end: 4,
                bytes: vec![8; 2],
            },
        ];
        let exported = Exported {
            blocks: 2,
            tokens: tokens.clone(),
            salt,
            segments,
        };
        KvBlockRange {
            layout: own(),
            blocks: named.blocks().to_vec(),
            token_ids: tokens,
            state: encode(&exported),
        }
    }

    #[test]
    fn what_was_encoded_comes_back() {
        let prefix = check(range(), &own(), 100).unwrap();
        assert_eq!(prefix.salt.as_deref(), Some("tenant"));
        assert_eq!(prefix.segments.len(), 2);
        assert_eq!(prefix.segments[1].bytes, [8, 8]);
    }

    #[test]
    fn another_model_or_block_size_is_refused() {
        let mut other = range();
        other.layout.model = "other".into();
        assert!(
            check(other, &own(), 100)
                .unwrap_err()
                .message
                .contains("other")
        );
        let mut other = range();
        other.layout.block_size = 4;
        assert!(check(other, &own(), 100).is_err());
        assert!(check(range(), &own(), 3).is_err());
    }

    #[test]
    fn hashes_that_name_other_tokens_are_refused() {
        let mut wrong = range();
        wrong.blocks[1].sequence_hash ^= 1;
        assert!(
            check(wrong, &own(), 100)
                .unwrap_err()
                .message
                .contains("hashes")
        );
    }

    proptest! {
        #[test]
        fn damage_anywhere_is_noticed(at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut damaged = range();
            let at = at.index(damaged.state.len());
            damaged.state[at] ^= flip;
            prop_assert!(check(damaged, &own(), 100).is_err());
        }

        #[test]
        fn cuts_are_noticed(len in any::<prop::sample::Index>()) {
            let mut cut = range();
            let len = len.index(cut.state.len());
            cut.state.truncate(len);
            prop_assert!(check(cut, &own(), 100).is_err());
        }
    }
}
