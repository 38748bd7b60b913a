//! Bytes that msgspec wrote, hand-made ones, and garbage.

use super::*;
use crate::event::{RemovedBlocks, StoredBlocks};
use dynamo_tokens::media_hash;
use proptest::prelude::*;

/// msgspec 0.22, vLLM's structs with `array_like`, `omit_defaults`, `tag`; rank 3.
const ARRAYS: &str = "\
    93cb3ff8000000000000949cab426c6f636b53746f72656492cf800000000000000507c094010203ce0001117002\
    c0a3475055c09291a573616c74799192d94061626162616261626162616261626162616261626162616261626162\
    6162616261626162616261626162616261626162616261626162616261626162616261620300ae66756c6c5f6174\
    74656e74696f6ec09cab426c6f636b53746f72656491c42001010101010101010101010101010101010101010101\
    01010001020304050607fd92090a0204c0a26164c0c0c0c094ac426c6f636b52656d6f76656492c4200202020202\
    020202020202020202020202020202020202020202020202020202ffa3475055c091b0416c6c426c6f636b73436c\
    656172656403";

/// The same events by the same structs without `array_like`.
const MAPS: &str = "\
    83a27473cb3ff8000000000000a66576656e7473948ba474797065ab426c6f636b53746f726564ac626c6f636b5f\
    68617368657392cf800000000000000507b1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473\
    94010203ce00011170aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f7261\
    5f6e616d65c0aa65787472615f6b6579739291a573616c74799192d9406162616261626162616261626162616261\
    62616261626162616261626162616261626162616261626162616261626162616261626162616261626162616261\
    6203a967726f75705f69647800b26b765f63616368655f737065635f6b696e64ae66756c6c5f617474656e74696f\
    6e88a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391c4200101010101010101010101\
    010101010101010101010101010001020304050607b1706172656e745f626c6f636b5f68617368fda9746f6b656e\
    5f69647392090aaa626c6f636b5f73697a6502a76c6f72615f696404a66d656469756dc0a96c6f72615f6e616d65\
    a2616483a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657392c4200202020202020202\
    020202020202020202020202020202020202020202020202ffa66d656469756da347505581a474797065b0416c6c\
    426c6f636b73436c6561726564b2646174615f706172616c6c656c5f72616e6b03";

/// SGLang's structs: no medium, no rank.
const SGLANG: &str = "\
    92cb40000000000000009296ab426c6f636b53746f72656491fb0b92010202c092ac426c6f636b52656d6f766564\
    91fb";

fn bytes(hexadecimal: &str) -> Vec<u8> {
    let digits: Vec<_> = hexadecimal
        .chars()
        .filter_map(|it| it.to_digit(16))
        .collect();
    digits
        .chunks(2)
        .map(|pair| (pair[0] << 4 | pair[1]) as u8)
        .collect()
}

fn golden_events() -> Vec<EngineEvent> {
    vec![
        EngineEvent::Stored(StoredBlocks {
            block_hashes: vec![(1 << 63) + 5, 7],
            token_ids: vec![1, 2, 3, 70_000],
            block_size: 2,
            salt: Some("salty".to_owned()),
            media: vec![vec![], vec![media_hash(&"ab".repeat(32))]],
            medium: Some("GPU".to_owned()),
            ..StoredBlocks::default()
        }),
        EngineEvent::Stored(StoredBlocks {
            block_hashes: vec![0x0001_0203_0405_0607],
            parent: Some((-3i64).cast_unsigned()),
            token_ids: vec![9, 10],
            block_size: 2,
            lora_name: Some("ad".to_owned()),
            ..StoredBlocks::default()
        }),
        EngineEvent::Removed(RemovedBlocks {
            block_hashes: vec![0x0202_0202_0202_0202, u64::MAX],
            medium: Some("GPU".to_owned()),
        }),
        EngineEvent::Cleared,
    ]
}

