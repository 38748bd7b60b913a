//! ZMTP 3.0, the wire protocol of ZMQ, as far as a subscriber, a publisher and a dealer need it.
//!
//! Pure: bytes in, frames out. The greeting is 64 bytes; then come frames of a flag byte, a length
//! of one or eight bytes, and a body. A message is one or more frames, all but the last flagged;
//! a command is one frame. The only mechanism is NULL. Subscribing is a message in 3.0, which
//! every later version accepts.
//!
//! Invariants
//! - No input panics, and no announced length takes memory before its bytes are there.
//! - A message of more bytes or parts than its bound ends the connection.

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Length of a greeting.
pub(crate) const GREETING_BYTES: usize = 64;

/// Most bytes of a message. The largest step of an engine (half a million tokens with their block
/// ids) is a quarter of it.
pub(crate) const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// Most parts of a message: three are due, five with a replay's delimiter and topic.
pub(crate) const MAX_PARTS: usize = 16;

const MORE: u8 = 1;
const LONG: u8 = 2;
const COMMAND: u8 = 4;

/// Where a greeting holds the mechanism's name, padded with zeros.
const MECHANISM: std::ops::Range<usize> = 12..32;

/// What a peer sends that ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProtocolError {
    /// The peer does not greet as ZMQ does.
    #[error("the peer does not speak ZMTP 3")]
    NotZmtp,
    /// The peer wants another security mechanism.
    #[error("the peer asks for the security mechanism {0:?}; only NULL is spoken")]
    Mechanism(String),
    /// The peer's socket is of another type.
    #[error("the peer's socket is of type {0:?}")]
    SocketType(String),
    /// A frame that no peer may send.
    #[error("broken frame: {0}")]
    Frame(&'static str),
    /// More than fits a message.
    #[error("a message above {MAX_MESSAGE_BYTES} bytes or {MAX_PARTS} parts")]
    TooLarge,
}

/// What a peer says of itself in its greeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerVersion {
    /// 1 and above know heartbeats.
    pub(crate) minor: u8,
}

/// Type of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SocketType {
    Sub,
    Dealer,
    Pub,
}

/// What arrives after the greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arrival {
    Message(Vec<Bytes>),
    Command { name: Bytes, body: Bytes },
}

/// Cuts a stream of bytes into messages and commands.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    buffer: BytesMut,
    parts: Vec<Bytes>,
    held: usize,
}

// === impl SocketType ===

impl SocketType {
    const fn name(self) -> &'static str {
        match self {
            Self::Sub => "SUB",
            Self::Dealer => "DEALER",
            Self::Pub => "PUB",
        }
    }

    /// Whether a peer's socket of this type has what this one asks for.
    pub(crate) fn matches(self, peer: &[u8]) -> bool {
        match self {
            Self::Sub => matches!(peer, b"PUB" | b"XPUB"),
            Self::Dealer => matches!(peer, b"ROUTER" | b"REP" | b"DEALER"),
            Self::Pub => matches!(peer, b"SUB" | b"XSUB"),
        }
    }
}

/// Our greeting: version 3.0, NULL, client.
pub(crate) fn greeting() -> [u8; GREETING_BYTES] {
    let mut greeting = [0; GREETING_BYTES];
    let head = [
        0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 3, 0, b'N', b'U', b'L', b'L',
    ];
    for (byte, value) in greeting.iter_mut().zip(head) {
        *byte = value;
    }
    greeting
}

/// Reads a peer's greeting.
pub(crate) fn read_greeting(bytes: &[u8; GREETING_BYTES]) -> Result<PeerVersion, ProtocolError> {
    let [0xff, .., 0x7f, major, minor] = bytes[..12] else {
        return Err(ProtocolError::NotZmtp);
    };
    if major < 3 {
        return Err(ProtocolError::NotZmtp);
    }
    let mechanism = bytes[MECHANISM].split(|byte| *byte == 0).next();
    match mechanism.unwrap_or_default() {
        b"NULL" => Ok(PeerVersion { minor }),
        other => Err(ProtocolError::Mechanism(
            String::from_utf8_lossy(other).into_owned(),
        )),
    }
}

/// The READY command of a socket.
pub(crate) fn ready(socket: SocketType) -> Bytes {
    let mut body = BytesMut::new();
    for (name, value) in [("Socket-Type", socket.name()), ("Identity", "")] {
        body.put_u8(name.len() as u8);
        body.put_slice(name.as_bytes());
        body.put_u32(value.len() as u32);
        body.put_slice(value.as_bytes());
    }
    command("READY", &body)
}

