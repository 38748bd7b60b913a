//! What has come in for one stream and its reader has not taken yet.
//!
//! The connection's reader puts items, the stream's owner takes them in batches: one lock and one
//! wake per batch, one allocation per batch, no allocation per item.
//!
//! Invariants
//! - It holds at most what the stream's credit allows: a peer that sends more breaks the protocol
//!   and its stream ends.
//! - Items are copied out of the connection's read buffer, so that a slow stream keeps its own
//!   bytes alive and not whole read buffers.
//! - After the end nothing is taken in; what came before it is still given out.

use super::ReceivedRawItem;
use super::frame::ITEM_HEAD;
use bytes::{Bytes, BytesMut};
use dynamo_protocols::{ErrorCode, RequestError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::task::{Context, Poll, Waker};

/// The shared half: the connection's reader puts, the stream's owner takes.
#[derive(Debug)]
pub(super) struct Inbox {
    state: Mutex<State>,
    window: u32,
}

#[derive(Debug, Default)]
struct State {
    data: BytesMut,
    entries: VecDeque<Entry>,
    /// Bytes of credit that the items here and given-out ones not yet credited have used.
    used: u32,
    /// The server has said that it took the call.
    accepted: bool,
    end: Option<Result<(), RequestError>>,
    reader: Option<Waker>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    position: u64,
    positions: u32,
    length: u32,
}

/// What a look into the inbox found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Items, moved into the batch.
    Items,
    /// The end, and why if it is not a good one.
    End(Option<RequestError>),
}

/// Items taken out together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    data: Bytes,
    entries: VecDeque<Entry>,
}

impl Inbox {
    pub(super) fn new(window: u32) -> Self {
        Self {
            state: Mutex::default(),
            window,
        }
    }

    /// Takes an item in. Gives back who is to be woken, once per batch of the connection's reader.
    pub(super) fn put(&self, position: u64, positions: u32, payload: &[u8]) -> Option<Waker> {
        let mut state = self.state.lock();
        if state.end.is_some() {
            return None;
        }
        let cost = cost(payload.len());
        // One item may overshoot: the server sends while any credit is left.
        if state.used >= self.window {
            state.end = Some(Err(RequestError::new(
                ErrorCode::WorkerProtocol,
                "the worker sent more than it had credit for; send the request again",
            )));
            return state.reader.take();
        }
        state.used = state.used.saturating_add(cost);
        state.data.extend_from_slice(payload);
        state.entries.push_back(Entry {
            position,
            positions,
            // A frame's length fits into 32 bits.
            length: payload.len() as u32,
        });
        state.reader.take()
    }

    /// The server has taken the call.
    pub(super) fn accepted(&self) -> Option<Waker> {
        let mut state = self.state.lock();
        state.accepted = true;
        state.reader.take()
    }

    /// Ends the stream; the first end counts.
    pub(super) fn end(&self, end: Result<(), RequestError>) -> Option<Waker> {
        let mut state = self.state.lock();
        state.end.get_or_insert(end);
        state.reader.take()
    }

    /// Takes everything that is there, or learns that the stream has ended.
    pub(super) fn poll_take(&self, context: &mut Context<'_>, batch: &mut Batch) -> Poll<Taken> {
        let mut state = self.state.lock();
        if !state.entries.is_empty() {
            std::mem::swap(&mut state.entries, &mut batch.entries);
            batch.data = state.data.split().freeze();
            return Poll::Ready(Taken::Items);
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Taken::End(end.clone().err()));
        }
        state.wait(context);
        Poll::Pending
    }

    /// Ready when the server has taken the call, which an item says as well, or refused it.
    pub(super) fn poll_accepted(
        &self,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), RequestError>> {
        let mut state = self.state.lock();
        if state.accepted || !state.entries.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(end.clone());
        }
        state.wait(context);
        Poll::Pending
    }

    /// Notes that room for so many bytes was given back to the server.
    pub(super) fn credit(&self, bytes: u32) {
        let mut state = self.state.lock();
        state.used = state.used.saturating_sub(bytes);
    }
}

