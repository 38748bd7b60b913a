//! Engines that name their blocks in their own way: their ids become sequence hashes.
//!
//! An engine such as vLLM or SGLang tells the tokens of what it stored, and from then on only its
//! own id of each block. One [`ExternalBlocks`] for each worker and rank remembers what the ids
//! mean, and turns what the engine tells into events that an index takes.
//!
//! Invariants:
//! - hashes come from tokens, adapter, salt and media alone, never from an engine's id
//! - a block is removed from a tier when the last id that meant it there is gone
//! - what cannot be understood changes nothing and is counted: blocks after an unknown parent, of
//!   another size, with another number of tokens, in an unknown medium
//! - bounded in ids

use crate::index::TierEvent;
use crate::worker::Tier;
use dynamo_protocols::kv::{Block, BlockHash, KvEvent, SequenceHash};
use dynamo_tokens::{
    HashContext, block_hashes, block_hashes_with_media, chain, eagle_block_hashes,
};
use serde::Serialize;
use std::collections::HashMap;
use std::num::NonZeroU32;
use thiserror::Error;

/// Ids remembered of one worker and rank: 16 million tokens in blocks of 16, in some 100 MB. An
/// engine that never tells of removals reaches it.
pub const MAX_IDS: usize = 1 << 20;

/// Blocks that an engine stored, each one following the one before it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExternalStored<'a> {
    /// The engine's ids of the blocks.
    pub block_hashes: &'a [u64],
    /// The engine's id of the block before the first; `None` at the start of a prompt.
    pub parent: Option<u64>,
    /// The tokens of all blocks; with `eagle` one more. Empty where blocks that are known by
    /// their ids came to another medium.
    pub token_ids: &'a [u32],
    /// Tokens per block.
    pub block_size: u32,
    /// The LoRA adapter's name.
    pub lora_name: Option<&'a str>,
    /// The cache salt, where the engine tells it: blocks without one have their parent's.
    pub salt: Option<&'a str>,
    /// Hashes of the media that each block holds a part of; empty if no block holds any.
    pub media: &'a [Vec<u64>],
    /// Where the blocks lie, in the engine's words; `None` is the device.
    pub medium: Option<&'a str>,
    /// The engine's blocks see one token ahead.
    pub eagle: bool,
}

/// Why an engine's event changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// Its position in a prompt is unknown.
    #[error("stored blocks follow a block that is not known")]
    UnknownParent,
    /// Its hashes would match no prompt.
    #[error("blocks of {told} tokens where the router has {expected}: start both with one size")]
    BlockSize {
        /// The event's.
        told: u32,
        /// The router's.
        expected: u32,
    },
    /// Blocks and tokens do not fit together.
    #[error("{blocks} blocks stored with {tokens} tokens")]
    TokenCount {
        /// How many ids it has.
        blocks: usize,
        /// How many tokens.
        tokens: usize,
    },
    /// A medium of which it is not known how near it is.
    #[error("unknown medium {0:?}")]
    UnknownMedium(String),
    /// Blocks that see one token ahead and hold media have no hash.
    #[error("blocks of an eagle engine hold media")]
    EagleMedia,
    /// [`MAX_IDS`] are known.
    #[error("the engine holds more than {MAX_IDS} blocks")]
    Full,
}

/// What could not be understood, in events unless it says otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ExternalCounters {
    /// See [`ExternalError::UnknownParent`].
    pub unknown_parent: u64,
    /// See [`ExternalError::BlockSize`].
    pub block_size: u64,
    /// See [`ExternalError::Full`].
    pub full: u64,
    /// Everything else.
    pub malformed: u64,
    /// Blocks removed or moved by an id that is not known.
    pub unknown_ids: u64,
}

#[derive(Debug)]
struct Known {
    sequence_hash: SequenceHash,
    /// A bit for each tier that has it.
    tiers: u8,
}

#[derive(Debug)]
struct Meaning {
    block_hash: BlockHash,
    /// Means nothing at the start of a prompt, where both hashes are one.
    parent: SequenceHash,
    /// What the salt makes of hashes.
    salted: HashContext,
    /// By tier: the ids that mean it.
    ids: [u32; Tier::ALL.len()],
}

/// See the module's description.
#[derive(Debug)]
pub struct ExternalBlocks {
    block_size: NonZeroU32,
    max_ids: usize,
    ids: HashMap<u64, Known>,
    meanings: HashMap<SequenceHash, Meaning>,
    counters: ExternalCounters,
}

