//! An answer that tells the router how far it is: its first token, each block that it fills, its
//! end, and what the engine found in its cache.
//!
//! Invariant: the booking ends with the answer, whichever way that ends, and with its drop at the
//! latest. Until the first item the call may be sent elsewhere, and is booked there: only then the
//! booking is this answer's.

use crate::call::RoutedCall;
use crate::router::Shared;
use dynamo_kv_router::decision_log::{End, Outcome};
use dynamo_kv_router::router::Ticket;
use dynamo_protocols::RequestError;
use dynamo_protocols::engine::EngineOutput;
use futures_core::Stream;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// See the module's description.
pub struct Accounted<S> {
    answer: S,
    shared: Arc<Shared>,
    /// The call, until a worker has taken it.
    call: Option<RoutedCall>,
    /// `None` before that, and once the router has been told the end.
    ticket: Option<Ticket>,
    generated: u32,
    /// Generated tokens at which the next block is full.
    next_block: u32,
    cached_tokens: Option<u64>,
}

impl<S> fmt::Debug for Accounted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounted")
            .field("generated", &self.generated)
            .finish_non_exhaustive()
    }
}

impl<S> Accounted<S> {
    pub(crate) fn new(answer: S, shared: Arc<Shared>, call: RoutedCall) -> Self {
        Self {
            answer,
            shared,
            call: Some(call),
            ticket: None,
            generated: 0,
            next_block: u32::MAX,
            cached_tokens: None,
        }
    }

    /// The answer has begun, or never will: it goes nowhere else any more.
    fn settle(&mut self) {
        let Some(call) = self.call.take() else { return };
        self.ticket = call.take_ticket();
        let block_size = self.shared.block_size().get();
        let tokens = self.ticket.map_or(0, |ticket| ticket.isl_tokens);
        let filled = tokens % u64::from(block_size);
        self.next_block = block_size - u32::try_from(filled).unwrap_or(0);
    }

    fn progress(&mut self, output: &EngineOutput) {
        self.settle();
        if let Some(cached) = output.cached_tokens {
            self.cached_tokens = Some(u64::from(cached));
        }
        let Some(ticket) = &self.ticket else { return };
        let new = u32::try_from(output.token_ids.len()).unwrap_or(u32::MAX);
        let before = self.generated;
        self.generated = before.saturating_add(new);
        if before == 0 && new > 0 {
            self.shared.first_token(ticket);
        }
        while self.generated >= self.next_block {
            self.shared.block_filled(ticket, self.next_block);
            let next = self.next_block.checked_add(self.shared.block_size().get());
            let Some(next) = next else { return };
            self.next_block = next;
        }
        if output.finish_reason.is_some() {
            self.end(End::Finished);
        }
    }

    fn end(&mut self, end: End) {
        self.settle();
        if let Some(ticket) = self.ticket.take() {
            let outcome = Outcome {
                cached_tokens: self.cached_tokens,
                output_tokens: self.generated,
                end,
            };
            self.shared.end(&ticket, outcome);
        }
    }
}

impl<S> Stream for Accounted<S>
where
    S: Stream<Item = Result<EngineOutput, RequestError>> + Unpin,
{
    type Item = Result<EngineOutput, RequestError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = Pin::new(&mut self.answer).poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(output))) => self.progress(output),
            Poll::Ready(Some(Err(_)) | None) => self.end(End::Failed),
            Poll::Pending => {}
        }
        next
    }
}

impl<S> Drop for Accounted<S> {
    fn drop(&mut self) {
        self.end(End::Cancelled);
    }
}
