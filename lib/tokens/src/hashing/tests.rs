//! Hashes against the published values and against their definition, spelled out.

use super::*;
use proptest::prelude::*;

const TOKENS: [u32; 8] = [1, 2, 3, 4, 5, 6, 7, 8];

/// Bytes in one piece, hashed in one call: the definition, without the tricks.
fn naive_hash(block: &[u32], media: &[u64], seed: u64) -> u64 {
    let mut media = media.to_vec();
    media.sort_unstable();
    let bytes: Vec<u8> = block
        .iter()
        .flat_map(|token| token.to_le_bytes())
        .chain(media.iter().flat_map(|hash| hash.to_le_bytes()))
        .collect();
    xxh3_64_with_seed(&bytes, seed)
}

#[test]
fn plain_blocks_have_the_published_hashes() {
    assert_eq!(
        block_hashes(&TOKENS, 4, &HashContext::new()),
        [14643705804678351452, 16777012769546811212]
    );
}

#[test]
fn an_adapter_gives_the_published_hashes() {
    let context = HashContext::new().with_lora("a");
    assert_eq!(
        block_hashes(&TOKENS, 4, &context),
        [17680866786467819158, 10751596618610180438]
    );
}

#[test]
fn a_salt_gives_the_published_hashes() {
    let context = HashContext::new().with_salt("ns");
    assert_eq!(
        block_hashes(&TOKENS, 4, &context),
        [10036811808434060891, 1735356409867884788]
    );
}

#[test]
fn eagle_windows_have_the_published_hashes() {
    assert_eq!(
        eagle_block_hashes(&TOKENS, 4, &HashContext::new()),
        [1914873892905420881]
    );
}

#[test]
fn media_give_the_published_hashes_in_their_block_alone() {
    assert_eq!(
        block_hashes_with_media(&TOKENS, 4, &[[123]], &HashContext::new()),
        [6870978394526315159, 16777012769546811212]
    );
}

#[test]
fn a_tail_that_fills_no_block_is_left_out() {
    let context = HashContext::new();
    let full = block_hashes(&TOKENS, 4, &context);
    assert_eq!(block_hashes(&TOKENS[..7], 4, &context), full[..1]);
    assert_eq!(block_hashes(&TOKENS[..3], 4, &context), [0_u64; 0]);
    assert_eq!(eagle_block_hashes(&TOKENS[..4], 4, &context), [0_u64; 0]);
}

#[test]
fn eagle_windows_overlap_by_one_token() {
    let context = HashContext::new();
    assert_eq!(
        eagle_block_hashes(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 4, &context),
        [
            naive_hash(&[1, 2, 3, 4, 5], &[], BASE_SEED),
            naive_hash(&[5, 6, 7, 8, 9], &[], BASE_SEED)
        ]
    );
}

#[test]
fn empty_names_count_as_absent() {
    let plain = HashContext::new();
    assert_eq!(plain.with_lora(""), plain);
    assert_eq!(plain.with_salt(""), plain);
    assert_eq!(HashContext::of(Some(""), None), plain);
    assert_eq!(HashContext::of(None, Some("")), plain);
}

#[test]
fn an_adapter_and_a_salt_of_one_name_differ_and_combine() {
    let plain = HashContext::new();
    assert_ne!(plain.with_lora("a"), plain.with_salt("a"));
    let both = HashContext::of(Some("a"), Some("ns"));
    assert_eq!(both, plain.with_salt("ns").with_lora("a"));
    assert_eq!(
        both.seed,
        BASE_SEED
            .wrapping_add(xxh3_64(b"a"))
            .wrapping_add(xxh3_64_with_seed(b"ns", 1))
    );
}

#[test]
fn a_chain_starts_with_its_first_block() {
    let blocks = block_hashes(&TOKENS, 4, &HashContext::new());
    let chained = sequence_hashes(&blocks);
    assert_eq!(chained, [blocks[0], chain(blocks[0], blocks[1])]);

    let mut bytes = blocks[0].to_le_bytes().to_vec();
    bytes.extend(blocks[1].to_le_bytes());
    assert_eq!(chained[1], xxh3_64_with_seed(&bytes, 1337));
    assert_eq!(sequence_hashes(&[]), [0_u64; 0]);
}

proptest! {
    #[test]
    fn hashes_equal_the_definition_at_every_block_size(
        tokens in prop::collection::vec(any::<u32>(), 0..1400),
        block_size in 1_usize..700,
        media in prop::collection::vec(prop::collection::vec(any::<u64>(), 0..4), 0..5),
    ) {
        let context = HashContext::of(Some("adapter"), Some("tenant"));
        let plain: Vec<u64> = tokens
            .chunks_exact(block_size)
            .map(|block| naive_hash(block, &[], context.seed))
            .collect();
        prop_assert_eq!(block_hashes(&tokens, block_size, &context), plain);

        let with_media: Vec<u64> = tokens
            .chunks_exact(block_size)
            .enumerate()
            .map(|(index, block)| {
                let media = media.get(index).map(Vec::as_slice).unwrap_or_default();
                naive_hash(block, media, context.seed)
            })
            .collect();
        prop_assert_eq!(
            block_hashes_with_media(&tokens, block_size, &media, &context),
            with_media
        );
    }

    #[test]
    fn chained_hashes_are_equal_exactly_where_prefixes_are(
        // Few distinct tokens, so that equal prefixes, and equal blocks after unequal prefixes,
        // are common.
        left in prop::collection::vec(0_u32..2, 0..24),
        right in prop::collection::vec(0_u32..2, 0..24),
        block_size in 1_usize..5,
    ) {
        let context = HashContext::new();
        let hashes =
            |tokens: &[u32]| sequence_hashes(&block_hashes(tokens, block_size, &context));
        for (index, (a, b)) in hashes(&left).iter().zip(hashes(&right)).enumerate() {
            let end = (index + 1) * block_size;
            prop_assert_eq!(*a == b, left[..end] == right[..end]);
        }
    }
}