impl ExternalBlocks {
    /// Knows no ids. `block_size` is the router's.
    pub fn new(block_size: NonZeroU32) -> Self {
        Self {
            block_size,
            max_ids: MAX_IDS,
            ids: HashMap::new(),
            meanings: HashMap::new(),
            counters: ExternalCounters::default(),
        }
    }

    /// Takes in blocks that the engine stored.
    ///
    /// # Errors
    /// If they mean nothing to this router; nothing changed then, and it was counted.
    pub fn stored(&mut self, told: &ExternalStored<'_>) -> Result<Vec<TierEvent>, ExternalError> {
        let events = self.understand(told);
        if let Err(error) = &events {
            let counter = match error {
                ExternalError::UnknownParent => &mut self.counters.unknown_parent,
                ExternalError::BlockSize { .. } => &mut self.counters.block_size,
                ExternalError::Full => &mut self.counters.full,
                _ => &mut self.counters.malformed,
            };
            *counter += 1;
        }
        events
    }

    /// Takes in that blocks are gone from a medium; `None` is the device.
    ///
    /// # Errors
    /// If the medium is unknown; nothing changed then, and it was counted.
    pub fn removed(
        &mut self,
        ids: &[u64],
        medium: Option<&str>,
    ) -> Result<Vec<TierEvent>, ExternalError> {
        let tier = tier_of(medium).inspect_err(|_| self.counters.malformed += 1)?;
        let gone: Vec<_> = ids.iter().filter_map(|id| self.lose(*id, tier)).collect();
        Ok(removal(tier, gone).into_iter().collect())
    }

    /// Takes in that the engine holds nothing any more.
    pub fn cleared(&mut self) -> TierEvent {
        self.ids = HashMap::new();
        self.meanings = HashMap::new();
        TierEvent {
            tier: Tier::Device,
            event: KvEvent::Cleared,
        }
    }

    /// How many ids are known.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether no id is known.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What could not be understood so far.
    pub fn counters(&self) -> ExternalCounters {
        self.counters
    }

    fn understand(&mut self, told: &ExternalStored<'_>) -> Result<Vec<TierEvent>, ExternalError> {
        let tier = tier_of(told.medium)?;
        if told.token_ids.is_empty() {
            return Ok(self.moved(told.block_hashes, tier));
        }
        self.check(told)?;
        let (parent, salted) = match told.parent {
            None => (None, HashContext::new()),
            Some(id) => {
                let known = self.ids.get(&id).ok_or(ExternalError::UnknownParent)?;
                let meaning = self.meanings.get(&known.sequence_hash);
                let salted = meaning.map_or_else(HashContext::new, |it| it.salted);
                (Some(known.sequence_hash), salted)
            }
        };
        let salted = match told.salt.filter(|salt| !salt.is_empty()) {
            Some(salt) => HashContext::new().with_salt(salt),
            None => salted,
        };
        let hashes = hashes(told, &salted.with_lora(told.lora_name.unwrap_or_default()));
        let blocks = chained(parent, &hashes);
        let mut events = Vec::new();
        let mut before = parent;
        for (&id, block) in told.block_hashes.iter().zip(&blocks) {
            let meaning = Meaning {
                block_hash: block.block_hash,
                parent: before.unwrap_or_default(),
                salted,
                ids: [0; Tier::ALL.len()],
            };
            self.learn(id, block.sequence_hash, meaning, &mut events);
            self.gain(id, tier);
            before = Some(block.sequence_hash);
        }
        let event = KvEvent::Stored { parent, blocks };
        events.push(TierEvent { tier, event });
        Ok(events)
    }

    fn check(&self, told: &ExternalStored<'_>) -> Result<(), ExternalError> {
        let expected = self.block_size.get();
        if told.block_size != expected {
            return Err(ExternalError::BlockSize {
                told: told.block_size,
                expected,
            });
        }
        let blocks = told.block_hashes.len();
        let tokens = blocks.saturating_mul(expected as usize);
        let tokens = tokens.saturating_add(usize::from(told.eagle));
        if blocks == 0 || told.token_ids.len() != tokens {
            return Err(ExternalError::TokenCount {
                blocks,
                tokens: told.token_ids.len(),
            });
        }
        if told.eagle && told.media.iter().any(|media| !media.is_empty()) {
            return Err(ExternalError::EagleMedia);
        }
        if self.ids.len() + blocks > self.max_ids {
            return Err(ExternalError::Full);
        }
        Ok(())
    }

