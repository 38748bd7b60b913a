//! The bytes of one message's payload, decoded.
//!
//! A payload is a batch of events as msgspec writes it: an array `[timestamp, events, rank]` or a
//! map with these names; each event is an array that begins with its kind, or a map with `type`.
//! Fields that were added later come last and are optional; unknown ones are passed over.
//!
//! Invariants
//! - No input panics. Memory taken is at most a small multiple of the payload's length.
//! - One event that cannot be read does not cost the others of its batch: it is counted.

mod removed;
mod stored;
#[cfg(test)]
mod tests;

use crate::event::EngineEvent;
use crate::msgpack::{Reader, Value};

/// Longest name (adapter, salt, medium) that is kept. Names that people choose are far shorter.
const MAX_NAME_BYTES: usize = 4096;

/// Bytes of a block id. Longer ones (SHA-256) count with their last eight bytes, which is how
/// vLLM itself makes numbers of them.
const ID_BYTES: usize = 8;

/// Why a payload or an event cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// The data ends inside a value.
    #[error("the payload ends inside a value")]
    Truncated,
    /// Something else stands where this was expected.
    #[error("expected {0}")]
    Unexpected(&'static str),
    /// A field is missing.
    #[error("no {0}")]
    Missing(&'static str),
    /// Blocks and tokens do not fit each other.
    #[error("the tokens do not fill the blocks")]
    TokenCount,
}

/// A decoded payload.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Payload {
    /// When the engine sent it, in seconds since the Unix epoch.
    pub timestamp: f64,
    /// The data-parallel rank, where the engine tells it.
    pub dp_rank: Option<u32>,
    /// The events that could be read, in order.
    pub events: Vec<TaggedEvent>,
    /// Events of a kind that is not known.
    pub unknown: u64,
    /// Events of a known kind that could not be read.
    pub malformed: u64,
}

/// An event, with what decides whether it is of use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaggedEvent {
    /// The event.
    pub event: EngineEvent,
    /// Which of the engine's caches it is about.
    pub scope: Scope,
}

/// Which of an engine's caches an event is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// Number of the group of layers.
    pub group: Option<u32>,
    /// Whether the group's layers attend to the whole prompt, where the event tells it.
    pub full_attention: Option<bool>,
    /// The event is about blocks elsewhere than at this engine, or not of the engine's own.
    pub foreign: bool,
}

/// Decodes a payload.
pub fn decode(bytes: &[u8]) -> Result<Payload, WireError> {
    let mut reader = Reader::new(bytes);
    let mut payload = Payload::default();
    let mut events = None;
    match reader.value()? {
        Value::Array(count) if count >= 2 => {
            payload.timestamp = timestamp(&mut reader)?;
            events = Some(reader.whole()?);
            if count > 2 {
                payload.dp_rank = rank(&mut reader)?;
            }
            skip_all(&mut reader, count.saturating_sub(3))?;
        }
        Value::Map(pairs) => {
            for _ in 0..pairs {
                match key(&mut reader)? {
                    b"ts" => payload.timestamp = timestamp(&mut reader)?,
                    b"events" => events = Some(reader.whole()?),
                    b"data_parallel_rank" | b"dp_rank" => payload.dp_rank = rank(&mut reader)?,
                    _ => reader.skip()?,
                }
            }
        }
        _ => return Err(WireError::Unexpected("a batch of events")),
    }
    if !reader.is_empty() {
        return Err(WireError::Unexpected("the end of the payload"));
    }
    let mut events = events.ok_or(WireError::Missing("events"))?;
    let count = events.array("an array of events")?;
    for _ in 0..count {
        match event(events.whole()?) {
            Ok(Some(event)) => payload.events.push(event),
            Ok(None) => payload.unknown += 1,
            Err(_) => payload.malformed += 1,
        }
    }
    Ok(payload)
}

/// One event; `None` if its kind is not known.
fn event(reader: Reader<'_>) -> Result<Option<TaggedEvent>, WireError> {
    let fields = Fields::of(reader)?;
    match fields.kind()? {
        b"BlockStored" => stored::decode(fields).map(Some),
        b"BlockRemoved" => removed::decode(fields).map(Some),
        b"AllBlocksCleared" => removed::decode_cleared(fields).map(Some),
        _ => Ok(None),
    }
}

/// An event's fields under their names, whichever way they are written.
pub(crate) struct Fields<'a> {
    body: Reader<'a>,
    shape: Shape,
}

enum Shape {
    Array(u32),
    Map(u32),
}

impl<'a> Fields<'a> {
    fn of(mut body: Reader<'a>) -> Result<Self, WireError> {
        let shape = match body.value()? {
            Value::Array(count) => Shape::Array(count),
            Value::Map(pairs) => Shape::Map(pairs),
            _ => return Err(WireError::Unexpected("an event")),
        };
        Ok(Self { body, shape })
    }

