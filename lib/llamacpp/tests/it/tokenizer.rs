//! The vocabulary of a GGUF file.

use crate::support::model_path;
use dynamo_llamacpp::GgufTokenizer;
use dynamo_protocols::tokenizer::Tokenizer;

fn tokenizer() -> GgufTokenizer {
    GgufTokenizer::open(&model_path()).unwrap()
}

#[test]
fn text_comes_back_whole_and_by_its_parts() {
    let tokenizer = tokenizer();
    for text in [
        "Hello, world!",
        "  two  spaces\n\n\ttabs",
        "Grüße, 你好, 👩‍👩‍👧, e\u{301}",
        "fn main() { println!(\"{}\", 1 << 3); }",
    ] {
        let ids = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        let bytes: Vec<u8> = ids
            .iter()
            .flat_map(|&id| tokenizer.token_bytes(id).unwrap())
            .collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
    }
    assert_eq!(tokenizer.encode("", false).unwrap(), Vec::<u32>::new());
}

#[test]
fn special_tokens_are_added_when_asked_for_and_never_twice() {
    let tokenizer = tokenizer();
    let bos = tokenizer.bos().unwrap();
    let plain = tokenizer.encode("Hi", false).unwrap();
    let special = tokenizer.encode("Hi", true).unwrap();
    assert_eq!(special, [&[bos][..], &plain].concat());
    assert_eq!(tokenizer.encode("<bos>Hi", true).unwrap(), special);
    assert_eq!(tokenizer.encode("<bos>Hi", false).unwrap(), special);
    assert_eq!(tokenizer.token_to_id("<bos>"), Some(bos));
    assert!(tokenizer.is_special(bos));
    assert!(!tokenizer.is_special(plain[0]));
    assert_eq!(tokenizer.token_bytes(bos).unwrap(), b"<bos>");
    assert_eq!(tokenizer.decode(&special, true).unwrap(), "Hi");
    assert_eq!(tokenizer.decode(&special, false).unwrap(), "<bos>Hi");
    let turn = tokenizer.token_to_id("<start_of_turn>").unwrap();
    assert_eq!(tokenizer.encode("<start_of_turn>", false).unwrap(), [turn]);
    assert!(tokenizer.end_of_sequence().contains(&1));
}

#[test]
fn ids_outside_the_vocabulary_are_nothing() {
    let tokenizer = tokenizer();
    let outside = u32::try_from(tokenizer.vocab_size()).unwrap();
    for id in [outside, u32::MAX] {
        assert_eq!(tokenizer.token_bytes(id), None);
        assert!(!tokenizer.is_special(id));
        assert!(tokenizer.decode(&[id], false).is_err());
    }
    assert!(tokenizer.token_bytes(outside - 1).is_some());
}
