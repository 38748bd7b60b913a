//! Pushed tokens against whole decodes, and stop strings at every border.

use super::*;
use crate::byte_tokenizer::ByteTokenizer;
use dynamo_protocols::tokenizer::TokenizerError;
use proptest::prelude::*;

/// A vocabulary of the given byte strings, with sentencepiece's rule for the first space.
#[derive(Debug)]
struct Words(&'static [&'static [u8]]);

impl Tokenizer for Words {
    fn encode(&self, _: &str, _: bool) -> Result<Vec<TokenId>, TokenizerError> {
        Err(TokenizerError::Encode("decodes only".to_owned()))
    }

    fn token_bytes(&self, id: TokenId) -> Option<Vec<u8>> {
        self.0.get(id as usize).map(|bytes| bytes.to_vec())
    }

    fn decode(&self, ids: &[TokenId], _: bool) -> Result<String, TokenizerError> {
        let bytes: Vec<u8> = ids
            .iter()
            .filter_map(|&id| self.token_bytes(id))
            .flatten()
            .collect();
        let kept = bytes.strip_prefix(b" ").unwrap_or(&bytes);
        Ok(String::from_utf8_lossy(kept).into_owned())
    }

    fn token_to_id(&self, _: &str) -> Option<TokenId> {
        None
    }

    fn is_special(&self, _: TokenId) -> bool {
        false
    }

    fn vocab_size(&self) -> usize {
        self.0.len()
    }
}

fn options(stop: &[&str], include: bool) -> DetokenizerOptions {
    DetokenizerOptions {
        stop_strings: stop.iter().map(|&stop| stop.to_owned()).collect(),
        include_stop_string: include,
        ..DetokenizerOptions::default()
    }
}

fn bytes_detokenizer(options: DetokenizerOptions) -> Detokenizer {
    Detokenizer::new(Arc::new(ByteTokenizer), options)
}

/// Pushes every byte; the pushes' texts, what `finish` gave, and the stop string.
fn run(text: &[u8], options: DetokenizerOptions) -> (Vec<String>, String, Option<usize>) {
    let mut detokenizer = bytes_detokenizer(options);
    let pushes = text
        .iter()
        .map(|&byte| detokenizer.push(byte.into()).text)
        .collect();
    let rest = detokenizer.finish();
    (pushes, rest, detokenizer.stopped())
}

/// The text up to the stop string that ends first, the longest of those that end together.
fn naive(text: &str, stops: &[String], include: bool) -> (String, Option<usize>) {
    for end in 0..=text.len() {
        let ending = stops.iter().enumerate().filter(|(_, stop)| {
            !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes())
        });
        // `max_by_key` prefers the last of equals; the first one is wanted.
        if let Some((index, stop)) = ending.rev().max_by_key(|(_, stop)| stop.len()) {
            let cut = if include { end } else { end - stop.len() };
            return (text[..cut].to_owned(), Some(index));
        }
    }
    (text.to_owned(), None)
}

#[test]
fn a_character_appears_when_its_last_byte_does() {
    let (pushes, rest, _) = run("a€b".as_bytes(), DetokenizerOptions::default());
    assert_eq!(pushes, ["a", "", "", "€", "b"]);
    assert_eq!(rest, "");
}

#[test]
fn an_unfinished_character_is_replaced_at_the_end() {
    let (pushes, rest, _) = run(b"a\xe2\x82", DetokenizerOptions::default());
    assert_eq!(pushes.concat(), "a");
    assert_eq!(rest, "\u{fffd}");
}

#[test]
fn only_what_may_become_a_stop_string_is_withheld() {
    let mut detokenizer = bytes_detokenizer(options(&["abc"], false));
    let texts: Vec<String> = b"xabab"
        .iter()
        .map(|&byte| detokenizer.push(byte.into()).text)
        .collect();
    assert_eq!(texts, ["x", "", "", "ab", ""]);
    assert_eq!(
        detokenizer.push(b'c'.into()),
        Decoded {
            text: String::new(),
            stop: Some(0)
        }
    );
    assert_eq!(
        detokenizer.push(b'd'.into()),
        Decoded {
            text: String::new(),
            stop: Some(0)
        }
    );
    assert_eq!(detokenizer.finish(), "");
}

