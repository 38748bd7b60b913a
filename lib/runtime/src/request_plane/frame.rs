//! The wire form of the tcp request plane, protocol versions 1 and 2. Pure.
//!
//! A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the rest, big endian |
//! | 1 | kind |
//! | 4 | stream, big endian; 0 for frames about the connection |
//! | length - 5 | payload |
//!
//! and its payload, by kind:
//!
//! | kind | name | payload |
//! |---|---|---|
//! | 1 | HELLO | [`Hello`] as MessagePack map |
//! | 2 | REQUEST | 4 bytes length of the header, [`WireHeader`] as MessagePack map, body |
//! | 3 | ITEM | 8 bytes position, 4 bytes positions, item |
//! | 4 | END | empty, or a `RequestError` as MessagePack map; on stream 0: why the connection ends |
//! | 5 | CANCEL | empty |
//! | 6 | CREDIT | 4 bytes: bytes that the reader has made room for |
//! | 7 | PING | 8 bytes, given back |
//! | 8 | PONG | the 8 bytes |
//! | 9 | GOAWAY | empty: no new streams on this connection |
//! | 10 | ACCEPTED | empty; since version 2: the call is taken, its first item may take its time |
//!
//! Invariants
//! - A length is checked before anything is allocated for it. Before the handshake is done the
//!   limit is [`MAX_HELLO_BYTES`], afterwards [`MAX_FRAME_BYTES`].
//! - Maps are read leniently (unknown keys ignored, absent ones defaulted), so that a newer peer
//!   may add fields without a new version. Unknown kinds end the connection: a kind that may be
//!   ignored is announced as a feature first.
//! - ACCEPTED is sent to peers of version 2, and only where no item follows at once: an item says
//!   the same.

use super::{RequestHeader, TrafficClass};
use crate::discovery::{EndpointId, InstanceId};
use bytes::{Buf, BufMut, BytesMut};
use dynamo_protocols::RequestError;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Largest frame, without its length. A prompt of a million tokens takes 5 MB; what is larger
/// than this is a mistake or an attack.
pub const MAX_FRAME_BYTES: usize = 32 * 1024 * 1024;

/// Largest frame before the peer has shown that it speaks this protocol.
pub const MAX_HELLO_BYTES: usize = 4 * 1024;

/// What every HELLO starts with.
pub const MAGIC: &str = "dynamo-request-plane";

/// Bytes of a frame before its payload: length, kind, stream.
pub const FRAME_HEAD: usize = 4 + KIND_AND_STREAM;

/// Bytes of an ITEM before the item: frame head, position, positions. Charged to the stream's
/// credit together with the item, so that empty items are not free.
pub const ITEM_HEAD: usize = FRAME_HEAD + 8 + 4;

const KIND_AND_STREAM: usize = 1 + 4;

/// Stream number of frames about the connection itself.
pub const CONNECTION: u32 = 0;

/// The first frame in each direction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: String,
    /// Oldest protocol version the sender speaks.
    pub min: u16,
    /// Newest protocol version the sender speaks.
    pub max: u16,
    /// What the sender can do beyond the version, by name.
    #[serde(default)]
    pub features: Vec<String>,
}

/// A request's header on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireHeader {
    request_id: Arc<str>,
    #[serde(default)]
    attempt: u32,
    #[serde(default)]
    choice: u32,
    namespace: String,
    component: String,
    endpoint: String,
    instance: u64,
    #[serde(default)]
    start_position: u64,
    /// Bytes of items that the caller has room for.
    pub window: u32,
    /// Milliseconds until the caller loses interest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<Arc<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<Arc<str>>,
}

/// A frame, its payload still where it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Who speaks, and which versions.
    Hello(Hello),
    /// A call.
    Request {
        /// The new stream.
        stream: u32,
        /// Who asks for what.
        header: Box<WireHeader>,
        /// The request itself.
        body: &'a [u8],
    },
    /// A piece of an answer.
    Item {
        /// The stream it belongs to.
        stream: u32,
        /// Its first position.
        position: u64,
        /// How many positions it covers.
        positions: u32,
        /// The item itself.
        payload: &'a [u8],
    },
    /// An answer is complete, or failed. On [`CONNECTION`]: everything on it has.
    End {
        /// The stream that ends.
        stream: u32,
        /// Why it failed, if it did.
        error: Option<RequestError>,
    },
    /// The caller has lost interest.
    Cancel {
        /// The stream to stop.
        stream: u32,
    },
    /// The caller has room for more.
    Credit {
        /// The stream that may go on.
        stream: u32,
        /// How many bytes more.
        bytes: u32,
    },
    /// Are you there?
    Ping(u64),
    /// I am.
    Pong(u64),
    /// No new streams, please.
    GoAway,
    /// A call is taken.
    Accepted {
        /// The stream of its answer.
        stream: u32,
    },
}

