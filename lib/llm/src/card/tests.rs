//! Cards: what changes the checksum and what does not, and what folders may lack.

use super::*;

#[test]
fn slugs_are_safe_and_readable() {
    assert_eq!(slug("Qwen/Qwen3-0.6B"), "qwen_qwen3-0_6b");
    assert_eq!(slug("modèle ../x"), "mod_le____x");
}

#[test]
fn sealing_follows_the_card() {
    let card = ModelCard::byte_level("Echo", 100);
    assert_eq!((card.slug.as_str(), card.checksum.len()), ("echo", 64));
    assert_eq!(card.clone().sealed(), card, "sealing again changes nothing");
    let mut other = card.clone();
    other.kv_block_size = 32;
    other.seal();
    assert_ne!(other.checksum, card.checksum);
}

#[test]
fn a_template_in_the_vocabulary_file_is_one_artefact() {
    let artefact = ArtefactRef {
        name: "v.gguf".to_owned(),
        size: 1,
        blake3: "0".repeat(64),
    };
    let mut card = ModelCard::byte_level("m", 1);
    assert!(card.artefacts().is_empty());
    card.tokenizer = TokenizerSource::Gguf(artefact.clone());
    card.chat_template = Some(TemplateSource::Gguf(artefact.clone()));
    assert_eq!(card.artefacts(), [&artefact]);
    let json = serde_json::to_value(&card).unwrap();
    assert_eq!(json["tokenizer"]["kind"], "gguf");
    assert_eq!(json["tokenizer"]["artefact"]["name"], "v.gguf");
}

#[test]
fn the_byte_tokenizer_needs_no_files() {
    let card = ModelCard::byte_level("echo", 100);
    let none =
        |_: &ArtefactRef| -> Result<_, ModelError> { unreachable!("the card names no files") };
    let assets = ModelAssets::load(&card, none, None).unwrap();
    assert_eq!(assets.tokenizer.vocab_size() as u32, card.vocab_size);
    assert!(assets.template.is_none());
}

#[test]
fn only_a_card_of_text_says_what_its_workers_get() {
    let tokens = serde_json::to_value(ModelCard::byte_level("m", 1)).unwrap();
    assert!(tokens.get("input").is_none());
    let card = ModelCard::text("m", ModelTypes::default());
    let text = serde_json::to_value(&card).unwrap();
    assert_eq!(
        (&text["input"], &text["tokenizer"]["kind"]),
        (&"text".into(), &"none".into())
    );
    assert_eq!(serde_json::from_value::<ModelCard>(text).unwrap(), card);
    assert!(card.artefacts().is_empty() && card.runtime.cannot_continue);
}
