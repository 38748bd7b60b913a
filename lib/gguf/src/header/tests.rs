//! GGUF headers: whole, cut anywhere, and mutated.

use super::*;
use proptest::prelude::*;
use std::io::Cursor;

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn entry(bytes: &mut Vec<u8>, key: &str, kind: u32, value: &[u8]) {
    string(bytes, key);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
}

/// A small file with a value of every type, 300 tokens and one tensor of 64 floats.
fn sample(version: u32) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(16u64.to_le_bytes());
    let mut text = Vec::new();
    string(&mut text, "tiny");
    entry(&mut bytes, "general.architecture", 8, &text);
    entry(&mut bytes, "v.u8", 0, &[200]);
    entry(&mut bytes, "v.i8", 1, &[0xff]);
    entry(&mut bytes, "v.u16", 2, &500u16.to_le_bytes());
    entry(&mut bytes, "v.i16", 3, &(-500i16).to_le_bytes());
    entry(&mut bytes, "v.u32", 4, &70_000u32.to_le_bytes());
    entry(&mut bytes, "v.i32", 5, &(-70_000i32).to_le_bytes());
    entry(&mut bytes, "v.f32", 6, &1.5f32.to_le_bytes());
    entry(&mut bytes, "v.bool", 7, &[1]);
    entry(&mut bytes, "v.u64", 10, &(1u64 << 40).to_le_bytes());
    entry(&mut bytes, "v.i64", 11, &(-(1i64 << 40)).to_le_bytes());
    entry(&mut bytes, "v.f64", 12, &2.5f64.to_le_bytes());
    entry(&mut bytes, "split.count", 2, &2u16.to_le_bytes());
    let mut small = 4u32.to_le_bytes().to_vec();
    small.extend(2u64.to_le_bytes());
    small.extend([7u32.to_le_bytes(), 9u32.to_le_bytes()].concat());
    entry(&mut bytes, "a.small", 9, &small);
    let mut nested = 9u32.to_le_bytes().to_vec();
    nested.extend(1u64.to_le_bytes());
    nested.extend(&small);
    entry(&mut bytes, "a.nested", 9, &nested);
    let mut tokens = 8u32.to_le_bytes().to_vec();
    tokens.extend(300u64.to_le_bytes());
    for index in 0..300 {
        string(&mut tokens, &format!("token{index}"));
    }
    entry(&mut bytes, "tokenizer.ggml.tokens", 9, &tokens);
    string(&mut bytes, "weight");
    bytes.extend(2u32.to_le_bytes());
    bytes.extend([8u64.to_le_bytes(), 8u64.to_le_bytes()].concat());
    bytes.extend(0u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 64 * 4, 0);
    bytes
}

fn read(bytes: &[u8]) -> Result<GgufHeader, GgufError> {
    GgufHeader::read(Cursor::new(bytes))
}

#[test]
fn every_type_of_value_is_read() {
    for version in [2, 3] {
        let header = read(&sample(version)).unwrap();
        assert_eq!((header.version(), header.tensor_count()), (version, 1));
        assert_eq!(header.string("general.architecture").unwrap(), Some("tiny"));
        assert_eq!(header.u32("v.u8").unwrap(), Some(200));
        assert_eq!(header.get("v.i8"), Some(&GgufValue::Signed(-1)));
        assert_eq!(header.u32("v.u16").unwrap(), Some(500));
        assert_eq!(header.get("v.i16"), Some(&GgufValue::Signed(-500)));
        assert_eq!(header.u32("v.u32").unwrap(), Some(70_000));
        assert_eq!(header.get("v.i32"), Some(&GgufValue::Signed(-70_000)));
        assert_eq!(header.float("v.f32").unwrap(), Some(1.5));
        assert_eq!(header.bool("v.bool").unwrap(), Some(true));
        assert_eq!(header.get("v.u64"), Some(&GgufValue::Unsigned(1 << 40)));
        assert_eq!(header.get("v.i64"), Some(&GgufValue::Signed(-(1 << 40))));
        assert_eq!(header.float("v.f64").unwrap(), Some(2.5));
        let small = header.array("a.small").unwrap().unwrap();
        let elements = vec![GgufValue::Unsigned(7), GgufValue::Unsigned(9)];
        assert_eq!(small.elements, Some(elements));
        assert_eq!(
            header.array("tokenizer.ggml.tokens").unwrap().unwrap().len,
            300
        );
        header.check_tensors().unwrap();
    }
}

#[test]
fn a_key_of_another_type_is_an_error_that_names_it() {
    let header = read(&sample(3)).unwrap();
    assert!(
        header
            .u32("v.f32")
            .unwrap_err()
            .to_string()
            .contains("`v.f32`")
    );
    assert!(header.string("v.u8").is_err());
    assert_eq!(header.u32("absent").unwrap(), None);
    assert!(
        header.u32("v.u64").is_err(),
        "a number that does not fit is no number"
    );
}

#[test]
fn strings_of_long_arrays_are_read_from_the_file() {
    let bytes = sample(3);
    let header = read(&bytes).unwrap();
    let mut found = Vec::new();
    let visit = |index, text: &str| found.push((index, text.to_owned()));
    header
        .for_each_string(Cursor::new(&bytes), "tokenizer.ggml.tokens", visit)
        .unwrap();
    assert_eq!(found.len(), 300);
    assert_eq!(found[299], (299, "token299".to_owned()));
    assert!(
        header
            .for_each_string(Cursor::new(&bytes), "a.small", |_, _| {})
            .is_err()
    );
}

