//! Which blocks are reusable, by sequence hash, and the events that say so.
//!
//! Invariant: replaying the events gives exactly the set of hashes that at least one slot holds,
//! and that set is closed under prefixes: a block is stored after its parent and removed before
//! it.

use dynamo_protocols::kv::{Block, KvEvent, KvEventBatch, SequenceHash};
use std::collections::HashMap;

/// Holders per reusable block, and the events not yet taken.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    // Looked up by hash only; never iterated where order could matter.
    holders: HashMap<SequenceHash, u32>,
    pending: Vec<KvEvent>,
    next_event_id: u64,
}

impl Ledger {
    /// A slot now holds `blocks[from..]` of a sequence, after it held `blocks[..from]`.
    pub(crate) fn store(&mut self, blocks: &[Block], from: usize) {
        let mut new: Vec<Block> = Vec::new();
        let mut parent = None;
        for (index, block) in blocks.iter().enumerate().skip(from) {
            let holders = self.holders.entry(block.sequence_hash).or_default();
            *holders += 1;
            if *holders > 1 {
                continue;
            }
            if new.is_empty() {
                parent = index.checked_sub(1).map(|p| blocks[p].sequence_hash);
            }
            new.push(*block);
        }
        if !new.is_empty() {
            self.pending.push(KvEvent::Stored {
                parent,
                blocks: new,
            });
        }
    }

    /// A slot gives up `blocks`, consecutive blocks of a sequence up to its end.
    pub(crate) fn remove(&mut self, blocks: &[Block]) {
        let mut gone = Vec::new();
        for block in blocks.iter().rev() {
            if let Some(holders) = self.holders.get_mut(&block.sequence_hash) {
                *holders -= 1;
                if *holders == 0 {
                    self.holders.remove(&block.sequence_hash);
                    gone.push(block.sequence_hash);
                }
            }
        }
        if !gone.is_empty() {
            self.pending.push(KvEvent::Removed { blocks: gone });
        }
    }

    /// The events since the last call.
    pub(crate) fn take_events(&mut self) -> Option<KvEventBatch> {
        if self.pending.is_empty() {
            return None;
        }
        let events = std::mem::take(&mut self.pending);
        let first_event_id = self.next_event_id;
        self.next_event_id += events.len() as u64;
        Some(KvEventBatch {
            first_event_id,
            events,
        })
    }
}