impl State {
    fn wait(&mut self, context: &mut Context<'_>) {
        match &mut self.reader {
            Some(reader) => reader.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
    }
}

impl Batch {
    /// The next item, and what it cost of the stream's credit.
    pub(super) fn next(&mut self) -> Option<(ReceivedRawItem, u32)> {
        let entry = self.entries.pop_front()?;
        let payload = self.data.split_to(entry.length as usize);
        let item = ReceivedRawItem {
            position: entry.position,
            positions: entry.positions,
            payload,
        };
        Some((item, cost(entry.length as usize)))
    }
}

/// What an item of this length costs of a stream's credit, on both sides.
pub(super) fn cost(length: usize) -> u32 {
    u32::try_from(length.saturating_add(ITEM_HEAD)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_all(inbox: &Inbox) -> (Vec<Vec<u8>>, Poll<Taken>) {
        let mut context = Context::from_waker(Waker::noop());
        let mut batch = Batch::default();
        let mut items = Vec::new();
        loop {
            let polled = inbox.poll_take(&mut context, &mut batch);
            if polled != Poll::Ready(Taken::Items) {
                return (items, polled);
            }
            while let Some((item, cost)) = batch.next() {
                inbox.credit(cost);
                items.push(item.payload.to_vec());
            }
        }
    }

    #[test]
    fn items_come_out_as_they_went_in_before_the_end() {
        let inbox = Inbox::new(1000);
        inbox.put(0, 1, b"one");
        inbox.put(1, 1, b"");
        inbox.put(2, 1, b"three");
        inbox.end(Ok(()));
        inbox.put(3, 1, b"late");
        let (items, end) = take_all(&inbox);
        assert_eq!(items, [&b"one"[..], b"", b"three"]);
        assert_eq!(end, Poll::Ready(Taken::End(None)));
    }

    #[test]
    fn a_server_that_ignores_its_credit_loses_the_stream() {
        let inbox = Inbox::new(100);
        for position in 0..20 {
            inbox.put(position, 1, &[0; 20]);
        }
        let (items, end) = take_all(&inbox);
        assert_eq!(items.len(), 3, "as many as start within 100 bytes");
        let Poll::Ready(Taken::End(Some(error))) = end else {
            panic!("{end:?}")
        };
        assert_eq!(error.code, ErrorCode::WorkerProtocol);
    }

    #[test]
    fn given_back_credit_lets_the_stream_go_on() {
        let inbox = Inbox::new(100);
        for position in 0..50 {
            inbox.put(position, 1, &[0; 20]);
            assert_eq!(take_all(&inbox).0.len(), 1);
        }
        assert_eq!(take_all(&inbox).1, Poll::Pending);
    }

    #[test]
    fn a_call_is_taken_by_word_or_by_an_item_and_refused_by_an_end_before_both() {
        let mut context = Context::from_waker(Waker::noop());
        let inbox = || Inbox::new(100);
        let refusal = RequestError::new(ErrorCode::Draining, "not here");

        let silent = inbox();
        assert_eq!(silent.poll_accepted(&mut context), Poll::Pending);
        assert!(silent.accepted().is_some(), "who waits is woken");
        silent.end(Err(refusal.clone()));
        assert_eq!(silent.poll_accepted(&mut context), Poll::Ready(Ok(())));

        let quick = inbox();
        quick.put(0, 1, b"one");
        quick.end(Err(refusal.clone()));
        assert_eq!(quick.poll_accepted(&mut context), Poll::Ready(Ok(())));

        let refused = inbox();
        refused.end(Err(refusal.clone()));
        assert_eq!(
            refused.poll_accepted(&mut context),
            Poll::Ready(Err(refusal))
        );
    }

    #[test]
    fn the_first_end_counts() {
        let inbox = Inbox::new(100);
        inbox.end(Err(RequestError::new(ErrorCode::WorkerLost, "gone")));
        inbox.end(Ok(()));
        let (_, end) = take_all(&inbox);
        let Poll::Ready(Taken::End(Some(error))) = end else {
            panic!("{end:?}")
        };
        assert_eq!(error.code, ErrorCode::WorkerLost);
    }
}