#[test]
fn what_is_no_gguf_of_a_known_version_is_refused() {
    assert!(matches!(
        read(b"\x7fELF0000"),
        Err(GgufError::NotGguf { .. })
    ));
    assert!(matches!(
        read(&sample(4)),
        Err(GgufError::Version { version: 4 })
    ));
    assert!(matches!(
        read(&sample(1)),
        Err(GgufError::Version { version: 1 })
    ));
    assert!(matches!(
        read(&sample(3u32.swap_bytes())),
        Err(GgufError::BigEndian)
    ));
    assert!(matches!(read(b""), Err(GgufError::Truncated { .. })));
}

#[test]
fn a_file_cut_off_anywhere_says_so() {
    let bytes = sample(3);
    for len in 0..bytes.len() {
        let outcome = read(&bytes[..len]).and_then(|header| header.check_tensors());
        let error = outcome.expect_err("a part passes for the whole");
        assert!(
            matches!(
                error,
                GgufError::Truncated { .. } | GgufError::TensorsTruncated { .. }
            ),
            "{len}: {error}"
        );
    }
}

#[test]
fn claims_beyond_the_file_allocate_nothing() {
    let mut bytes = sample(3);
    bytes[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(
        read(&bytes),
        Err(GgufError::Limit {
            what: "tensors",
            ..
        })
    ));
    let mut bytes = sample(3);
    bytes[24..32].copy_from_slice(&(1u64 << 62).to_le_bytes());
    assert!(matches!(read(&bytes), Err(GgufError::Truncated { .. })));
}

/// A header of one entry, an array whose element type and length are claimed.
fn array_of(kind: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    let mut value = kind.to_le_bytes().to_vec();
    value.extend(len.to_le_bytes());
    value.extend(elements);
    entry(&mut bytes, "a", 9, &value);
    bytes
}

#[test]
fn arrays_that_claim_more_than_the_file_holds_are_cut_off() {
    for kind in 0..=12 {
        for len in [2, 1 << 32, u64::MAX] {
            let outcome = read(&array_of(kind, len, &[0]));
            assert!(
                matches!(outcome, Err(GgufError::Truncated { .. })),
                "{kind} {len}: {outcome:?}"
            );
        }
    }
    assert!(matches!(
        read(&array_of(13, 1, &[0])),
        Err(GgufError::Malformed { .. })
    ));
}

#[test]
fn arrays_in_arrays_are_followed_a_few_levels_only() {
    let nested = |depth: usize| {
        let level = [9u32.to_le_bytes().to_vec(), 1u64.to_le_bytes().to_vec()].concat();
        let innermost = [0u32.to_le_bytes().to_vec(), 0u64.to_le_bytes().to_vec()].concat();
        let elements = [level.repeat(depth - 1), innermost].concat();
        read(&array_of(9, 1, &elements))
    };
    assert!(nested(4).is_ok());
    for depth in [5, 1_000, 100_000] {
        assert!(matches!(nested(depth), Err(GgufError::Malformed { .. })));
    }
}

#[test]
fn an_alignment_that_is_none_is_refused() {
    for alignment in [0u32, 3, 33] {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(0u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        entry(&mut bytes, "general.alignment", 4, &alignment.to_le_bytes());
        assert!(matches!(read(&bytes), Err(GgufError::Malformed { .. })));
    }
}

#[test]
fn the_vocabulary_file_holds_all_metadata_and_no_tensors() {
    let bytes = sample(3);
    let header = read(&bytes).unwrap();
    let mut small = Vec::new();
    header
        .write_vocabulary(Cursor::new(&bytes), &mut small)
        .unwrap();
    assert_eq!(small.len() % 32, 0);
    let copy = read(&small).unwrap();
    copy.check_tensors().unwrap();
    assert_eq!(copy.tensor_count(), 0);
    let kept: Vec<&str> = header.keys().filter(|key| *key != "split.count").collect();
    assert_eq!(copy.keys().collect::<Vec<_>>(), kept);
    for key in ["v.f64", "general.architecture", "a.small"]
        .iter()
        .chain(&kept[..12])
    {
        let (from, to) = (header.get(key), copy.get(key));
        match (from, to) {
            (Some(GgufValue::Array(a)), Some(GgufValue::Array(b))) => {
                assert_eq!((a.len, &a.elements), (b.len, &b.elements));
            }
            _ => assert_eq!(from, to),
        }
    }
}

proptest! {
    #[test]
    fn mutated_bytes_give_a_header_or_an_error(
        changes in prop::collection::vec((0usize..4096, any::<u8>()), 1..12),
        cut in 0usize..8192,
    ) {
        let mut bytes = sample(3);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        bytes.truncate(bytes.len().min(cut));
        if let Ok(header) = read(&bytes) {
            let _ = header.check_tensors();
            let _ = header.for_each_string(Cursor::new(&bytes), "tokenizer.ggml.tokens", |_, _| {});
            prop_assert!(header.entries.len() <= bytes.len());
        }
    }

    #[test]
    fn random_bytes_after_the_magic_give_a_header_or_an_error(
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(tail);
        let _ = read(&bytes);
    }
}
