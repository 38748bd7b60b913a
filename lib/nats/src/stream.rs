//! One side of a connection as a state machine: a reliable stream of bytes over messages that may
//! be lost. Pure; time is an argument.
//!
//! NATS delivers the messages of one process to another in order, and at most once: a server that
//! restarts, or a reader that falls behind, loses some. So bytes are numbered, and kept by the
//! side that sent them until the other side says that it has them. A receiver that sees a gap asks
//! for what comes after the bytes it has; so does one whose own link to the server was down. What
//! comes after a gap is not kept: losses are rare, and all of it is sent again.
//!
//! Invariants
//! - Bytes come out once and in order, or not at all.
//! - At most [`WINDOW_BYTES`] are under way or unread in each direction: that is what a connection
//!   takes in memory on either side, and what the server may have to hold for a slow process.
//! - A loss is noticed by the next message, and the frames' heartbeats bring one every half second;
//!   the timer ([`RESEND_AFTER`]) is only for a request to resend that is lost itself.

#[cfg(test)]
mod tests;

use crate::segment::{HEAD_BYTES, Kind, Segment};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a connection under way in one direction: a thousand streams' tokens of some writes,
/// and 250 MB/s of artefacts at a millisecond's round trip.
pub const WINDOW_BYTES: u64 = 256 * 1024;

/// Largest payload of a message; less if the server takes less. Well below a server's default of
/// 1 MiB, so that bulk data does not stand before tokens for long.
pub const SEGMENT_BYTES: usize = 64 * 1024;

/// How long received bytes may stay unacknowledged. Heartbeats of the frames carry the
/// acknowledgement before that as a rule, so that idle connections send nothing for it.
pub const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(600);

/// How long to wait for an acknowledgement before everything unacknowledged is sent again: twice
/// what the other side takes at most.
pub const RESEND_AFTER: Duration = Duration::from_millis(1300);

/// How long to wait before asking again for the same gap: above a datacentre's round trip through
/// the server, so that one loss is not answered many times.
pub const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A message that may have to be sent again.
#[derive(Debug)]
struct Unacknowledged {
    /// Number after its last byte.
    end: u64,
    message: Bytes,
}

/// One side of a connection.
#[derive(Debug)]
pub struct Stream {
    connection: u64,
    dialled: bool,
    // What this side says.
    unacknowledged: VecDeque<Unacknowledged>,
    /// Messages at the front that were published since the last time all had to be sent again.
    published: usize,
    acknowledged: u64,
    end: u64,
    limit: u64,
    finished: bool,
    /// When it last went forward with what is unacknowledged.
    progress: Instant,
    // What the other side says.
    inbound: VecDeque<Bytes>,
    received: u64,
    consumed: u64,
    told_received: u64,
    told_limit: u64,
    /// Since when something received is unacknowledged.
    owes_since: Option<Instant>,
    acknowledge_now: bool,
    ask_now: bool,
    asked: Option<(u64, Instant)>,
    ended: bool,
}

/// Whom to wake after a message was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wake {
    /// There is something to read.
    pub reader: bool,
    /// There is room to write.
    pub writer: bool,
    /// There is something to publish, or a deadline has changed.
    pub publisher: bool,
}

impl Stream {
    /// A connection that was just made.
    pub fn new(connection: u64, dialled: bool, now: Instant) -> Self {
        Self {
            connection,
            dialled,
            unacknowledged: VecDeque::new(),
            published: 0,
            acknowledged: 0,
            end: 0,
            limit: WINDOW_BYTES,
            finished: false,
            progress: now,
            inbound: VecDeque::new(),
            received: 0,
            consumed: 0,
            told_received: 0,
            told_limit: WINDOW_BYTES,
            owes_since: None,
            acknowledge_now: false,
            ask_now: false,
            asked: None,
            ended: false,
        }
    }

    // === what this side says ===

