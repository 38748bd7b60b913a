//! One sequence's way from the engine's thread to its consumer.
//!
//! Invariant: the consumer sees a finish reason or exactly one error, then the end. The thread
//! never waits for a consumer: it asks whether there is room and pauses the sequence if not.

use super::inbox::{Shared, lost};
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::{EngineOutput, EngineStream};
use futures_core::Stream;
use parking_lot::Mutex;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// The thread's end.
#[derive(Debug)]
pub(super) struct Link {
    sender: mpsc::Sender<EngineOutput>,
    signals: Arc<Signals>,
}

#[derive(Debug, Default)]
struct Signals {
    /// The thread waits for room.
    paused: AtomicBool,
    /// The error that ends the stream; beside the channel, because that may be full.
    error: Mutex<Option<RequestError>>,
}

/// The consumer's end.
#[derive(Debug)]
struct OutputStream {
    receiver: mpsc::Receiver<EngineOutput>,
    signals: Arc<Signals>,
    shared: Arc<Shared>,
    finished: bool,
}

/// Both ends.
pub(super) fn pair(
    sender: mpsc::Sender<EngineOutput>,
    receiver: mpsc::Receiver<EngineOutput>,
    shared: &Arc<Shared>,
) -> (Link, EngineStream) {
    let signals = Arc::new(Signals::default());
    let link = Link {
        sender,
        signals: Arc::clone(&signals),
    };
    let stream = OutputStream {
        receiver,
        signals,
        shared: Arc::clone(shared),
        finished: false,
    };
    (link, Box::pin(stream))
}

/// A stream of one output.
pub(super) fn finished(output: EngineOutput) -> EngineStream {
    Box::pin(futures_util::stream::iter([Ok(output)]))
}

impl Link {
    /// Whether the consumer is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether there is no room; if so, the consumer wakes the thread when there is.
    pub(super) fn is_full(&self) -> bool {
        if self.sender.capacity() > 0 {
            return false;
        }
        self.signals.paused.store(true, Ordering::SeqCst);
        // The consumer may have read everything before it could see the flag.
        let full = self.sender.capacity() == 0;
        if !full {
            self.signals.paused.store(false, Ordering::SeqCst);
        }
        full
    }

    /// Sends an output; there is room, because only the thread sends.
    pub(super) fn send(&self, output: EngineOutput) {
        // A consumer that has just gone is noticed before the next step.
        drop(self.sender.try_send(output));
    }

    /// Ends the stream with an error.
    pub(super) fn fail(self, error: RequestError) {
        *self.signals.error.lock() = Some(error);
    }
}

impl Stream for OutputStream {
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.finished {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(self.receiver.poll_recv(cx));
        let item = if let Some(output) = item {
            self.finished = output.finish_reason.is_some();
            if self.signals.paused.swap(false, Ordering::SeqCst) {
                self.shared.wake();
            }
            Ok(output)
        } else {
            self.finished = true;
            Err(self.signals.error.lock().take().unwrap_or_else(lost))
        };
        Poll::Ready(Some(item))
    }
}

impl Drop for OutputStream {
    fn drop(&mut self) {
        self.receiver.close();
        if !self.finished {
            self.shared.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_protocols::ErrorCode;
    use dynamo_protocols::engine::FinishReason;
    use futures_util::{FutureExt, StreamExt};

    fn ends(capacity: usize) -> (Link, EngineStream) {
        let (sender, receiver) = mpsc::channel(capacity);
        pair(sender, receiver, &Arc::new(Shared::new()))
    }

    #[test]
    fn a_finish_reason_ends_the_stream() {
        let (link, mut stream) = ends(2);
        link.send(EngineOutput {
            finish_reason: Some(FinishReason::Length),
            ..EngineOutput::default()
        });
        assert!(stream.next().now_or_never().unwrap().unwrap().is_ok());
        assert!(stream.next().now_or_never().unwrap().is_none());
    }

    #[test]
    fn an_error_reaches_a_consumer_that_lags_and_comes_last() {
        let (link, mut stream) = ends(1);
        link.send(EngineOutput::default());
        assert!(link.is_full());
        link.fail(RequestError::new(ErrorCode::EngineFailed, "broken"));
        assert!(stream.next().now_or_never().unwrap().unwrap().is_ok());
        let error = stream.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert_eq!(error.message, "broken");
        assert!(stream.next().now_or_never().unwrap().is_none());
    }

    #[test]
    fn an_end_without_a_word_is_an_error() {
        let (link, mut stream) = ends(1);
        drop(link);
        let error = stream.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert_eq!(error.code, ErrorCode::EngineFailed);
    }

    #[test]
    fn dropping_the_stream_closes_the_link() {
        let (link, stream) = ends(1);
        drop(stream);
        assert!(link.is_closed());
    }
}
