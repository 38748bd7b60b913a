//! A queue from one task to another that leaves it to the sender when the receiver is woken.
//!
//! Channels wake their receiver with every item. Here a sender that fills hundreds of queues in
//! one go collects the wakers and uses them when it is done: no receiver starts before there is
//! all there is for it, and none is woken twice. An empty queue owns no memory.
//!
//! Invariant: after the sender has used the wakers it was given, no receiver sleeps on items, on
//! the end, or on room it has made.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The sending end.
#[derive(Debug)]
pub(super) struct Sender<T>(Arc<Mutex<State<T>>>);

/// The receiving end.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Mutex<State<T>>>);

/// How a queue stands after a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// There is room.
    Room,
    /// It is full: the sender stops until the receiver says that it has made room.
    Full,
    /// Nobody receives any more.
    Closed,
}

/// What was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received<T> {
    pub(super) item: T,
    /// The sender stopped and may go on: it has to be told.
    pub(super) made_room: bool,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// The sender was told to stop.
    full: bool,
    sender_gone: bool,
    receiver_gone: bool,
    waker: Option<Waker>,
}

/// A queue that is full with this many items.
pub(super) fn handoff<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = Arc::new(Mutex::new(State {
        items: VecDeque::new(),
        capacity,
        full: false,
        sender_gone: false,
        receiver_gone: false,
        waker: None,
    }));
    (Sender(Arc::clone(&state)), Receiver(state))
}

impl<T> Sender<T> {
    /// Adds an item, also to a full queue. If the receiver sleeps, its waker goes to `wakes`.
    pub(super) fn push(&self, item: T, wakes: &mut Vec<Waker>) -> Pushed {
        let mut state = self.0.lock();
        if state.receiver_gone {
            return Pushed::Closed;
        }
        state.items.push_back(item);
        wakes.extend(state.waker.take());
        if state.items.len() < state.capacity {
            return Pushed::Room;
        }
        state.full = true;
        Pushed::Full
    }

    /// Whether the receiver has not made room since the queue was full.
    pub(super) fn is_full(&self) -> bool {
        self.0.lock().full
    }

    /// Whether nobody receives any more.
    pub(super) fn is_closed(&self) -> bool {
        self.0.lock().receiver_gone
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let waker = {
            let mut state = self.0.lock();
            state.sender_gone = true;
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item; nothing once the sender is gone and everything was received.
    pub(super) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Received<T>>> {
        let mut state = self.0.lock();
        if let Some(item) = state.items.pop_front() {
            // Half-way, so that the sender goes on before the receiver is out of work.
            let made_room = state.full && state.items.len() <= state.capacity / 2;
            state.full &= !made_room;
            return Poll::Ready(Some(Received { item, made_room }));
        }
        if state.sender_gone {
            return Poll::Ready(None);
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Receives nothing any more.
    pub(super) fn close(&self) {
        let mut state = self.0.lock();
        state.receiver_gone = true;
        state.items = VecDeque::new();
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn poll(receiver: &Receiver<u32>) -> Poll<Option<(u32, bool)>> {
        let received = receiver.poll(&mut Context::from_waker(&noop_waker()));
        received.map(|it| it.map(|it| (it.item, it.made_room)))
    }

    #[test]
    fn a_sleeping_receiver_is_woken_once_and_by_the_sender() {
        let (sender, receiver) = handoff(9);
        let mut wakes = Vec::new();
        assert!(poll(&receiver).is_pending());
        assert_eq!(sender.push(1, &mut wakes), Pushed::Room);
        assert_eq!(sender.push(2, &mut wakes), Pushed::Room);
        assert_eq!(wakes.len(), 1);
        assert_eq!(poll(&receiver), Poll::Ready(Some((1, false))));
        assert_eq!(poll(&receiver), Poll::Ready(Some((2, false))));
    }

    #[test]
    fn a_full_queue_says_so_until_half_of_it_is_taken() {
        let (sender, receiver) = handoff(4);
        let pushed = [1, 2, 3, 4].map(|item| sender.push(item, &mut Vec::new()));
        assert_eq!(pushed[2..], [Pushed::Room, Pushed::Full]);
        assert_eq!(poll(&receiver), Poll::Ready(Some((1, false))));
        assert!(sender.is_full());
        assert_eq!(poll(&receiver), Poll::Ready(Some((2, true))));
        assert!(!sender.is_full());
        assert_eq!(poll(&receiver), Poll::Ready(Some((3, false))));
    }

    #[test]
    fn either_end_notices_that_the_other_is_gone() {
        let (sender, receiver) = handoff(4);
        sender.push(1, &mut Vec::new());
        drop(sender);
        assert_eq!(poll(&receiver), Poll::Ready(Some((1, false))));
        assert_eq!(poll(&receiver), Poll::Ready(None));
        let (sender, receiver) = handoff(4);
        drop(receiver);
        assert!(sender.is_closed());
        assert_eq!(sender.push(1, &mut Vec::new()), Pushed::Closed);
    }
}