    /// Takes in as much as there is room for, in messages of at most `max_message` bytes.
    pub fn write(&mut self, mut bytes: &[u8], max_message: usize, now: Instant) -> usize {
        let largest = max_message.saturating_sub(HEAD_BYTES).min(SEGMENT_BYTES);
        let room = WINDOW_BYTES.saturating_sub(self.end - self.acknowledged);
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        bytes = &bytes[..bytes.len().min(room)];
        let written = bytes.len();
        for piece in bytes.chunks(largest.max(1)) {
            self.push(Kind::Data, piece, piece.len() as u64, now);
        }
        written
    }

    /// Says that nothing more is said.
    pub fn finish(&mut self, now: Instant) {
        if !self.finished {
            self.finished = true;
            self.push(Kind::Finish, &[], 1, now);
        }
    }

    fn push(&mut self, kind: Kind, payload: &[u8], length: u64, now: Instant) {
        if self.unacknowledged.is_empty() {
            self.progress = now;
        }
        // What it acknowledges counts as told only if it leaves now.
        let leaves_now =
            self.published == self.unacknowledged.len() && self.end + length <= self.limit;
        let message = self.message(kind, self.end, payload);
        if leaves_now {
            self.mark_told();
        }
        self.end += length;
        self.unacknowledged.push_back(Unacknowledged {
            end: self.end,
            message,
        });
    }

    /// The next message to publish, if the other side has room for it.
    pub fn next(&self) -> Option<&Bytes> {
        let next = self.unacknowledged.get(self.published)?;
        // The end of the stream takes no room.
        let is_end = self.finished && self.published + 1 == self.unacknowledged.len();
        (is_end || next.end <= self.limit).then_some(&next.message)
    }

    /// The message that [`Stream::next`] gave is on its way.
    pub fn mark_published(&mut self) {
        self.published += 1;
    }

    /// Whether the other side has everything that was said, to the end.
    pub fn is_delivered(&self) -> bool {
        self.finished && self.unacknowledged.is_empty()
    }

    // === what the other side says ===

    /// Takes in a message of the other side.
    pub fn take(&mut self, segment: Segment, now: Instant) -> Wake {
        let mut wake = Wake::default();
        self.take_acknowledgement(&segment, now, &mut wake);
        match segment.kind {
            Kind::Data => self.take_bytes(segment.start, segment.payload, now, &mut wake),
            Kind::Finish if segment.start == self.received && !self.ended => {
                self.ended = true;
                self.received += 1;
                self.acknowledge_now = true;
                (wake.reader, wake.publisher) = (true, true);
            }
            Kind::Finish => self.judge_gap(segment.start, 1, now, &mut wake),
            Kind::Resend => {
                self.published = 0;
                self.progress = now;
                // Who asks is answered, even if there is nothing to send again.
                self.acknowledge_now = true;
                wake.publisher = true;
            }
            Kind::Dial | Kind::Accept | Kind::Reset => {}
        }
        wake
    }

    fn take_acknowledgement(&mut self, segment: &Segment, now: Instant, wake: &mut Wake) {
        if segment.limit > self.limit {
            self.limit = segment.limit;
            wake.publisher |= self.published < self.unacknowledged.len();
        }
        // More than was ever said is none of ours.
        if segment.acknowledged <= self.acknowledged || segment.acknowledged > self.end {
            return;
        }
        self.acknowledged = segment.acknowledged;
        self.progress = now;
        while let Some(front) = self.unacknowledged.front()
            && front.end <= self.acknowledged
        {
            self.unacknowledged.pop_front();
            self.published = self.published.saturating_sub(1);
        }
        wake.writer = true;
        wake.publisher |= self.finished;
    }

    fn take_bytes(&mut self, start: u64, payload: Bytes, now: Instant, wake: &mut Wake) {
        if payload.is_empty() {
            return;
        }
        let length = payload.len() as u64;
        let fits = self.received + length <= self.consumed + WINDOW_BYTES;
        if start != self.received || self.ended || !fits {
            self.judge_gap(start, length, now, wake);
            return;
        }
        self.received += length;
        self.inbound.push_back(payload);
        wake.reader = true;
        if self.owes_since.is_none() {
            self.owes_since = Some(now);
            wake.publisher = true;
        }
        if self.received - self.told_received >= WINDOW_BYTES / 4 {
            self.acknowledge_now = true;
            wake.publisher = true;
        }
    }

