//! A message of the request plane over NATS. Pure.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | kind; the top bit is set if the sender is the side that dialled |
//! | 8 | connection, drawn by the side that dialled |
//! | 8 | how many of the receiver's bytes the sender has, without a gap |
//! | 8 | up to which of the receiver's bytes the sender has room |
//! | 8 | number of the first byte of the payload |
//! | rest | payload |
//!
//! Numbers are big endian. Nothing is allocated for a message: its payload stays where it was read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of a message before its payload.
pub const HEAD_BYTES: usize = 1 + 4 * 8;

/// Set if the sender dialled.
const FROM_DIALLER: u8 = 0x80;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks for a connection; the payload is the subject of the side that asks.
    Dial,
    /// The connection is made.
    Accept,
    /// Bytes of the stream; or none, only to acknowledge.
    Data,
    /// The last bytes were said. It counts as one byte, so that it is not lost either.
    Finish,
    /// Asks to send again what comes after the bytes that the sender has.
    Resend,
    /// The connection is no more.
    Reset,
}

/// A message, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What it is for.
    pub kind: Kind,
    /// Whether the sender dialled.
    pub from_dialler: bool,
    /// The connection.
    pub connection: u64,
    /// How many of the receiver's bytes the sender has.
    pub acknowledged: u64,
    /// Up to which of the receiver's bytes the sender has room.
    pub limit: u64,
    /// Number of the payload's first byte.
    pub start: u64,
    /// The bytes.
    pub payload: Bytes,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Dial => 1,
            Self::Accept => 2,
            Self::Data => 3,
            Self::Finish => 4,
            Self::Resend => 5,
            Self::Reset => 6,
        }
    }

    const fn of(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::Dial,
            2 => Self::Accept,
            3 => Self::Data,
            4 => Self::Finish,
            5 => Self::Resend,
            6 => Self::Reset,
            _ => return None,
        })
    }
}

impl Segment {
    /// The message's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD_BYTES + self.payload.len());
        self.encode_into(&mut out);
        out.freeze()
    }

    /// Writes the message.
    pub fn encode_into(&self, out: &mut BytesMut) {
        let side = if self.from_dialler { FROM_DIALLER } else { 0 };
        out.put_u8(self.kind.code() | side);
        out.put_u64(self.connection);
        out.put_u64(self.acknowledged);
        out.put_u64(self.limit);
        out.put_u64(self.start);
        out.put_slice(&self.payload);
    }

    /// Takes a message apart; `None` if it is none of ours.
    pub fn decode(mut message: Bytes) -> Option<Self> {
        if message.len() < HEAD_BYTES {
            return None;
        }
        let first = message.get_u8();
        Some(Self {
            kind: Kind::of(first & !FROM_DIALLER)?,
            from_dialler: first & FROM_DIALLER != 0,
            connection: message.get_u64(),
            acknowledged: message.get_u64(),
            limit: message.get_u64(),
            start: message.get_u64(),
            payload: message,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            code in 1_u8..=6, from_dialler: bool, numbers: [u64; 4], payload: Vec<u8>,
        ) {
            let segment = Segment {
                kind: Kind::of(code).unwrap(),
                from_dialler,
                connection: numbers[0],
                acknowledged: numbers[1],
                limit: numbers[2],
                start: numbers[3],
                payload: payload.into(),
            };
            prop_assert_eq!(Segment::decode(segment.encode()), Some(segment));
        }

        #[test]
        fn garbage_is_refused_without_a_panic(bytes: Vec<u8>) {
            drop(Segment::decode(bytes.into()));
        }
    }
}