#[test]
fn both_encodings_of_msgspec_give_the_same_events() {
    for golden in [ARRAYS, MAPS] {
        let payload = decode(&bytes(golden)).unwrap();
        assert_eq!(payload.timestamp, 1.5);
        assert_eq!(payload.dp_rank, Some(3));
        assert_eq!((payload.unknown, payload.malformed), (0, 0));
        let first = &payload.events[0].scope;
        assert_eq!((first.group, first.full_attention), (Some(0), Some(true)));
        let events: Vec<_> = payload.events.into_iter().map(|it| it.event).collect();
        assert_eq!(events, golden_events());
    }
}

#[test]
fn the_short_events_of_sglang_are_read() {
    let payload = decode(&bytes(SGLANG)).unwrap();
    assert_eq!(payload.dp_rank, None);
    let events: Vec<_> = payload.events.into_iter().map(|it| it.event).collect();
    let id = (-5i64).cast_unsigned();
    let stored = StoredBlocks {
        block_hashes: vec![id],
        parent: Some(11),
        token_ids: vec![1, 2],
        block_size: 2,
        ..StoredBlocks::default()
    };
    let removed = RemovedBlocks {
        block_hashes: vec![id],
        medium: None,
    };
    assert_eq!(
        events,
        [EngineEvent::Stored(stored), EngineEvent::Removed(removed)]
    );
}