    /// Bytes that are not the next ones: they were there already, or some before them are missing.
    fn judge_gap(&mut self, start: u64, length: u64, now: Instant, wake: &mut Wake) {
        wake.publisher = true;
        if start.saturating_add(length) <= self.received {
            // The other side does not know that they are here.
            self.acknowledge_now = true;
            return;
        }
        let asked_lately = self.asked.is_some_and(|(received, at)| {
            received == self.received && now.saturating_duration_since(at) < ASK_AGAIN_AFTER
        });
        self.ask_now |= !asked_lately;
    }

    /// Takes out what has come, as much as goes into `out`.
    pub fn read(&mut self, out: &mut impl BufMut) -> Read {
        let before = self.consumed;
        while let Some(front) = self.inbound.front_mut() {
            let length = front.len().min(out.remaining_mut());
            if length == 0 {
                break;
            }
            out.put_slice(&front[..length]);
            front.advance(length);
            self.consumed += length as u64;
            if front.is_empty() {
                self.inbound.pop_front();
            }
        }
        if self.consumed == before {
            return if self.ended && self.inbound.is_empty() {
                Read::End
            } else {
                Read::Nothing
            };
        }
        if self.consumed + WINDOW_BYTES - self.told_limit >= WINDOW_BYTES / 4 {
            self.acknowledge_now = true;
        }
        Read::Some {
            publish: self.acknowledge_now,
        }
    }

    // === what goes on between ===

    /// This side's link to the server was down: what was on its way to it may be lost.
    pub fn link_was_down(&mut self) {
        self.ask_now = true;
    }

    /// A message that says nothing new but where this side stands, if one is due.
    pub fn control(&mut self, now: Instant) -> Option<Bytes> {
        let late = self
            .owes_since
            .is_some_and(|since| now >= since + ACKNOWLEDGE_AFTER);
        let kind = if std::mem::take(&mut self.ask_now) {
            self.asked = Some((self.received, now));
            Kind::Resend
        } else if self.acknowledge_now || late {
            Kind::Data
        } else {
            return None;
        };
        let message = self.message(kind, self.end, &[]);
        self.mark_told();
        Some(message)
    }

    /// Sends everything again that was not acknowledged for too long; asks for room if it was
    /// not even published, for lack of it: the word that there is some may be lost.
    pub fn resend_what_is_late(&mut self, now: Instant) {
        if !self.unacknowledged.is_empty() && now >= self.progress + RESEND_AFTER {
            self.ask_now |= self.published == 0;
            self.published = 0;
            self.progress = now;
        }
    }

    /// When there is something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let acknowledge = self.owes_since.map(|since| since + ACKNOWLEDGE_AFTER);
        let waits = !self.unacknowledged.is_empty();
        let resend = waits.then(|| self.progress + RESEND_AFTER);
        acknowledge.into_iter().chain(resend).min()
    }

    fn mark_told(&mut self) {
        self.told_received = self.received;
        self.told_limit = self.consumed + WINDOW_BYTES;
        self.owes_since = None;
        self.acknowledge_now = false;
    }

    fn message(&self, kind: Kind, start: u64, payload: &[u8]) -> Bytes {
        let side = Segment {
            kind,
            from_dialler: self.dialled,
            connection: self.connection,
            acknowledged: self.received,
            limit: self.consumed + WINDOW_BYTES,
            start,
            payload: Bytes::new(),
        };
        let mut message = BytesMut::with_capacity(HEAD_BYTES + payload.len());
        side.encode_into(&mut message);
        message.put_slice(payload);
        message.freeze()
    }
}

/// What [`Stream::read`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// Bytes; and the other side is to hear that there is room again.
    Some {
        /// Whether there is something to publish now.
        publish: bool,
    },
    /// Nothing yet.
    Nothing,
    /// Nothing will come any more.
    End,
}