/// The type of a peer's socket, out of the body of its READY.
pub(crate) fn peer_socket(mut body: &[u8]) -> Result<&[u8], ProtocolError> {
    const BROKEN: ProtocolError = ProtocolError::Frame("broken metadata");
    while body.has_remaining() {
        let length = body.try_get_u8().map_err(|_| BROKEN)?;
        let (name, rest) = body.split_at_checked(length.into()).ok_or(BROKEN)?;
        body = rest;
        let length = body.try_get_u32().map_err(|_| BROKEN)?;
        let (value, rest) = body.split_at_checked(length as usize).ok_or(BROKEN)?;
        body = rest;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            return Ok(value);
        }
    }
    Err(BROKEN)
}

/// A command.
pub(crate) fn command(name: &str, data: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(1 + name.len() + data.len());
    body.put_u8(name.len() as u8);
    body.put_slice(name.as_bytes());
    body.put_slice(data);
    let mut frame = BytesMut::new();
    put_frame(&mut frame, COMMAND, &body);
    frame.freeze()
}

/// A message of some parts.
pub(crate) fn message(parts: &[&[u8]]) -> Bytes {
    let mut frames = BytesMut::new();
    for (index, part) in parts.iter().enumerate() {
        let more = if index + 1 < parts.len() { MORE } else { 0 };
        put_frame(&mut frames, more, part);
    }
    frames.freeze()
}

fn put_frame(frames: &mut BytesMut, flags: u8, body: &[u8]) {
    match u8::try_from(body.len()) {
        Ok(length) => {
            frames.put_u8(flags);
            frames.put_u8(length);
        }
        Err(_) => {
            frames.put_u8(flags | LONG);
            frames.put_u64(body.len() as u64);
        }
    }
    frames.put_slice(body);
}

// === impl Decoder ===

impl Decoder {
    /// Where bytes from the peer go.
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// The greeting, once it is there. To be asked before anything else.
    pub(crate) fn greeting(&mut self) -> Result<Option<PeerVersion>, ProtocolError> {
        // A peer of another protocol may never send 64 bytes: the first one tells.
        if self.buffer.first().is_some_and(|byte| *byte != 0xff) {
            return Err(ProtocolError::NotZmtp);
        }
        let Some(bytes) = self.buffer.first_chunk::<GREETING_BYTES>() else {
            return Ok(None);
        };
        let version = read_greeting(bytes)?;
        self.buffer.advance(GREETING_BYTES);
        Ok(Some(version))
    }

    /// The next message or command, if all of it is there.
    pub(crate) fn next(&mut self) -> Result<Option<Arrival>, ProtocolError> {
        while let Some((flags, body)) = self.frame()? {
            if flags & COMMAND != 0 {
                return read_command(flags, &body).map(Some);
            }
            self.held += body.len();
            self.parts.push(body);
            if flags & MORE == 0 {
                self.held = 0;
                return Ok(Some(Arrival::Message(std::mem::take(&mut self.parts))));
            }
            if self.parts.len() >= MAX_PARTS {
                return Err(ProtocolError::TooLarge);
            }
        }
        Ok(None)
    }

    /// The next frame, if all of it is there. Its length is judged before its body is waited for.
    fn frame(&mut self) -> Result<Option<(u8, Bytes)>, ProtocolError> {
        let mut head = &self.buffer[..];
        let Ok(flags) = head.try_get_u8() else {
            return Ok(None);
        };
        if flags & !(MORE | LONG | COMMAND) != 0 {
            return Err(ProtocolError::Frame("unknown flags"));
        }
        let (length, head_bytes) = if flags & LONG == 0 {
            (head.try_get_u8().map(u64::from), 2)
        } else {
            (head.try_get_u64(), 9)
        };
        let Ok(length) = length else {
            return Ok(None);
        };
        let length = usize::try_from(length).map_err(|_| ProtocolError::TooLarge)?;
        if length > MAX_MESSAGE_BYTES - self.held {
            return Err(ProtocolError::TooLarge);
        }
        if head.len() < length {
            return Ok(None);
        }
        self.buffer.advance(head_bytes);
        Ok(Some((flags, self.buffer.split_to(length).freeze())))
    }
}

fn read_command(flags: u8, body: &Bytes) -> Result<Arrival, ProtocolError> {
    if flags & MORE != 0 {
        return Err(ProtocolError::Frame("a command of several frames"));
    }
    let length = body.first().copied().map_or(0, usize::from);
    if length == 0 || body.len() <= length {
        return Err(ProtocolError::Frame("a command without a name"));
    }
    Ok(Arrival::Command {
        name: body.slice(1..=length),
        body: body.slice(1 + length..),
    })
}