#[test]
fn withheld_text_comes_out_at_the_end() {
    let (pushes, rest, stop) = run(b"xab", options(&["abc"], false));
    assert_eq!(
        (pushes.concat().as_str(), rest.as_str(), stop),
        ("x", "ab", None)
    );
}

#[test]
fn of_prefixes_the_shorter_one_ends_the_text() {
    let (pushes, rest, stop) = run(b"a\n\nb", options(&["\n\n", "\n"], false));
    assert_eq!(
        (pushes.concat().as_str(), rest.as_str(), stop),
        ("a", "", Some(1))
    );
}

#[test]
fn of_suffixes_the_longer_one_counts() {
    let (pushes, _, stop) = run(b"say END.", options(&["END", " END"], false));
    assert_eq!((pushes.concat().as_str(), stop), ("say", Some(1)));
}

#[test]
fn special_tokens_do_not_part_a_character() {
    let mut detokenizer = bytes_detokenizer(DetokenizerOptions {
        skip_special_tokens: true,
        ..DetokenizerOptions::default()
    });
    let ids = [0xe2, ByteTokenizer::EOS, 0x82, 0xac];
    let text: String = ids.iter().map(|&id| detokenizer.push(id).text).collect();
    assert_eq!(text, "€");
}

#[test]
fn the_first_tokens_are_exempt_from_stop_strings() {
    let mut detokenizer = bytes_detokenizer(DetokenizerOptions {
        min_tokens: 2,
        ..options(&["a"], false)
    });
    let texts: Vec<Decoded> = b"aab a"
        .iter()
        .map(|&byte| detokenizer.push(byte.into()))
        .collect();
    let text: String = texts.iter().map(|decoded| decoded.text.as_str()).collect();
    assert_eq!(text, "aab ");
    assert_eq!(texts[4].stop, Some(0));
}

#[test]
fn the_first_word_loses_the_space_that_decoding_takes_away() {
    let words = Words(&[b" Hello", b" world", b"  "]);
    for ids in [[0, 1, 0], [2, 0, 1], [1, 2, 2]] {
        let words: Arc<dyn Tokenizer> = Arc::new(Words(words.0));
        let mut detokenizer = Detokenizer::new(Arc::clone(&words), DetokenizerOptions::default());
        let text: String = ids.iter().map(|&id| detokenizer.push(id).text).collect();
        assert_eq!(text, words.decode(&ids, false).unwrap());
    }
}

proptest! {
    #[test]
    fn joined_pushes_equal_the_whole(ids in prop::collection::vec(0u32..260, 0..80), skip: bool) {
        let mut detokenizer = bytes_detokenizer(DetokenizerOptions {
            skip_special_tokens: skip,
            ..DetokenizerOptions::default()
        });
        let mut text: String = ids.iter().map(|&id| detokenizer.push(id).text).collect();
        text += &detokenizer.finish();
        prop_assert_eq!(text, ByteTokenizer.decode(&ids, skip).unwrap());
    }

    #[test]
    fn stop_strings_cut_where_a_search_of_the_whole_text_would(
        text in "[abé]{0,40}",
        stops in prop::collection::vec("[abé]{0,5}", 0..5),
        include: bool,
    ) {
        let (expected, expected_stop) = naive(&text, &stops, include);
        let (pushes, rest, stop) = run(text.as_bytes(), DetokenizerOptions {
            stop_strings: stops,
            include_stop_string: include,
            ..DetokenizerOptions::default()
        });
        prop_assert_eq!(pushes.concat() + &rest, expected);
        prop_assert_eq!(stop, expected_stop);
    }

    #[test]
    fn what_is_withheld_is_less_than_the_longest_stop_string(text in "[ab]{0,60}") {
        let mut detokenizer = bytes_detokenizer(options(&["aab", "abab", "bbbbb"], false));
        for byte in text.bytes() {
            detokenizer.push(byte.into());
            prop_assert!(detokenizer.withheld.len() < 5);
        }
    }
}
