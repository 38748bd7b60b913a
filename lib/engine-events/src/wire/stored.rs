//! `BlockStored`, the one event with many fields.
//!
//! `extra_keys` tells per block what else went into the engine's id of it: the adapter's name in
//! every block, the cache salt in the first block of a prompt, and the media of a block, as
//! `(identifier, offset)` or (older) as the identifier alone, a digest.

use super::{Fields, Scope, TaggedEvent, WireError, block_id, block_ids, name, name_of};
use crate::event::{EngineEvent, StoredBlocks};
use crate::msgpack::{Reader, Value};
use dynamo_tokens::media_hash;

/// Fields of the array form behind the kind.
const NAMES: [&str; 13] = [
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
    "locality",
    "ownership",
];

/// What published frontends put before a salt that they pass to an engine, so that it can be told
/// from other words among the extra keys.
const SALT_MARK: &str = "dynamo-cache-salt:";

/// Digits of a digest in hexadecimal: how engines name media unless a client names them.
const DIGEST_DIGITS: usize = 64;

pub(super) fn decode(fields: Fields<'_>) -> Result<TaggedEvent, WireError> {
    let mut stored = StoredBlocks::default();
    let mut scope = Scope::default();
    let (mut has_hashes, mut has_tokens) = (false, false);
    let mut extra_keys = None;
    fields.each(&NAMES, |field, reader| {
        match field {
            b"block_hashes" => {
                stored.block_hashes = block_ids(reader)?;
                has_hashes = true;
            }
            b"parent_block_hash" => stored.parent = block_id(reader)?,
            b"token_ids" => {
                (stored.token_ids, stored.eagle) = token_ids(reader)?;
                has_tokens = true;
            }
            b"block_size" => stored.block_size = block_size(reader)?,
            b"medium" => stored.medium = name(reader)?,
            b"lora_name" => adapter_or_salt(reader, &mut stored)?,
            b"cache_salt" => stored.salt = name(reader)?,
            b"extra_keys" => extra_keys = Some(reader.clone()),
            _ => {
                scope.take(field, reader)?;
            }
        }
        Ok(())
    })?;
    if !has_hashes {
        return Err(WireError::Missing("block_hashes"));
    }
    if !has_tokens {
        return Err(WireError::Missing("token_ids"));
    }
    check_counts(&stored)?;
    if let Some(mut reader) = extra_keys {
        read_extra_keys(&mut reader, &mut stored)?;
    }
    let event = EngineEvent::Stored(stored);
    Ok(TaggedEvent { event, scope })
}

/// A block has a size, and the tokens fill the blocks, or none are told.
fn check_counts(stored: &StoredBlocks) -> Result<(), WireError> {
    if stored.block_size == 0 {
        return Err(WireError::Missing("block_size"));
    }
    let ahead = usize::from(stored.eagle);
    let wanted = stored
        .block_hashes
        .len()
        .checked_mul(stored.block_size as usize)
        .and_then(|tokens| tokens.checked_add(ahead));
    if stored.token_ids.is_empty() || wanted == Some(stored.token_ids.len()) {
        Ok(())
    } else {
        Err(WireError::TokenCount)
    }
}

fn block_size(reader: &mut Reader<'_>) -> Result<u32, WireError> {
    const SIZE: WireError = WireError::Unexpected("a block size");
    match reader.value()? {
        Value::Unsigned(size) => u32::try_from(size).map_err(|_| SIZE),
        _ => Err(SIZE),
    }
}

fn token(value: Value<'_>) -> Result<u32, WireError> {
    const TOKEN: WireError = WireError::Unexpected("a token id");
    match value {
        Value::Unsigned(token) => u32::try_from(token).map_err(|_| TOKEN),
        _ => Err(TOKEN),
    }
}

/// Token ids, or pairs of each with the next one: then the last of the last pair comes too.
fn token_ids(reader: &mut Reader<'_>) -> Result<(Vec<u32>, bool), WireError> {
    let count = reader.array("an array of token ids")?;
    let mut tokens = Vec::with_capacity((count as usize).min(reader.remaining()));
    let mut ahead = None;
    for index in 0..count {
        match reader.value()? {
            Value::Array(2) if index == 0 || ahead.is_some() => {
                tokens.push(token(reader.value()?)?);
                ahead = Some(token(reader.value()?)?);
            }
            value if ahead.is_none() => tokens.push(token(value)?),
            _ => return Err(WireError::Unexpected("a pair of token ids")),
        }
    }
    tokens.extend(ahead);
    Ok((tokens, ahead.is_some()))
}

/// vLLM's adapter name; SGLang puts a map with the cache salt into its place.
fn adapter_or_salt(reader: &mut Reader<'_>, stored: &mut StoredBlocks) -> Result<(), WireError> {
    match reader.value()? {
        Value::Nil => {}
        Value::Text(text) => stored.lora_name = name_of(text)?,
        Value::Map(pairs) => {
            for _ in 0..pairs {
                if super::key(reader)? == b"cache_salt" {
                    stored.salt = name(reader)?;
                } else {
                    reader.skip()?;
                }
            }
        }
        _ => return Err(WireError::Unexpected("an adapter's name")),
    }
    Ok(())
}

fn read_extra_keys(reader: &mut Reader<'_>, stored: &mut StoredBlocks) -> Result<(), WireError> {
    const KEYS: WireError = WireError::Unexpected("extra keys of each block");
    let blocks = match reader.value()? {
        Value::Nil => return Ok(()),
        Value::Array(blocks) if blocks as usize <= stored.block_hashes.len() => blocks as usize,
        _ => return Err(KEYS),
    };
    for block in 0..blocks {
        match reader.value()? {
            Value::Nil => {}
            Value::Array(keys) => {
                for _ in 0..keys {
                    extra_key(&mut reader.whole()?, block, stored)?;
                }
            }
            _ => return Err(KEYS),
        }
    }
    Ok(())
}

fn extra_key(
    reader: &mut Reader<'_>,
    block: usize,
    stored: &mut StoredBlocks,
) -> Result<(), WireError> {
    let medium = match reader.value()? {
        Value::Array(parts) if parts > 0 => match reader.value()? {
            Value::Text(identifier) => identifier,
            _ => return Ok(()),
        },
        Value::Text(word) if is_digest(word) => word,
        Value::Text(word) => return salt_key(word, block, stored),
        _ => return Ok(()),
    };
    let identifier = std::str::from_utf8(medium).map_err(|_| WireError::Unexpected("UTF-8"))?;
    if stored.media.is_empty() {
        stored.media = vec![Vec::new(); stored.block_hashes.len()];
    }
    if let Some(media) = stored.media.get_mut(block) {
        media.push(media_hash(identifier));
    }
    Ok(())
}

/// A word of the first block that is not the adapter's name is the salt. Words of later blocks
/// are the adapter's name only.
fn salt_key(word: &[u8], block: usize, stored: &mut StoredBlocks) -> Result<(), WireError> {
    let Some(word) = name_of(word)? else {
        return Ok(());
    };
    let at_start = block == 0 && stored.parent.is_none();
    if let Some(salt) = word.strip_prefix(SALT_MARK) {
        stored.salt = Some(salt.to_owned());
    } else if at_start && stored.salt.is_none() && stored.lora_name.as_ref() != Some(&word) {
        stored.salt = Some(word);
    }
    Ok(())
}

fn is_digest(word: &[u8]) -> bool {
    word.len() == DIGEST_DIGITS && word.iter().all(u8::is_ascii_hexdigit)
}