/// Why bytes are not frames.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The announced length is beyond the limit.
    #[error("a frame of {length} bytes was announced, more than {limit}")]
    TooLarge {
        /// The announced length.
        length: usize,
        /// The limit that held.
        limit: usize,
    },
    /// The frame is shorter than its kind needs.
    #[error("a frame of kind {kind} is cut short")]
    Short {
        /// The frame's kind.
        kind: u8,
    },
    /// Nobody knows this kind.
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
    /// A MessagePack payload is not what its kind holds.
    #[error("a frame of kind {kind} cannot be read: {reason}")]
    Malformed {
        /// The frame's kind.
        kind: u8,
        /// What the decoder said.
        reason: String,
    },
}

mod kind {
    pub(super) const HELLO: u8 = 1;
    pub(super) const REQUEST: u8 = 2;
    pub(super) const ITEM: u8 = 3;
    pub(super) const END: u8 = 4;
    pub(super) const CANCEL: u8 = 5;
    pub(super) const CREDIT: u8 = 6;
    pub(super) const PING: u8 = 7;
    pub(super) const PONG: u8 = 8;
    pub(super) const GO_AWAY: u8 = 9;
    pub(super) const ACCEPTED: u8 = 10;
}

// === impl Hello ===

impl Hello {
    /// What this build says.
    pub fn of_this_build() -> Self {
        Self::up_to(super::MAX_PROTOCOL_VERSION)
    }

    /// What it says if it is to speak no newer version than this one.
    pub fn up_to(version: u16) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            min: super::MIN_PROTOCOL_VERSION,
            max: version.clamp(super::MIN_PROTOCOL_VERSION, super::MAX_PROTOCOL_VERSION),
            features: Vec::new(),
        }
    }

    /// The newest version that both speak.
    pub fn common_version(&self, other: &Self) -> Option<u16> {
        let version = self.max.min(other.max);
        (version >= self.min.max(other.min)).then_some(version)
    }
}

// === impl WireHeader ===

impl WireHeader {
    /// A header as it goes out at `now`.
    pub fn new(header: &RequestHeader, window: u32, now: Instant) -> Self {
        Self {
            request_id: Arc::clone(&header.request_id),
            attempt: header.attempt,
            choice: header.choice,
            namespace: header.endpoint.namespace().to_owned(),
            component: header.endpoint.component().to_owned(),
            endpoint: header.endpoint.endpoint().to_owned(),
            instance: header.instance.get(),
            start_position: header.start_position,
            window,
            deadline_ms: header.deadline.map(|deadline| {
                let left = deadline.saturating_duration_since(now).as_millis();
                u64::try_from(left).unwrap_or(u64::MAX)
            }),
            traceparent: header.traceparent.clone(),
            tracestate: header.tracestate.clone(),
        }
    }

    /// The header as it came in at `now`, or what is wrong with it.
    pub fn open(self, class: TrafficClass, now: Instant) -> Result<RequestHeader, String> {
        let endpoint = EndpointId::new(&self.namespace, &self.component, &self.endpoint)
            .map_err(|error| error.to_string())?;
        let instance = InstanceId::new(self.instance)
            .ok_or_else(|| format!("{} is not an instance id", self.instance))?;
        Ok(RequestHeader {
            request_id: self.request_id,
            attempt: self.attempt,
            choice: self.choice,
            endpoint,
            instance,
            start_position: self.start_position,
            // A deadline that the clock cannot hold is none.
            deadline: self
                .deadline_ms
                .and_then(|left| now.checked_add(Duration::from_millis(left))),
            traceparent: self.traceparent,
            tracestate: self.tracestate,
            class,
        })
    }
}

// === decoding ===

/// Takes the first frame off `buffer`'s front. Gives back the frame and how many bytes it took,
/// or `None` if it is not complete yet.
pub fn decode(buffer: &[u8], limit: usize) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let Some((mut head, rest)) = buffer.split_at_checked(FRAME_HEAD) else {
        // The length alone may tell already that the rest will never be wanted.
        if let Some(length) = buffer.first_chunk::<4>() {
            check_length(*length, limit)?;
        }
        return Ok(None);
    };
    let length = check_length([head[0], head[1], head[2], head[3]], limit)?;
    head.advance(4);
    let (kind, stream) = (head.get_u8(), head.get_u32());
    let Some(payload) = rest.get(..length - KIND_AND_STREAM) else {
        return Ok(None);
    };
    Ok(Some((decode_payload(kind, stream, payload)?, 4 + length)))
}

fn check_length(bytes: [u8; 4], limit: usize) -> Result<usize, FrameError> {
    let length = u32::from_be_bytes(bytes) as usize;
    if length > limit {
        return Err(FrameError::TooLarge { length, limit });
    }
    if length < KIND_AND_STREAM {
        return Err(FrameError::Short { kind: 0 });
    }
    Ok(length)
}

