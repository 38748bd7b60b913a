//! From any thread to a Python event loop, without the interpreter's lock.
//!
//! Threads of the async runtime leave letters and ring a bell: a byte in a socket that the event
//! loop watches. The loop reads all letters of a ring at once, in its own thread, where it has the
//! lock anyway. So no thread of ours ever waits for the interpreter, and a loop that stands still
//! holds up only its own work.
//!
//! Invariants
//! - a letter that was posted is read, unless the loop ends before
//! - the bell is rung once for all letters that are posted before the loop looks
//!
//! Letters are bounded by what they are about: a stream, a call or a future has one under way.

use parking_lot::Mutex;
use pyo3::prelude::*;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the event loop is to do.
pub(crate) type Letter = Box<dyn FnOnce(Python<'_>) + Send>;

/// Bytes read from the bell at once: each ring is one byte, and more than a few never gather.
const RINGS: usize = 64;

/// A loop's letters.
pub(crate) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    is_rung: AtomicBool,
    bell: UnixStream,
    ear: UnixStream,
    event_loop: Py<PyAny>,
}

/// What the event loop calls when the bell rings.
#[pyclass(frozen, module = "dynamo._core")]
struct Postman(Arc<Mailbox>);

impl Mailbox {
    /// A mailbox that the event loop watches from now on. Within the loop's thread.
    pub(crate) fn open(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Self>> {
        let (bell, ear) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        ear.set_nonblocking(true)?;
        let mailbox = Arc::new(Self {
            letters: Mutex::default(),
            is_rung: AtomicBool::new(false),
            event_loop: event_loop.clone().unbind(),
            bell,
            ear,
        });
        let postman = Postman(Arc::clone(&mailbox));
        event_loop.call_method1("add_reader", (mailbox.ear.as_raw_fd(), postman))?;
        Ok(mailbox)
    }

    /// The loop that reads it.
    pub(crate) fn event_loop<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.event_loop.bind(py)
    }

    /// Leaves a letter. From any thread, with or without the interpreter's lock.
    pub(crate) fn post(&self, letter: Letter) {
        self.letters.lock().push(letter);
        if !self.is_rung.swap(true, Ordering::AcqRel)
            && let Err(error) = (&self.bell).write(&[1])
            && error.kind() != io::ErrorKind::WouldBlock
        {
            // The loop is gone, and nobody waits for what it would have done.
            tracing::debug!(%error, "an event loop has ended");
        }
    }

    /// The loop looks at it no more.
    pub(crate) fn close(&self, py: Python<'_>) {
        let event_loop = self.event_loop.bind(py);
        if let Err(error) = event_loop.call_method1("remove_reader", (self.ear.as_raw_fd(),)) {
            tracing::debug!(%error, "an event loop has ended before its runtime");
        }
        self.letters.lock().clear();
    }

    fn read(&self, py: Python<'_>) {
        let mut rings = [0; RINGS];
        // Nothing to read is no error: the letters are what counts.
        while matches!((&self.ear).read(&mut rings), Ok(RINGS)) {}
        // Before the letters are taken: one that is posted from now on rings again.
        self.is_rung.store(false, Ordering::Release);
        let letters = std::mem::take(&mut *self.letters.lock());
        for letter in letters {
            letter(py);
        }
    }
}

#[pymethods]
impl Postman {
    fn __call__(&self, py: Python<'_>) {
        self.0.read(py);
    }
}
