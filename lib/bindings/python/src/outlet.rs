//! Items on their way from a Python handler to its caller.
//!
//! The handler's task puts them in, in the event loop's thread; the request plane takes them out, in
//! its own. Neither waits for the other but by being told: the plane by its waker, the handler by a
//! future that it awaits when [`MAX_ITEMS`] are not taken out yet.
//!
//! Invariant: an outlet whose stream is dropped cancels the handler's task, once, unless the answer
//! has ended: at once, or after [`GRACE_SECONDS`] if the handler waits to be told by its context.

use crate::context::Wanted;
use crate::errors::failed;
use crate::home::settle;
use crate::mailbox::Mailbox;
use dynamo_protocols::RequestError;
use futures_core::Stream;
use parking_lot::Mutex;
use pyo3::prelude::*;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// Items that wait for the network before the handler does: a burst of one step, and little enough
/// that a reader that stops holds up its handler soon.
pub(crate) const MAX_ITEMS: usize = 64;

/// How long a handler that is told that nobody waits any more may take to end: engines are asked to
/// abort, and answer within a step.
const GRACE_SECONDS: f64 = 5.0;

/// Shared by a handler's task and the stream of its answer.
pub(crate) struct Outlet<T> {
    mailbox: Arc<Mailbox>,
    wanted: Arc<Wanted>,
    state: Mutex<State<T>>,
}

struct State<T> {
    items: VecDeque<T>,
    end: Option<Result<(), RequestError>>,
    /// Nobody takes items any more.
    is_closed: bool,
    reader: Option<Waker>,
    /// The handler's task.
    task: Option<Py<PyAny>>,
    /// What it waits for while there is no room.
    room: Option<Py<PyAny>>,
}

/// The answer, as the request plane reads it.
pub(crate) struct Answer<T: Send + 'static>(pub(crate) Arc<Outlet<T>>);

impl<T> Outlet<T> {
    pub(crate) fn new(mailbox: Arc<Mailbox>, wanted: Arc<Wanted>) -> Self {
        Self {
            mailbox,
            wanted,
            state: Mutex::new(State {
                items: VecDeque::new(),
                end: None,
                is_closed: false,
                reader: None,
                task: None,
                room: None,
            }),
        }
    }

    /// The task that puts items in. One that nobody waits for any more is cancelled at once.
    pub(crate) fn set_task(&self, py: Python<'_>, task: Py<PyAny>) {
        let mut state = self.state.lock();
        if state.is_closed {
            drop(state);
            self.cancel(py, &task);
        } else {
            state.task = Some(task);
        }
    }

    /// Puts an item in. Whether the handler should wait for room before the next one.
    pub(crate) fn put(&self, item: T) -> bool {
        let mut state = self.state.lock();
        if state.is_closed || state.end.is_some() {
            return false;
        }
        state.items.push_back(item);
        let is_full = state.items.len() >= MAX_ITEMS;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        is_full
    }

    /// Ends the answer; what comes later is left out.
    pub(crate) fn end(&self, end: Result<(), RequestError>) {
        let mut state = self.state.lock();
        state.end.get_or_insert(end);
        state.task = None;
        let reader = state.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// A future of the event loop that is there when there is room.
    pub(crate) fn room<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let future = self.mailbox.event_loop(py).call_method0("create_future")?;
        let mut state = self.state.lock();
        if state.is_closed || state.items.len() < MAX_ITEMS {
            drop(state);
            future.call_method1("set_result", (py.None(),))?;
        } else {
            state.room = Some(future.clone().unbind());
        }
        Ok(future)
    }

    fn cancel(&self, py: Python<'_>, task: &Py<PyAny>) {
        let cancelled = task.getattr(py, "cancel").and_then(|cancel| {
            match self.wanted.is_awaited() {
                true => {
                    let event_loop = self.mailbox.event_loop(py);
                    event_loop.call_method1("call_later", (GRACE_SECONDS, cancel))?;
                }
                false => drop(cancel.call0(py)?),
            }
            Ok(())
        });
        if let Err(error) = cancelled {
            failed(py, &error, "a handler could not be cancelled");
        }
    }

    fn let_in(&self, room: Py<PyAny>) {
        self.mailbox
            .post(Box::new(move |py| settle(room.bind(py), Ok(py.None()))));
    }
}

impl<T: Send + 'static> Stream for Answer<T> {
    type Item = Result<T, RequestError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let outlet = &*self.0;
        let mut state = outlet.state.lock();
        if let Some(item) = state.items.pop_front() {
            let room = match state.items.len() {
                left if left < MAX_ITEMS / 2 => state.room.take(),
                _ => None,
            };
            drop(state);
            if let Some(room) = room {
                outlet.let_in(room);
            }
            return Poll::Ready(Some(Ok(item)));
        }
        match &mut state.end {
            Some(end) => {
                let end = std::mem::replace(end, Ok(()));
                state.is_closed = true;
                Poll::Ready(end.err().map(Err))
            }
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T: Send + 'static> Drop for Answer<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let was_open = !std::mem::replace(&mut state.is_closed, true) && state.end.is_none();
        state.items.clear();
        let (task, room) = (state.task.take(), state.room.take());
        drop(state);
        if was_open {
            self.0.wanted.kill();
        }
        if let Some(room) = room {
            self.0.let_in(room);
        }
        if let Some(task) = task {
            let outlet = Arc::clone(&self.0);
            let letter = move |py: Python<'_>| outlet.cancel(py, &task);
            self.0.mailbox.post(Box::new(letter));
        }
    }
}