fn decode_payload(kind: u8, stream: u32, mut payload: &[u8]) -> Result<Frame<'_>, FrameError> {
    let short = FrameError::Short { kind };
    Ok(match kind {
        kind::HELLO => Frame::Hello(read_map(kind, payload)?),
        kind::REQUEST => {
            let length = payload.try_get_u32().map_err(|_| short.clone())? as usize;
            let (header, body) = payload.split_at_checked(length).ok_or(short)?;
            Frame::Request {
                stream,
                header: Box::new(read_map(kind, header)?),
                body,
            }
        }
        kind::ITEM => Frame::Item {
            stream,
            position: payload.try_get_u64().map_err(|_| short.clone())?,
            positions: payload.try_get_u32().map_err(|_| short)?,
            payload,
        },
        kind::END => Frame::End {
            stream,
            error: if payload.is_empty() {
                None
            } else {
                Some(read_map(kind, payload)?)
            },
        },
        kind::CANCEL => Frame::Cancel { stream },
        kind::CREDIT => Frame::Credit {
            stream,
            bytes: payload.try_get_u32().map_err(|_| short)?,
        },
        kind::PING => Frame::Ping(payload.try_get_u64().map_err(|_| short)?),
        kind::PONG => Frame::Pong(payload.try_get_u64().map_err(|_| short)?),
        kind::GO_AWAY => Frame::GoAway,
        kind::ACCEPTED => Frame::Accepted { stream },
        unknown => return Err(FrameError::UnknownKind(unknown)),
    })
}

fn read_map<'a, T: Deserialize<'a>>(kind: u8, payload: &'a [u8]) -> Result<T, FrameError> {
    rmp_serde::from_slice(payload).map_err(|error| FrameError::Malformed {
        kind,
        reason: error.to_string(),
    })
}

// === encoding ===

/// Writes a HELLO.
pub fn put_hello(out: &mut BytesMut, hello: &Hello) {
    put(out, kind::HELLO, CONNECTION, |out| put_map(out, hello));
}

/// Writes a REQUEST.
pub fn put_request(out: &mut BytesMut, stream: u32, header: &WireHeader, body: &[u8]) {
    put(out, kind::REQUEST, stream, |out| {
        let start = out.len();
        out.put_u32(0);
        put_map(out, header);
        let length = out.len() - start - 4;
        // A header is names and numbers: it stays far below 4 GiB.
        out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
        out.put_slice(body);
    });
}

/// Writes an ITEM.
pub fn put_item(out: &mut BytesMut, stream: u32, position: u64, positions: u32, payload: &[u8]) {
    put(out, kind::ITEM, stream, |out| {
        out.put_u64(position);
        out.put_u32(positions);
        out.put_slice(payload);
    });
}

/// Writes an END.
pub fn put_end(out: &mut BytesMut, stream: u32, error: Option<&RequestError>) {
    put(out, kind::END, stream, |out| {
        if let Some(error) = error {
            put_map(out, error);
        }
    });
}

/// Writes a CANCEL.
pub fn put_cancel(out: &mut BytesMut, stream: u32) {
    put(out, kind::CANCEL, stream, |_| ());
}

/// Writes a CREDIT.
pub fn put_credit(out: &mut BytesMut, stream: u32, bytes: u32) {
    put(out, kind::CREDIT, stream, |out| out.put_u32(bytes));
}

/// Writes a PING.
pub fn put_ping(out: &mut BytesMut, nonce: u64) {
    put(out, kind::PING, CONNECTION, |out| out.put_u64(nonce));
}

/// Writes a PONG.
pub fn put_pong(out: &mut BytesMut, nonce: u64) {
    put(out, kind::PONG, CONNECTION, |out| out.put_u64(nonce));
}

/// Writes a GOAWAY.
pub fn put_go_away(out: &mut BytesMut) {
    put(out, kind::GO_AWAY, CONNECTION, |_| ());
}

/// Writes an ACCEPTED.
pub fn put_accepted(out: &mut BytesMut, stream: u32) {
    put(out, kind::ACCEPTED, stream, |_| ());
}

fn put(out: &mut BytesMut, kind: u8, stream: u32, payload: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    out.put_u8(kind);
    out.put_u32(stream);
    payload(out);
    let length = out.len() - start - 4;
    // Callers keep payloads below MAX_FRAME_BYTES.
    out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
}

fn put_map<T: Serialize>(out: &mut BytesMut, value: &T) {
    // Writing to memory cannot fail, and these types have no maps with odd keys.
    rmp_serde::encode::write_named(&mut out.writer(), value).expect("plain types serialise");
}

#[cfg(test)]
mod tests;