/// A small writer of MessagePack for the cases below.
#[derive(Debug, Clone)]
enum Written {
    Nil,
    Number(u32),
    Text(&'static str),
    Raw(Vec<u8>),
    Array(Vec<Self>),
    Map(Vec<(&'static str, Self)>),
}

use Written::{Array, Map, Nil, Number, Raw, Text};

impl Written {
    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Nil => out.push(0xc0),
            Number(number) => {
                out.push(0xce);
                out.extend(number.to_be_bytes());
            }
            Text(text) => {
                out.extend([0xd9, text.len() as u8]);
                out.extend(text.as_bytes());
            }
            Raw(bytes) => out.extend(bytes),
            Array(values) => {
                out.extend([0xdc, 0, values.len() as u8]);
                values.iter().for_each(|value| value.write(out));
            }
            Map(pairs) => {
                out.extend([0xde, 0, pairs.len() as u8]);
                for (name, value) in pairs {
                    Text(name).write(out);
                    value.write(out);
                }
            }
        }
    }
}

fn numbers(numbers: &[u32]) -> Written {
    Array(numbers.iter().copied().map(Number).collect())
}

fn batch(events: Vec<Written>) -> Payload {
    let mut out = Vec::new();
    Array(vec![Number(1), Array(events)]).write(&mut out);
    decode(&out).unwrap()
}

/// The one event of a batch, if it can be read.
fn one(event: Written) -> Option<TaggedEvent> {
    let mut payload = batch(vec![event]);
    assert_eq!(payload.events.len() as u64 + payload.malformed, 1);
    payload.events.pop()
}

fn stored(event: Written) -> Option<StoredBlocks> {
    match one(event)?.event {
        EngineEvent::Stored(stored) => Some(stored),
        other => panic!("{other:?}"),
    }
}

/// `BlockStored` of one block of two tokens, with fields behind the block size.
fn block_stored(more: Vec<Written>) -> Written {
    let mut fields = vec![
        Text("BlockStored"),
        numbers(&[1]),
        Nil,
        numbers(&[5, 6]),
        Number(2),
    ];
    fields.extend(more);
    Array(fields)
}

#[test]
fn unknown_kinds_are_counted_and_broken_events_cost_only_themselves() {
    let payload = batch(vec![
        Array(vec![Text("BlockMoved"), Map(vec![("x", Nil)])]),
        block_stored(vec![Text("lora"), numbers(&[1])]),
        Array(vec![]),
        Nil,
        Array(vec![Number(1)]),
        Map(vec![("kind", Text("BlockStored"))]),
        Map(vec![("type", Text("AllBlocksCleared")), ("why", Nil)]),
    ]);
    assert_eq!((payload.unknown, payload.malformed), (1, 5));
    let events: Vec<_> = payload.events.into_iter().map(|it| it.event).collect();
    assert_eq!(events, [EngineEvent::Cleared]);
}

#[test]
fn fields_that_were_added_later_are_passed_over() {
    let late = vec![
        Nil,
        Text("CPU"),
        Nil,
        Nil,
        Number(2),
        Text("sliding_window"),
        Number(128),
        Text("LOCAL"),
        Nil,
        Map(vec![("new", Nil)]),
        Number(7),
    ];
    let event = one(block_stored(late)).unwrap();
    assert_eq!(event.scope.group, Some(2));
    assert_eq!(event.scope.full_attention, Some(false));
    assert!(!event.scope.foreign);
    // An older form has a structure before the group.
    let older = vec![Nil, Nil, Nil, Nil, Array(vec![Nil]), Number(3)];
    assert_eq!(one(block_stored(older)).unwrap().scope.group, Some(3));
}

#[test]
fn blocks_elsewhere_or_not_of_the_engine_are_marked() {
    for (locality, ownership) in [(Text("REMOTE"), Nil), (Nil, Text("kvcr"))] {
        let mut fields = vec![Nil; 7];
        fields.extend([locality, ownership]);
        assert!(one(block_stored(fields)).unwrap().scope.foreign);
    }
}

#[test]
fn salts_adapters_and_media_are_told_apart() {
    let keys = |keys: Vec<Written>| Array(vec![Array(keys)]);
    let digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let case = |lora: Written, keys| stored(block_stored(vec![Nil, Nil, lora, keys])).unwrap();

    let plain = case(Text("ad"), keys(vec![Text("ad")]));
    assert_eq!((plain.lora_name.as_deref(), plain.salt), (Some("ad"), None));
    let both = case(Text("ad"), keys(vec![Text("ad"), Text("tenant")]));
    assert_eq!(both.salt.as_deref(), Some("tenant"));
    let marked = case(
        Text("ad"),
        keys(vec![Text("ad"), Text("dynamo-cache-salt:ad")]),
    );
    assert_eq!(marked.salt.as_deref(), Some("ad"));
    let sglang = case(Map(vec![("cache_salt", Text("s")), ("more", Nil)]), Nil);
    assert_eq!(
        (sglang.lora_name, sglang.salt.as_deref()),
        (None, Some("s"))
    );
    let old = case(Nil, keys(vec![Text(digest)]));
    assert_eq!(
        (old.salt, old.media),
        (None, vec![vec![0x0123_4567_89ab_cdef]])
    );
    let named = case(Nil, keys(vec![Array(vec![Text("cat"), Number(4)])]));
    assert_eq!(named.media, vec![vec![media_hash("cat")]]);
    // Prompt embeddings come as bytes.
    let embedded = case(Nil, keys(vec![Raw(vec![0xc4, 2, 1, 2])]));
    assert_eq!((embedded.salt, embedded.media), (None, vec![]));
}

#[test]
fn pairs_of_tokens_are_eagles() {
    let event = |tokens| {
        Array(vec![
            Text("BlockStored"),
            numbers(&[1]),
            Nil,
            tokens,
            Number(2),
        ])
    };
    let pairs = Array(vec![numbers(&[5, 6]), numbers(&[6, 7])]);
    let eagle = stored(event(pairs)).unwrap();
    assert_eq!((eagle.token_ids, eagle.eagle), (vec![5, 6, 7], true));
    let mixed = Array(vec![numbers(&[5, 6]), Number(6)]);
    assert_eq!(stored(event(mixed)), None);
    let mixed = Array(vec![Number(5), numbers(&[5, 6])]);
    assert_eq!(stored(event(mixed)), None);
}

#[test]
fn tokens_fill_the_blocks_or_are_left_out() {
    let event = |tokens: &[u32], size| {
        Array(vec![
            Text("BlockStored"),
            numbers(&[1, 2]),
            Nil,
            numbers(tokens),
            Number(size),
        ])
    };
    assert!(stored(event(&[], 2)).unwrap().token_ids.is_empty());
    assert!(stored(event(&[1, 2, 3, 4], 2)).is_some());
    for (tokens, size) in [
        (&[1, 2, 3][..], 2),
        (&[1], 2),
        (&[], 0),
        (&[1, 2], u32::MAX),
    ] {
        assert_eq!(stored(event(tokens, size)), None);
    }
}

#[test]
fn wrong_types_and_missing_fields_are_errors_of_the_event() {
    let id = |raw: &[u8]| Array(vec![Text("BlockRemoved"), Array(vec![Raw(raw.to_vec())])]);
    assert!(one(id(&[0xff])).is_some());
    for raw in [
        &[0xc0u8][..],
        &[0xc2],
        &[0xa1, b'x'],
        &[0xc4, 3, 1, 2, 3],
        &[0xca, 0, 0, 0, 0],
    ] {
        assert_eq!(one(id(raw)), None, "{raw:?}");
    }
    assert_eq!(one(Array(vec![Text("BlockRemoved")])), None);
    assert_eq!(one(Map(vec![("type", Text("BlockRemoved"))])), None);
    assert_eq!(stored(block_stored(vec![Nil, numbers(&[1])])), None);
    assert_eq!(
        stored(block_stored(vec![Nil, Raw(vec![0xa2, 0xff, 0xff])])),
        None
    );
    let long = [&[0xda, 0x20, 0][..], &[b'x'; 0x2000]].concat();
    assert_eq!(stored(block_stored(vec![Nil, Raw(long)])), None);
    let keys_of_two = Array(vec![Nil, Nil]);
    assert_eq!(stored(block_stored(vec![Nil, Nil, Nil, keys_of_two])), None);
}

#[test]
fn what_is_not_a_batch_is_refused() {
    let cases: [&[u8]; 9] = [
        b"",
        b"\xc0",
        b"\x91\x01",
        b"\x92\x01\x01",
        b"\x92\xc0\x90",
        b"\x93\x01\x90\xff",
        b"\x92\x01\x90\x00",
        b"\x80",
        b"\xc1",
    ];
    for case in cases {
        assert!(decode(case).is_err(), "{case:?}");
    }
}

#[test]
fn announced_lengths_and_depth_cost_nothing() {
    let mut huge = bytes("9201 91 92 ac 426c6f636b52656d6f766564 dd ffffffff");
    assert!(decode(&huge).is_err());
    huge.truncate(2);
    huge.extend([0xdd, 0xff, 0xff, 0xff, 0xff]);
    assert!(decode(&huge).is_err());
    let mut deep = vec![0x92, 0x01, 0x91];
    deep.extend(std::iter::repeat_n(0x91, 1_000_000));
    deep.push(0xc0);
    assert_eq!(decode(&deep).unwrap().malformed, 1);
}

proptest! {
    #[test]
    fn truncations_never_pass_for_a_batch(cut in 0usize..1000) {
        for golden in [ARRAYS, MAPS, SGLANG] {
            let whole = bytes(golden);
            let cut = cut % whole.len();
            prop_assert!(decode(&whole[..cut]).is_err());
        }
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn changed_bytes_never_panic_and_never_give_more_than_was_sent(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
    ) {
        for golden in [ARRAYS, MAPS, SGLANG] {
            let mut changed = bytes(golden);
            for (index, byte) in &changes {
                let index = index.index(changed.len());
                changed[index] = *byte;
            }
            let Ok(payload) = decode(&changed) else { continue };
            for event in payload.events {
                if let EngineEvent::Stored(stored) = event.event {
                    prop_assert!(stored.block_hashes.capacity() <= changed.len());
                    prop_assert!(stored.token_ids.capacity() <= 2 * changed.len());
                }
            }
        }
    }
}
