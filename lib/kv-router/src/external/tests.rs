//! Tests of foreign block ids: examples, and an engine against what the index then holds.

use super::{ExternalBlocks, ExternalError, ExternalStored};
use crate::index::{Index, Matches, TierEvent};
use crate::worker::{Slot, Tier};
use dynamo_protocols::kv::KvEvent;
use dynamo_tokens::{HashContext, block_hashes, eagle_block_hashes, sequence_hashes};
use proptest::prelude::*;
use std::num::NonZeroU32;

const SIZE: NonZeroU32 = NonZeroU32::new(4).unwrap();

fn tokens(blocks: usize) -> Vec<u32> {
    (0..blocks as u32 * SIZE.get()).collect()
}

fn told<'a>(ids: &'a [u64], parent: Option<u64>, token_ids: &'a [u32]) -> ExternalStored<'a> {
    ExternalStored {
        block_hashes: ids,
        parent,
        token_ids,
        block_size: SIZE.get(),
        ..ExternalStored::default()
    }
}

fn hashes(tokens: &[u32], context: &HashContext) -> Vec<u64> {
    sequence_hashes(&block_hashes(tokens, SIZE.get() as usize, context))
}

/// Device and host blocks that a worker has of a prompt once the index took in all events.
fn overlap(events: &[TierEvent], prompt: &[u64]) -> (u32, u32) {
    let mut index = Index::default();
    index.restore(Slot(0), events);
    assert_eq!(index.counters().inconsistent, 0);
    let mut matches = Matches::new();
    index.find(prompt, &mut matches);
    let found = matches.overlaps().first();
    found.map_or((0, 0), |found| (found.device, found.host))
}

#[test]
fn ids_of_an_engine_become_the_hashes_of_the_tokens() {
    let mut blocks = ExternalBlocks::new(SIZE);
    let tokens = tokens(4);
    let mut events = blocks
        .stored(&told(&[900, 901], None, &tokens[..8]))
        .unwrap();
    events.extend(
        blocks
            .stored(&told(&[902, 903], Some(901), &tokens[8..]))
            .unwrap(),
    );
    let prompt = hashes(&tokens, &HashContext::new());
    assert_eq!(overlap(&events, &prompt), (4, 0));
    events.extend(blocks.removed(&[902], None).unwrap());
    assert_eq!(overlap(&events, &prompt), (2, 0));
    events.push(blocks.cleared());
    assert_eq!((overlap(&events, &prompt), blocks.len()), ((0, 0), 0));
}

#[test]
fn adapter_and_salt_part_equal_tokens_and_the_salt_is_inherited() {
    let mut blocks = ExternalBlocks::new(SIZE);
    let tokens = tokens(3);
    let first = ExternalStored {
        lora_name: Some("a"),
        salt: Some("tenant"),
        ..told(&[1], None, &tokens[..4])
    };
    let next = ExternalStored {
        lora_name: Some("a"),
        ..told(&[2, 3], Some(1), &tokens[4..])
    };
    let mut events = blocks.stored(&first).unwrap();
    events.extend(blocks.stored(&next).unwrap());
    let context = HashContext::of(Some("a"), Some("tenant"));
    assert_eq!(overlap(&events, &hashes(&tokens, &context)), (3, 0));
    assert_eq!(
        overlap(&events, &hashes(&tokens, &HashContext::new())),
        (0, 0)
    );
}

#[test]
fn blocks_that_see_one_token_ahead_take_one_token_more() {
    let mut blocks = ExternalBlocks::new(SIZE);
    let mut tokens = tokens(2);
    tokens.push(77);
    let event = ExternalStored {
        eagle: true,
        ..told(&[1, 2], None, &tokens)
    };
    let events = blocks.stored(&event).unwrap();
    let hashes = eagle_block_hashes(&tokens, SIZE.get() as usize, &HashContext::new());
    assert_eq!(overlap(&events, &sequence_hashes(&hashes)), (2, 0));
}

#[test]
fn a_block_is_in_each_tier_on_its_own() {
    let mut blocks = ExternalBlocks::new(SIZE);
    let tokens = tokens(4);
    let prompt = hashes(&tokens, &HashContext::new());
    let mut events = blocks.stored(&told(&[1, 2, 3, 4], None, &tokens)).unwrap();
    let offloaded = ExternalStored {
        medium: Some("CPU"),
        ..told(&[4, 3, 9, 2], None, &[])
    };
    events.extend(blocks.stored(&offloaded).unwrap());
    assert_eq!(blocks.counters().unknown_ids, 1);
    events.extend(blocks.removed(&[2, 3, 4], Some("GPU")).unwrap());
    assert_eq!(overlap(&events, &prompt), (1, 3));
    events.extend(blocks.removed(&[3], Some("CPU")).unwrap());
    assert_eq!((overlap(&events, &prompt), blocks.len()), ((1, 1), 3));
}

