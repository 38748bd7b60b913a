//! Says who blocks the event loop.
//!
//! A handler that computes without awaiting holds up every other request of its worker. Nothing breaks
//! at once: heartbeats are not the event loop's, and callers ask other workers after a while. So somebody
//! has to say it, and where it happens.
//!
//! This is the one place where a thread of ours takes the interpreter's lock, and it does so only while
//! the event loop stands still.

use crate::home::Home;
use pyo3::prelude::*;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// How often the event loop is asked whether it runs.
const EVERY: Duration = Duration::from_secs(1);

/// How long it may take to answer: pauses of the garbage collector and imports are shorter.
const PATIENCE: Duration = Duration::from_secs(2);

/// Frames that are told, from the innermost outwards: whose code it is, and who called it.
const FRAMES: usize = 4;

/// Watches until its task is cancelled. `thread` is the event loop's.
pub(crate) async fn watch(home: Arc<Home>, thread: u64) {
    // One letter at a time: the next one is posted when this one was read.
    let answered = Arc::new(Notify::new());
    loop {
        sleep(EVERY).await;
        let asked = Instant::now();
        let answer = Arc::clone(&answered);
        home.mailbox.post(Box::new(move |_| answer.notify_one()));
        if timeout(PATIENCE, answered.notified()).await.is_ok() {
            continue;
        }
        let looked = home.runtime.environment().compute(move || place(thread));
        let place = looked.await.unwrap_or_default();
        tracing::warn!(
            place,
            "the event loop stands still and no request goes on: await, or use asyncio.to_thread, \
             where a handler computes"
        );
        answered.notified().await;
        tracing::warn!(
            seconds = asked.elapsed().as_secs_f64(),
            "the event loop goes on"
        );
    }
}

/// Where the thread's Python code is now.
fn place(thread: u64) -> String {
    Python::attach(|py| look(py, thread)).unwrap_or_default()
}

fn look(py: Python<'_>, thread: u64) -> PyResult<String> {
    let frames = py.import("sys")?.call_method0("_current_frames")?;
    let mut frame = frames.get_item(thread)?;
    let mut places = Vec::new();
    while !frame.is_none() && places.len() < FRAMES {
        let code = frame.getattr("f_code")?;
        let file: String = code.getattr("co_filename")?.extract()?;
        let name: String = code.getattr("co_name")?.extract()?;
        let line: Option<u32> = frame.getattr("f_lineno")?.extract()?;
        places.push(format!("{name} ({file}:{})", line.unwrap_or(0)));
        frame = frame.getattr("f_back")?;
    }
    Ok(places.join(", called by "))
}