    /// Known blocks came to a tier, in any order.
    fn moved(&mut self, ids: &[u64], tier: Tier) -> Vec<TierEvent> {
        let mut events: Vec<TierEvent> = Vec::new();
        for &id in ids {
            let Some((parent, block)) = self.block(id) else {
                self.counters.unknown_ids += 1;
                continue;
            };
            self.gain(id, tier);
            let last = events.last_mut().map(|last| &mut last.event);
            if let Some(KvEvent::Stored { blocks, .. }) = last
                && blocks.last().map(|last| last.sequence_hash) == parent
            {
                blocks.push(block);
                continue;
            }
            let blocks = vec![block];
            let event = KvEvent::Stored { parent, blocks };
            events.push(TierEvent { tier, event });
        }
        events
    }

    /// A block and the sequence hash before it.
    fn block(&self, id: u64) -> Option<(Option<SequenceHash>, Block)> {
        let sequence_hash = self.ids.get(&id)?.sequence_hash;
        let meaning = self.meanings.get(&sequence_hash)?;
        let block = Block {
            block_hash: meaning.block_hash,
            sequence_hash,
        };
        let starts = block.block_hash == sequence_hash;
        Some(((!starts).then_some(meaning.parent), block))
    }

    /// Notes what an id means. If it meant something else, that is gone.
    fn learn(
        &mut self,
        id: u64,
        sequence_hash: SequenceHash,
        meaning: Meaning,
        events: &mut Vec<TierEvent>,
    ) {
        let known = self.ids.get(&id).map(|known| known.sequence_hash);
        if known.is_some_and(|known| known != sequence_hash) {
            for tier in Tier::ALL {
                let gone = self.take(id, tier).flatten();
                events.extend(removal(tier, gone.into_iter().collect()));
            }
        }
        self.meanings.entry(sequence_hash).or_insert(meaning);
        self.ids.entry(id).or_insert(Known {
            sequence_hash,
            tiers: 0,
        });
    }

    fn gain(&mut self, id: u64, tier: Tier) {
        let Some(known) = self.ids.get_mut(&id) else {
            return;
        };
        let bit = 1 << tier.index();
        if known.tiers & bit == 0
            && let Some(meaning) = self.meanings.get_mut(&known.sequence_hash)
        {
            known.tiers |= bit;
            meaning.ids[tier.index()] += 1;
        }
    }

    fn lose(&mut self, id: u64, tier: Tier) -> Option<SequenceHash> {
        let taken = self.take(id, tier);
        if taken.is_none() {
            self.counters.unknown_ids += 1;
        }
        taken.flatten()
    }

    /// Takes an id from a tier; answers the block that no id means there any more. `None` if the
    /// id was not there.
    fn take(&mut self, id: u64, tier: Tier) -> Option<Option<SequenceHash>> {
        let known = self.ids.get_mut(&id)?;
        let sequence_hash = known.sequence_hash;
        let bit = 1 << tier.index();
        if known.tiers & bit == 0 {
            return None;
        }
        known.tiers &= !bit;
        if known.tiers == 0 {
            self.ids.remove(&id);
        }
        let meaning = self.meanings.get_mut(&sequence_hash)?;
        meaning.ids[tier.index()] -= 1;
        let left = meaning.ids[tier.index()];
        if meaning.ids == [0; Tier::ALL.len()] {
            self.meanings.remove(&sequence_hash);
        }
        Some((left == 0).then_some(sequence_hash))
    }
}

fn tier_of(medium: Option<&str>) -> Result<Tier, ExternalError> {
    let Some(name) = medium else {
        return Ok(Tier::Device);
    };
    Tier::of_medium(name).ok_or_else(|| ExternalError::UnknownMedium(name.into()))
}

fn hashes(told: &ExternalStored<'_>, context: &HashContext) -> Vec<BlockHash> {
    let size = told.block_size as usize;
    if told.eagle {
        eagle_block_hashes(told.token_ids, size, context)
    } else if told.media.is_empty() {
        block_hashes(told.token_ids, size, context)
    } else {
        block_hashes_with_media(told.token_ids, size, told.media, context)
    }
}

fn chained(mut parent: Option<SequenceHash>, hashes: &[BlockHash]) -> Vec<Block> {
    let block = |&block_hash| {
        let sequence_hash = parent.map_or(block_hash, |parent| chain(parent, block_hash));
        parent = Some(sequence_hash);
        Block {
            block_hash,
            sequence_hash,
        }
    };
    hashes.iter().map(block).collect()
}

fn removal(tier: Tier, blocks: Vec<SequenceHash>) -> Option<TierEvent> {
    let event = KvEvent::Removed { blocks };
    let nothing = matches!(&event, KvEvent::Removed { blocks } if blocks.is_empty());
    (!nothing).then_some(TierEvent { tier, event })
}

#[cfg(test)]
mod tests;
