//! An old `tokenizer.json` in the new format, without building the whole of it as a tree.
//!
//! The crate's own conversion parses vocabulary and merges into a JSON tree, which for 150,000
//! tokens takes more memory than the tokenizer itself ever does. Only the small parts of the file
//! need rewriting: they are converted with the two large ones cut out, which are spliced back as
//! text.

use dynamo_protocols::tokenizer::TokenizerError;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;

/// The converted file.
pub(super) struct Canonical {
    /// `tokenizer.json`, format 2.0.
    pub(super) text: String,
    /// Number of ids that the model's vocabulary spans.
    pub(super) vocab_size: usize,
}

type Object<'a> = BTreeMap<String, &'a RawValue>;

/// Converts a `tokenizer.json` of either format.
pub(super) fn canonicalise(text: &str) -> Result<Canonical, TokenizerError> {
    let root: Object<'_> = serde_json::from_str(text).map_err(|error| malformed(&error))?;
    let model = root
        .get("model")
        .ok_or_else(|| TokenizerError::Load("the key `model` is missing".to_owned()))?;
    let model: Object<'_> = serde_json::from_str(model.get()).map_err(|error| malformed(&error))?;

    let vocab = model
        .get("vocab")
        .ok_or_else(|| TokenizerError::Load("the key `model.vocab` is missing".to_owned()))?
        .get();
    let merges = model
        .get("merges")
        .map(|raw| raw.get())
        .filter(|raw| *raw != "null");
    let mut skeleton = skeleton(&root, &model)?;
    tokenizers::canonicalize_value(&mut skeleton)
        .map_err(|error| TokenizerError::Load(error.to_string()))?;

    Ok(Canonical {
        text: splice(skeleton, vocab, merges)?,
        vocab_size: vocab_span(vocab)?,
    })
}

fn malformed(error: &serde_json::Error) -> TokenizerError {
    TokenizerError::Load(format!("not a tokenizer.json: {error}"))
}

/// The file with an empty vocabulary and empty merges, each of the kind it has.
fn skeleton(root: &Object<'_>, model: &Object<'_>) -> Result<Value, TokenizerError> {
    let mut small = Map::new();
    for (key, raw) in model {
        let value = match key.as_str() {
            "vocab" if raw.get().starts_with('[') => Value::Array(Vec::new()),
            "vocab" => Value::Object(Map::new()),
            "merges" if raw.get() == "null" => Value::Null,
            "merges" => Value::Array(Vec::new()),
            _ => serde_json::from_str(raw.get()).map_err(|error| malformed(&error))?,
        };
        small.insert(key.clone(), value);
    }
    let mut all = Map::new();
    for (key, raw) in root {
        let value = match key.as_str() {
            "model" => Value::Object(std::mem::take(&mut small)),
            _ => serde_json::from_str(raw.get()).map_err(|error| malformed(&error))?,
        };
        all.insert(key.clone(), value);
    }
    Ok(Value::Object(all))
}

/// Writes the skeleton with vocabulary and merges in their places.
fn splice(skeleton: Value, vocab: &str, merges: Option<&str>) -> Result<String, TokenizerError> {
    let Value::Object(mut root) = skeleton else {
        return Err(TokenizerError::Load("not a JSON object".to_owned()));
    };
    let Some(Value::Object(mut model)) = root.remove("model") else {
        return Err(TokenizerError::Load(
            "the key `model` is not an object".to_owned(),
        ));
    };
    model.remove("vocab");
    model.remove("merges");
    let size = vocab.len() + merges.map_or(0, str::len);
    let mut text = String::with_capacity(size + size / 8);
    text.push_str("{\"model\":{\"vocab\":");
    text.push_str(vocab);
    if let Some(merges) = merges {
        text.push_str(",\"merges\":");
        push_pairs(&mut text, merges)?;
    }
    for (key, value) in &model {
        text.push_str(&format!(",{}:{value}", Value::from(key.as_str())));
    }
    text.push('}');
    for (key, value) in &root {
        text.push_str(&format!(",{}:{value}", Value::from(key.as_str())));
    }
    text.push('}');
    Ok(text)
}

/// Appends the merges as pairs; the old format has them as `"left right"`.
fn push_pairs(text: &mut String, merges: &str) -> Result<(), TokenizerError> {
    let first = merges.strip_prefix('[').unwrap_or(merges).trim_start();
    if !first.starts_with('"') {
        text.push_str(merges);
        return Ok(());
    }
    let entries: Vec<&RawValue> =
        serde_json::from_str(merges).map_err(|error| malformed(&error))?;
    text.push('[');
    for entry in entries.iter().map(|entry| entry.get()) {
        // The header line of a merges.txt that went in with the merges.
        if entry.starts_with("\"#version") {
            continue;
        }
        let mut parts = entry.split(' ');
        let (Some(left), Some(right), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(TokenizerError::Load(format!(
                "the merge {entry} is not two tokens"
            )));
        };
        if !text.ends_with('[') {
            text.push(',');
        }
        // Both halves keep their JSON escapes: `"a b"` becomes `["a","b"]`.
        text.push('[');
        text.push_str(left);
        text.push_str("\",\"");
        text.push_str(right);
        text.push(']');
    }
    text.push(']');
    Ok(())
}

/// One past the largest id of the vocabulary.
fn vocab_span(vocab: &str) -> Result<usize, TokenizerError> {
    struct Span;

    impl<'de> Visitor<'de> for Span {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a vocabulary")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<usize, A::Error> {
            let mut span = 0;
            while let Some((IgnoredAny, id)) = map.next_entry::<IgnoredAny, u32>()? {
                span = span.max(id as usize + 1);
            }
            Ok(span)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<usize, A::Error> {
            let mut span = 0;
            while seq.next_element::<IgnoredAny>()?.is_some() {
                span += 1;
            }
            Ok(span)
        }
    }

    serde_json::Deserializer::from_str(vocab)
        .deserialize_any(Span)
        .map_err(|error| malformed(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = r####"{"version":"1.0","added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true},
        "decoder":{"type":"ByteLevel"},"post_processor":null,
        "model":{"vocab":{"a":0,"b":1,"\"":2,"a\"":7},"merges":["#version: 0.2","a b","a \""]}}"####;

    #[test]
    fn gives_what_the_crates_own_conversion_gives() {
        let ours: Value = serde_json::from_str(&canonicalise(OLD).unwrap().text).unwrap();
        let theirs: Value =
            serde_json::from_str(&tokenizers::canonicalize_str(OLD).unwrap()).unwrap();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn the_vocabulary_spans_to_its_largest_id() {
        assert_eq!(canonicalise(OLD).unwrap().vocab_size, 8);
        assert_eq!(vocab_span(r#"[["a",-1.5],["b",0]]"#).unwrap(), 2);
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |text: &str| canonicalise(text).err().unwrap().to_string();
        assert!(error("{}").contains("`model`"));
        assert!(error(r#"{"model":{}}"#).contains("`model.vocab`"));
        assert!(error("[").contains("not a tokenizer.json"));
        assert!(error(r#"{"model":{"vocab":{},"merges":["abc"]}}"#).contains("\"abc\""));
    }
}
