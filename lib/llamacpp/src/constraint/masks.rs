//! The thread that works out what may come next, while llama.cpp computes the token before it.
//!
//! Most masks take less time than a step. One that does not is waited for by its own sequence
//! alone: the engine's thread keeps its logits and goes on with the others.

use super::Matching;
use crate::error::LoadError;
use crate::scheduler::SequenceId;
use dynamo_protocols::RequestError;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Masks on their way to the thread, and as many on their way back. The engine's thread asks once
/// per running sequence (120 at most) between two looks at what has come back, so that neither
/// thread ever waits for the other one with both ways full.
const CAPACITY: usize = 256;

/// A constraint whose mask is there, or why there is none.
type Done = (SequenceId, Result<Box<Matching>, RequestError>);

/// See the module's description.
#[derive(Debug)]
pub(crate) struct Masks {
    asked: Option<SyncSender<(SequenceId, Box<Matching>)>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Masks {
    /// Starts the thread, which calls `wake` after each mask.
    pub(crate) fn start(wake: impl Fn() + Send + 'static) -> Result<Self, LoadError> {
        let (asked, asks) = sync_channel::<(SequenceId, Box<Matching>)>(CAPACITY);
        let (sender, done) = sync_channel(CAPACITY);
        let thread = std::thread::Builder::new()
            .name("llamacpp-masks".into())
            .spawn(move || {
                for (id, mut matching) in asks {
                    let worked_out = matching.work_out().map(|()| matching);
                    if sender.send((id, worked_out)).is_err() {
                        return;
                    }
                    wake();
                }
            })
            .map_err(|error| LoadError::Thread(error.to_string()))?;
        Ok(Self {
            asked: Some(asked),
            done,
            thread: Some(thread),
        })
    }

    /// Asks for a sequence's next mask.
    pub(crate) fn ask(&self, id: SequenceId, matching: Box<Matching>) {
        if let Some(asked) = &self.asked {
            // The thread ends after this value only.
            drop(asked.send((id, matching)));
        }
    }

    /// A mask that is there, if there is one.
    pub(crate) fn take(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

impl Drop for Masks {
    fn drop(&mut self) {
        self.asked = None;
        // Room for what is still being worked out, so that the thread gets to its end.
        while self.done.try_recv().is_ok() {}
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
