//! `BlockRemoved` and `AllBlocksCleared`.

use super::{Fields, Scope, TaggedEvent, WireError, block_ids, name};
use crate::event::{EngineEvent, RemovedBlocks};

/// Fields of the array form behind the kind.
const NAMES: [&str; 7] = [
    "block_hashes",
    "medium",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
    "locality",
    "ownership",
];

pub(super) fn decode(fields: Fields<'_>) -> Result<TaggedEvent, WireError> {
    let mut scope = Scope::default();
    let mut block_hashes = None;
    let mut medium = None;
    fields.each(&NAMES, |field, reader| {
        match field {
            b"block_hashes" => block_hashes = Some(block_ids(reader)?),
            b"medium" => medium = name(reader)?,
            _ => {
                scope.take(field, reader)?;
            }
        }
        Ok(())
    })?;
    let event = EngineEvent::Removed(RemovedBlocks {
        block_hashes: block_hashes.ok_or(WireError::Missing("block_hashes"))?,
        medium,
    });
    Ok(TaggedEvent { event, scope })
}

pub(super) fn decode_cleared(fields: Fields<'_>) -> Result<TaggedEvent, WireError> {
    let mut scope = Scope::default();
    fields.each(&["ownership"], |field, reader| {
        scope.take(field, reader).map(drop)
    })?;
    let event = EngineEvent::Cleared;
    Ok(TaggedEvent { event, scope })
}