    /// The event's kind: the first value of an array, or `type` of a map.
    fn kind(&self) -> Result<&'a [u8], WireError> {
        let mut body = self.body.clone();
        match self.shape {
            Shape::Array(0) => Err(WireError::Missing("kind")),
            Shape::Array(_) => key(&mut body),
            Shape::Map(pairs) => {
                for _ in 0..pairs {
                    if key(&mut body)? == b"type" {
                        return key(&mut body);
                    }
                    body.skip()?;
                }
                Err(WireError::Missing("kind"))
            }
        }
    }

    /// Calls `take` with the name of each field and a reader at its value. `names` are the fields
    /// of the array form behind the kind, in order; those behind the last one are passed over.
    pub(crate) fn each(
        mut self,
        names: &[&'static str],
        mut take: impl FnMut(&[u8], &mut Reader<'a>) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        match self.shape {
            Shape::Array(count) => {
                self.body.skip()?;
                // One place may hold a structure of an older form, which has no name here.
                let mut names = names.iter().peekable();
                for _ in 1..count {
                    let mut value = self.body.whole()?;
                    let optional = names.peek().is_some_and(|name| OPTIONAL.contains(*name));
                    if optional && is_container(&value)? {
                        continue;
                    }
                    let Some(name) = names.next() else { break };
                    take(name.as_bytes(), &mut value)?;
                }
            }
            Shape::Map(pairs) => {
                for _ in 0..pairs {
                    let name = key(&mut self.body)?;
                    take(name, &mut self.body.whole()?)?;
                }
            }
        }
        Ok(())
    }
}

/// Fields at the end of the array forms. All are numbers or words, so that a container among them
/// is something else.
pub(crate) const OPTIONAL: [&str; 5] = [
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
    "locality",
    "ownership",
];

impl Scope {
    /// Takes a field if it is one of [`OPTIONAL`]. What is not of the expected type counts as
    /// absent: these came late, and engines differ in them.
    pub(crate) fn take(&mut self, name: &[u8], reader: &mut Reader<'_>) -> Result<bool, WireError> {
        if !OPTIONAL.iter().any(|known| known.as_bytes() == name) {
            return Ok(false);
        }
        match (name, reader.value()?) {
            (b"group_idx", Value::Unsigned(group)) => self.group = u32::try_from(group).ok(),
            (b"kv_cache_spec_kind", Value::Text(kind)) => {
                self.full_attention = Some(matches!(
                    kind,
                    b"full_attention" | b"mla_attention" | b"sink_full_attention"
                ));
            }
            (b"locality", Value::Text(place)) if place != b"LOCAL" => self.foreign = true,
            (b"ownership", Value::Text(_)) => self.foreign = true,
            _ => {}
        }
        Ok(true)
    }
}

fn is_container(value: &Reader<'_>) -> Result<bool, WireError> {
    Ok(matches!(
        value.clone().value()?,
        Value::Array(_) | Value::Map(_)
    ))
}

fn skip_all(reader: &mut Reader<'_>, count: u32) -> Result<(), WireError> {
    (0..count).try_for_each(|_| reader.skip())
}

fn key<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], WireError> {
    match reader.value()? {
        Value::Text(name) => Ok(name),
        _ => Err(WireError::Unexpected("a name")),
    }
}

fn timestamp(reader: &mut Reader<'_>) -> Result<f64, WireError> {
    match reader.value()? {
        Value::Float(seconds) => Ok(seconds),
        Value::Unsigned(seconds) => Ok(seconds as f64),
        _ => Err(WireError::Unexpected("a timestamp")),
    }
}

fn rank(reader: &mut Reader<'_>) -> Result<Option<u32>, WireError> {
    const RANK: WireError = WireError::Unexpected("a data-parallel rank");
    match reader.value()? {
        Value::Nil => Ok(None),
        Value::Unsigned(rank) => u32::try_from(rank).map(Some).map_err(|_| RANK),
        _ => Err(RANK),
    }
}

/// A name, or `None` for nil and for an empty one.
pub(crate) fn name(reader: &mut Reader<'_>) -> Result<Option<String>, WireError> {
    match reader.value()? {
        Value::Nil => Ok(None),
        Value::Text(text) => name_of(text),
        _ => Err(WireError::Unexpected("a name")),
    }
}

pub(crate) fn name_of(text: &[u8]) -> Result<Option<String>, WireError> {
    if text.len() > MAX_NAME_BYTES {
        return Err(WireError::Unexpected("a shorter name"));
    }
    let text = std::str::from_utf8(text).map_err(|_| WireError::Unexpected("UTF-8"))?;
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// A block id: a number of 64 bits with or without sign, or bytes.
pub(crate) fn block_id(reader: &mut Reader<'_>) -> Result<Option<u64>, WireError> {
    match reader.value()? {
        Value::Nil => Ok(None),
        Value::Unsigned(id) => Ok(Some(id)),
        Value::Negative(id) => Ok(Some(id.cast_unsigned())),
        Value::Binary(bytes) => {
            let last = bytes
                .last_chunk::<ID_BYTES>()
                .ok_or(WireError::Unexpected("a longer block id"))?;
            Ok(Some(u64::from_be_bytes(*last)))
        }
        _ => Err(WireError::Unexpected("a block id")),
    }
}

/// An array of block ids.
pub(crate) fn block_ids(reader: &mut Reader<'_>) -> Result<Vec<u64>, WireError> {
    let count = reader.array("an array of block ids")?;
    // Each id takes a byte at least, whatever the head announces.
    let mut ids = Vec::with_capacity((count as usize).min(reader.remaining()));
    for _ in 0..count {
        ids.push(block_id(reader)?.ok_or(WireError::Unexpected("a block id"))?);
    }
    Ok(ids)
}