#[test]
fn a_block_of_two_ids_goes_with_the_last_one() {
    let mut blocks = ExternalBlocks::new(SIZE);
    let tokens = tokens(1);
    let mut events = blocks.stored(&told(&[1], None, &tokens)).unwrap();
    events.extend(blocks.stored(&told(&[2], None, &tokens)).unwrap());
    assert_eq!(blocks.removed(&[1], None), Ok(Vec::new()));
    events.extend(blocks.removed(&[2, 1], None).unwrap());
    assert_eq!(
        overlap(&events, &hashes(&tokens, &HashContext::new())),
        (0, 0)
    );
    assert_eq!(blocks.counters().unknown_ids, 1);
}

#[test]
fn an_id_that_is_used_again_loses_its_old_meaning() {
    let mut blocks = ExternalBlocks::new(SIZE);
    let mut events = blocks.stored(&told(&[1, 2], None, &tokens(2))).unwrap();
    let other = [50, 51, 52, 53];
    events.extend(blocks.stored(&told(&[2], None, &other)).unwrap());
    assert_eq!(
        overlap(&events, &hashes(&tokens(2), &HashContext::new())),
        (1, 0)
    );
    assert_eq!(
        overlap(&events, &hashes(&other, &HashContext::new())),
        (1, 0)
    );
}

#[test]
fn what_cannot_be_understood_changes_nothing_and_is_counted() {
    let mut blocks = ExternalBlocks::new(SIZE);
    blocks.max_ids = 2;
    let tokens = tokens(3);
    let unknown_parent = blocks.stored(&told(&[1], Some(7), &tokens[..4]));
    assert_eq!(unknown_parent, Err(ExternalError::UnknownParent));
    let other_size = ExternalStored {
        block_size: 8,
        ..told(&[1], None, &tokens[..8])
    };
    let refused = ExternalError::BlockSize {
        told: 8,
        expected: 4,
    };
    assert_eq!(blocks.stored(&other_size), Err(refused));
    let short = blocks.stored(&told(&[1, 2], None, &tokens[..7]));
    assert!(matches!(short, Err(ExternalError::TokenCount { .. })));
    let full = blocks.stored(&told(&[1, 2, 3], None, &tokens));
    assert_eq!(full, Err(ExternalError::Full));
    let tape = blocks.removed(&[1], Some("tape"));
    assert!(matches!(tape, Err(ExternalError::UnknownMedium(_))));
    let counters = blocks.counters();
    assert_eq!((counters.unknown_parent, counters.block_size), (1, 1));
    assert_eq!((counters.full, counters.malformed), (1, 2));
    assert!(blocks.is_empty());
}

proptest! {
    /// An engine whose ids are its own, against the set of blocks that it holds.
    #[test]
    fn the_index_holds_what_the_engine_holds(
        steps in prop::collection::vec((0_u8..4, 0_u64..4, 1_usize..6), 0..60),
    ) {
        let mut blocks = ExternalBlocks::new(SIZE);
        let mut index = Index::default();
        let mut held = [0_usize; 4];
        for (kind, prompt, length) in steps {
            let tokens: Vec<u32> = tokens(8).iter().map(|it| it + 1000 * prompt as u32).collect();
            let ids: Vec<u64> = (0..8).map(|at| prompt * 100 + at).collect();
            let now = held[prompt as usize];
            let (to, events) = if kind < 2 {
                let to = (now + length).min(8);
                let parent = now.checked_sub(1).map(|last| ids[last]);
                let tokens = &tokens[now * 4..to * 4];
                let event = told(&ids[now..to], parent, tokens);
                (to, blocks.stored(&event).unwrap())
            } else {
                let to = now.saturating_sub(length);
                (to, blocks.removed(&ids[to..now], None).unwrap())
            };
            held[prompt as usize] = to;
            index.restore(Slot(0), &events);
            prop_assert_eq!(index.blocks(), held.iter().sum::<usize>() as u64);
            prop_assert_eq!(blocks.len(), held.iter().sum::<usize>());
            let mut matches = Matches::new();
            index.find(&hashes(&tokens, &HashContext::new()), &mut matches);
            prop_assert_eq!(matches.longest() as usize, to);
        }
        let counters = index.counters();
        prop_assert_eq!(counters.unknown_removed + counters.duplicate, 0);
        prop_assert_eq!(counters.orphan_stores, 0);
    }
}

#[test]
fn nothing_removed_is_no_event() {
    let mut blocks = ExternalBlocks::new(SIZE);
    assert_eq!(blocks.removed(&[], Some("DISK")), Ok(Vec::new()));
    let cleared = TierEvent {
        tier: Tier::Device,
        event: KvEvent::Cleared,
    };
    assert_eq!(blocks.cleared(), cleared);
}
